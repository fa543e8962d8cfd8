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
    /// Node's own cluster with this `NODE_CLUSTER_SCHED_POLICY`.
    Node { scheduling: &'static str },
    /// `worksong run` with this `--policy`.
    Worksong { policy: &'static str, worker: Worker },
    /// A Rust program with the `worksong` crate, which is its own primary.
    Library { arguments: &'static [&'static str] },
    /// nginx in front of Node servers that each have a port.
    Nginx,
}

#[derive(Debug)]
enum Worker {
    /// The same file as under Node's cluster.
    Node,
    /// The same without worksong's agent in it, which answers pings.
    NodeWithoutAgent,
    /// A Rust program that answers the same.
    Rust,
}

/// What Node workers run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Script {
    /// The smallest server there is.
    Hello,
    /// One that can also be blocked, take its time, and receive uploads.
    Busy,
}

impl Script {
    fn file(self) -> &'static str {
        match self {
            Self::Hello => "hello.js",
            Self::Busy => "busy.js",
        }
    }
}

/// Every system that can be asked for; the first is what the others are compared with.
pub(crate) static ALL: [System; 16] = [
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
        name: "worksong-least",
        title: "worksong least, Node workers",
        primary: Primary::Worksong { policy: "least", worker: Worker::Node },
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
        name: "worksong-kernel-no-agent",
        title: "worksong kernel, Node workers without the agent",
        primary: Primary::Worksong { policy: "kernel", worker: Worker::NodeWithoutAgent },
    },
    System {
        name: "worksong-kernel-random",
        title: "worksong kernel:random, Node workers",
        primary: Primary::Worksong { policy: "kernel:random", worker: Worker::Node },
    },
    System {
        name: "worksong-sticky",
        title: "worksong sticky:cookie, Node workers",
        primary: Primary::Worksong { policy: "sticky:cookie:sid", worker: Worker::Node },
    },
    System {
        name: "worksong-sticky-query",
        title: "worksong sticky:query, Node workers",
        primary: Primary::Worksong { policy: "sticky:query:sid", worker: Worker::Node },
    },
    System {
        name: "worksong-sticky-ip",
        title: "worksong sticky:ip, Node workers",
        primary: Primary::Worksong { policy: "sticky:ip", worker: Worker::Node },
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
    System {
        name: "worksong-library",
        title: "worksong library",
        primary: Primary::Library { arguments: &[] },
    },
    System {
        name: "worksong-library-stalled",
        title: "worksong library, its main thread blocked 1 s in every 2 s",
        primary: Primary::Library { arguments: &["--stall"] },
    },
    System { name: "nginx", title: "nginx least_conn, a Node server on each port", primary: Primary::Nginx },
];

/// The library program whose workers answer with their slot, and whose connections go by their key.
pub(crate) static BY_KEY: System = System {
    name: "worksong-library-sticky",
    title: "worksong library, sticky:query",
    primary: Primary::Library { arguments: &["--policy", "sticky:query:sid", "--answer-slot"] },
};

/// Where the programs of the systems are.
#[derive(Clone, Debug)]
pub(crate) struct Programs {
    /// The Node binary.
    pub(crate) node: PathBuf,
    /// The `worksong` binary.
    pub(crate) worksong: PathBuf,
    /// A Rust worker program that answers as `hello.js` does.
    pub(crate) rust_worker: PathBuf,
    /// A Rust program that is its own primary, and whose workers answer so, too.
    pub(crate) rust_cluster: PathBuf,
    /// The nginx binary.
    pub(crate) nginx: PathBuf,
    /// The folder of `hello.js`, `cluster.js` and the other scripts.
    pub(crate) servers: PathBuf,
}

/// Which output of a primary carries its event lines.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum EventStream {
    /// What `cluster.js`, `behind-nginx.js` and the library program print.
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

    /// Returns true when it takes all connections from one address for those of one user.
    pub(crate) fn goes_by_address(&self) -> bool {
        matches!(self.primary, Primary::Worksong { policy: "sticky:ip" | "kernel:ip", .. })
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
                Worker::Node | Worker::NodeWithoutAgent => None,
                Worker::Rust => absent(&programs.rust_worker, "`--rust-worker PATH` names one"),
            }),
            Primary::Library { .. } => {
                absent(&programs.rust_cluster, "`cargo build --release -p worksong-bench --bins` makes it")
            }
            Primary::Nginx => absent(
                &programs.nginx,
                "`apt install nginx-light` (or your system's nginx) installs it, `--nginx PATH` names another",
            ),
        }
    }

    /// Returns the command that starts the system with this many workers, its event stream piped.
    pub(crate) fn command(&self, programs: &Programs, workers: u32, script: Script) -> Command {
        let script = programs.servers.join(script.file());
        let mut command = match &self.primary {
            Primary::Node { scheduling } => {
                let mut command = Command::new(&programs.node);
                command.arg(programs.servers.join("cluster.js")).arg(workers.to_string()).arg(script);
                command.env("NODE_CLUSTER_SCHED_POLICY", scheduling);
                command
            }
            Primary::Worksong { policy, worker } => {
                let mut command = Command::new(&programs.worksong);
                command.args(["run", "--json", "--policy", policy, "-i", &workers.to_string()]);
                command.env_remove("NODE_CLUSTER_SCHED_POLICY");
                match worker {
                    Worker::Node => command.arg(script),
                    Worker::NodeWithoutAgent => command.arg("--no-agent").arg(script),
                    Worker::Rust => command.arg(&programs.rust_worker),
                };
                command
            }
            Primary::Library { arguments } => {
                let mut command = Command::new(&programs.rust_cluster);
                command.args(["--workers", &workers.to_string()]).args(*arguments);
                command
            }
            Primary::Nginx => {
                let mut command = Command::new(&programs.node);
                command.arg(programs.servers.join("behind-nginx.js"));
                command.arg(workers.to_string()).arg(script).arg(&programs.nginx);
                command
            }
        };
        match self.event_stream() {
            EventStream::Stdout => command.stdout(Stdio::piped()).stderr(Stdio::inherit()),
            EventStream::Stderr => command.stdout(Stdio::null()).stderr(Stdio::piped()),
        };
        match self.primary {
            // It is told what to do on its standard input.
            Primary::Library { .. } => command.stdin(Stdio::piped()),
            Primary::Node { .. } | Primary::Worksong { .. } | Primary::Nginx => command.stdin(Stdio::null()),
        };
        command.env_remove("NODE_OPTIONS").env("NODE_ENV", "production");
        command
    }

    /// Returns where the event lines come from.
    pub(crate) fn event_stream(&self) -> EventStream {
        match self.primary {
            Primary::Node { .. } | Primary::Library { .. } | Primary::Nginx => EventStream::Stdout,
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
        assert!(System::named("apache").is_none());
    }

    #[test]
    fn an_absent_binary_is_a_reason_with_a_remedy() {
        let nowhere = PathBuf::from("/nonexistent/program");
        let programs = Programs {
            node: "node".into(),
            worksong: nowhere.clone(),
            rust_worker: nowhere.clone(),
            rust_cluster: nowhere.clone(),
            nginx: nowhere,
            servers: PathBuf::new(),
        };
        assert_eq!(System::named("node-rr").unwrap().missing(&programs), None);
        let reason = System::named("worksong").unwrap().missing(&programs).unwrap();
        assert!(reason.contains("/nonexistent/program") && reason.contains("cargo build"), "{reason}");
        let reason = System::named("nginx").unwrap().missing(&programs).unwrap();
        assert!(reason.contains("apt install nginx"), "{reason}");
    }
}
