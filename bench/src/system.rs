//! The systems that are compared, as one table: how each is started and what its workers are.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// One way to run N workers on one port.
#[derive(Debug)]
pub(crate) struct System {
    /// What is typed after `--systems`.
    pub(crate) name: &'static str,
    /// What stands in the tables.
    pub(crate) title: &'static str,
    primary: Primary,
}

/// What starts the workers and owns the socket.
#[derive(Debug)]
enum Primary {
    /// Node's own cluster with this `NODE_CLUSTER_SCHED_POLICY`; its workers run `hello.js`.
    Node { scheduling: &'static str },
    /// `worksong run` with this `--policy`.
    Worksong { policy: &'static str, worker: Worker },
}

#[derive(Debug)]
enum Worker {
    /// `hello.js`, the same file as under Node's cluster.
    Node,
    /// A Rust program that answers the same.
    Rust,
}

/// Every system; the first is what the others are compared with.
pub(crate) static ALL: [System; 7] = [
    System {
        name: "node-rr",
        title: "Node cluster, round-robin",
        primary: Primary::Node { scheduling: "rr" },
    },
    System { name: "node-none", title: "Node cluster, none", primary: Primary::Node { scheduling: "none" } },
    System {
        name: "worksong",
        title: "worksong, Node workers",
        primary: Primary::Worksong { policy: "round-robin", worker: Worker::Node },
    },
    System {
        name: "worksong-shared",
        title: "worksong shared, Node workers",
        primary: Primary::Worksong { policy: "shared", worker: Worker::Node },
    },
    System {
        name: "worksong-kernel",
        title: "worksong kernel, Node workers",
        primary: Primary::Worksong { policy: "kernel", worker: Worker::Node },
    },
    System {
        name: "worksong-rust",
        title: "worksong, Rust workers",
        primary: Primary::Worksong { policy: "round-robin", worker: Worker::Rust },
    },
    System {
        name: "worksong-rust-kernel",
        title: "worksong kernel, Rust workers",
        primary: Primary::Worksong { policy: "kernel", worker: Worker::Rust },
    },
];

/// Where the programs of the systems are.
#[derive(Clone, Debug)]
pub(crate) struct Programs {
    /// The Node binary.
    pub(crate) node: PathBuf,
    /// The `worksong` binary.
    pub(crate) worksong: PathBuf,
    /// A Rust worker program that answers as `hello.js` does.
    pub(crate) rust_worker: PathBuf,
    /// The folder of `hello.js` and `cluster.js`.
    pub(crate) servers: PathBuf,
}

/// Which output of a primary carries its event lines.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum EventStream {
    /// What `cluster.js` prints.
    Stdout,
    /// What `worksong run --json` reports.
    Stderr,
}

impl System {
    /// Returns the system of this name.
    pub(crate) fn named(name: &str) -> Option<&'static Self> {
        ALL.iter().find(|system| system.name == name)
    }

    /// Returns true for the system that the others are compared with.
    pub(crate) fn is_baseline(&self) -> bool {
        self.name == ALL[0].name
    }

    /// Returns why the system cannot run here, `None` when it can.
    pub(crate) fn missing(&self, programs: &Programs) -> Option<String> {
        let absent = |path: &Path, remedy: &str| {
            (!path.is_file()).then(|| format!("{} does not exist; {remedy}", path.display()))
        };
        match &self.primary {
            Primary::Node { .. } => None,
            Primary::Worksong { worker, .. } => absent(
                &programs.worksong,
                "`cargo build --release -p worksong-cli` makes it, `--worksong PATH` names another",
            )
            .or_else(|| match worker {
                Worker::Node => None,
                Worker::Rust => absent(&programs.rust_worker, "`--rust-worker PATH` names one"),
            }),
        }
    }

    /// Returns the command that starts the system with this many workers, its event stream piped.
    pub(crate) fn command(&self, programs: &Programs, workers: u32) -> Command {
        let mut command = match &self.primary {
            Primary::Node { scheduling } => {
                let mut command = Command::new(&programs.node);
                command.arg(programs.servers.join("cluster.js")).arg(workers.to_string());
                command.env("NODE_CLUSTER_SCHED_POLICY", scheduling);
                command
            }
            Primary::Worksong { policy, worker } => {
                let mut command = Command::new(&programs.worksong);
                command.args(["run", "--json", "--policy", policy, "-i", &workers.to_string()]);
                command.env_remove("NODE_CLUSTER_SCHED_POLICY");
                match worker {
                    Worker::Node => command.arg(programs.servers.join("hello.js")),
                    Worker::Rust => command.arg(&programs.rust_worker),
                };
                command
            }
        };
        match self.event_stream() {
            EventStream::Stdout => command.stdout(Stdio::piped()).stderr(Stdio::inherit()),
            EventStream::Stderr => command.stdout(Stdio::null()).stderr(Stdio::piped()),
        };
        command.stdin(Stdio::null()).env_remove("NODE_OPTIONS").env("NODE_ENV", "production");
        command
    }

    /// Returns where the event lines come from.
    pub(crate) fn event_stream(&self) -> EventStream {
        match self.primary {
            Primary::Node { .. } => EventStream::Stdout,
            Primary::Worksong { .. } => EventStream::Stderr,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique_and_found() {
        for system in &ALL {
            assert!(std::ptr::eq(System::named(system.name).unwrap(), system), "{}", system.name);
        }
        assert!(System::named("nginx").is_none());
    }

    #[test]
    fn an_absent_binary_is_a_reason_with_a_remedy() {
        let nowhere = PathBuf::from("/nonexistent/program");
        let programs = Programs {
            node: "node".into(),
            worksong: nowhere.clone(),
            rust_worker: nowhere,
            servers: PathBuf::new(),
        };
        assert_eq!(System::named("node-rr").unwrap().missing(&programs), None);
        let reason = System::named("worksong").unwrap().missing(&programs).unwrap();
        assert!(reason.contains("/nonexistent/program") && reason.contains("cargo build"), "{reason}");
    }
}
