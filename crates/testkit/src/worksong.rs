//! The worksong binary in a world of its own.

use std::collections::BTreeSet;
use std::env;
use std::ffi::{OsStr, OsString};
use std::os::fd::OwnedFd;
use std::os::unix::fs::symlink;
use std::path::PathBuf;
use std::process::{Command, ExitStatus, Stdio};
use std::thread;
use std::time::Duration;

use rustix::process::Signal;

use crate::event::{Event, Output};
use crate::folder::Folder;
use crate::paths::{NODE_VERSIONS, binary, checkout, fixture, node};
use crate::patience::{patience, within};
use crate::process::Process;
use crate::running::{Line, Running, Stream};

/// How the worksong binary will be started.
#[derive(Debug)]
pub struct Launch {
    binary: Option<PathBuf>,
    node_version: String,
    arguments: Vec<OsString>,
    environment: Vec<(OsString, OsString)>,
    cwd: Option<PathBuf>,
    stdin: Option<OwnedFd>,
    shell: Option<String>,
    home: Folder,
}

impl Launch {
    fn new(arguments: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Self {
        let newest = NODE_VERSIONS[NODE_VERSIONS.len() - 1];
        Self {
            binary: None,
            node_version: newest.to_owned(),
            arguments: Vec::new(),
            environment: Vec::new(),
            cwd: None,
            stdin: None,
            shell: None,
            home: Folder::new(),
        }
        .args(arguments)
    }

    /// Adds the program to run, such as a [`fixture`](crate::fixture()).
    #[must_use]
    pub fn program(self, program: impl AsRef<OsStr>) -> Self {
        self.args([program])
    }

    /// Adds arguments.
    #[must_use]
    pub fn args(mut self, arguments: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Self {
        self.arguments.extend(arguments.into_iter().map(|argument| argument.as_ref().to_owned()));
        self
    }

    /// Sets a variable in the otherwise empty environment.
    #[must_use]
    pub fn env(mut self, name: impl AsRef<OsStr>, value: impl AsRef<OsStr>) -> Self {
        self.environment.push((name.as_ref().to_owned(), value.as_ref().to_owned()));
        self
    }

    /// Makes `node` mean another version than the newest.
    #[must_use]
    pub fn node(mut self, version: &str) -> Self {
        version.clone_into(&mut self.node_version);
        self
    }

    /// Sets the working directory; it is the home otherwise.
    #[must_use]
    pub fn cwd(mut self, folder: impl Into<PathBuf>) -> Self {
        self.cwd = Some(folder.into());
        self
    }

    /// Starts another executable in place of the worksong binary, such as a program that uses the library.
    #[must_use]
    pub fn binary(mut self, path: impl Into<PathBuf>) -> Self {
        self.binary = Some(path.into());
        self
    }

    /// Gives it an open descriptor as its standard input; that is empty otherwise.
    #[must_use]
    pub fn stdin(mut self, descriptor: OwnedFd) -> Self {
        self.stdin = Some(descriptor);
        self
    }

    /// Lets the shell change what a process hands down before it becomes the primary, as `umask 077` or
    /// `ulimit -n 40` do.
    #[must_use]
    pub fn after(mut self, shell: &str) -> Self {
        self.shell = Some(shell.to_owned());
        self
    }

    /// Starts it.
    #[must_use = "dropping it kills the primary"]
    #[track_caller]
    pub fn start(self) -> Worksong {
        let mut command = self.command();
        command.stdin(self.stdin.map_or_else(Stdio::null, Stdio::from));
        Worksong { running: Running::start(&mut command, Entry::read), home: self.home, grace: patience() }
    }

    /// Runs it to its end, for what is not a server: `--help`, wrong use. Returns its status with all that it wrote.
    #[must_use]
    #[track_caller]
    pub fn finish(self) -> (ExitStatus, Vec<Line>) {
        let worksong = self.start();
        let status = worksong.wait_exit();
        (status, worksong.lines())
    }

    fn command(&self) -> Command {
        let home = &self.home;
        let binary = self.binary.clone().unwrap_or_else(|| binary("worksong"));
        let mut command = match &self.shell {
            None => Command::new(binary),
            Some(shell) => {
                let mut command = Command::new("/bin/sh");
                command.arg("-c").arg(format!("{shell} && exec \"$0\" \"$@\"")).arg(binary);
                command
            }
        };
        command
            .args(&self.arguments)
            .current_dir(self.cwd.as_deref().unwrap_or(home.path()))
            .env_clear()
            .env("HOME", home.path())
            .env("XDG_CACHE_HOME", home.make("cache"))
            .env("XDG_CONFIG_HOME", home.make("config"))
            .env("XDG_RUNTIME_DIR", home.make("runtime"))
            .env("XDG_STATE_HOME", home.make("state"))
            .env("LANG", "C.UTF-8")
            .env("NO_COLOR", "1")
            .env("PATH", self.search_path());
        command.envs(self.environment.iter().map(|(name, value)| (name, value)));
        command
    }

    /// The prepared runtimes by their usual names, the Python environment, then the system.
    fn search_path(&self) -> OsString {
        let apps = checkout().join("apps");
        let bin = self.home.make("bin");
        let node = format!("node-{}", self.node_version);
        for (name, runtime) in [("node", node.as_str()), ("deno", "deno"), ("bun", "bun")] {
            let executable = apps.join("runtimes/bin").join(runtime);
            if executable.exists() {
                symlink(executable, bin.join(name)).expect("a fresh folder takes a link");
            }
        }
        let system = ["/usr/local/bin", "/usr/bin", "/bin"].map(PathBuf::from);
        let folders = [bin, apps.join("python/.venv/bin")].into_iter().chain(system);
        env::join_paths(folders).expect("no folder of the search path contains a colon")
    }
}

/// A running worksong primary with its workers.
///
/// Dropping it kills the primary without a warning, and the test fails when a worker outlives it.
#[derive(Debug)]
pub struct Worksong {
    running: Running<Entry>,
    home: Folder,
    /// How long workers may outlive a killed primary.
    grace: Duration,
}

/// A line that the primary wrote, as what it is.
#[derive(Clone, Debug)]
enum Entry {
    /// An event, with its worker's process when the event is about the start of one.
    Event(Event, Option<Process>),
    Output(Output),
    /// Neither; it is in the log that a failed test prints.
    Other,
}

impl Entry {
    fn read(line: &Line) -> Self {
        match line.stream {
            Stream::Stderr => Event::parse(&line.text).map_or(Self::Other, |event| {
                let started = (event.name() == "forked").then(|| Process::find(event.pid())).flatten();
                Self::Event(event, started)
            }),
            Stream::Stdout => Output::parse(&line.text).map_or(Self::Other, Self::Output),
        }
    }

    fn event(&self) -> Option<&Event> {
        match self {
            Self::Event(event, _) => Some(event),
            Self::Output(_) | Self::Other => None,
        }
    }

    fn output(&self) -> Option<&Output> {
        match self {
            Self::Output(output) => Some(output),
            Self::Event(..) | Self::Other => None,
        }
    }
}

impl Worksong {
    /// Prepares `worksong run --json` with further arguments.
    #[must_use]
    pub fn run(arguments: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Launch {
        Launch::new(["run", "--json"]).args(arguments)
    }

    /// Prepares `worksong` with exactly these arguments.
    #[must_use]
    pub fn with(arguments: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Launch {
        Launch::new(arguments)
    }

    /// Prepares Node's own cluster primary with so many workers, to see what Node does where we do the same.
    ///
    /// It takes the program with its arguments, and says the same events as worksong as far as Node has them; a worker
    /// that ends is replaced at once.
    #[must_use]
    pub fn reference(node_version: &str, workers: usize) -> Launch {
        Launch::new([fixture("node/primary.js")])
            .args([workers.to_string()])
            .binary(node(node_version))
            .node(node_version)
    }

    /// Returns the pid of the primary.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.running.pid()
    }

    /// Returns its home, which is also its working directory unless another was set.
    #[must_use]
    pub fn home(&self) -> &Folder {
        &self.home
    }

    /// Waits for the first event of this name that the predicate takes, looking also at all that were there before.
    #[track_caller]
    pub fn wait_event(&self, name: &str, predicate: impl FnMut(&Event) -> bool) -> Event {
        self.wait_event_within(patience(), name, predicate)
    }

    /// Does as [`wait_event`](Self::wait_event) with another patience.
    #[track_caller]
    pub fn wait_event_within(
        &self,
        patience: Duration,
        name: &str,
        mut predicate: impl FnMut(&Event) -> bool,
    ) -> Event {
        self.running.wait(&format!("an event {name}"), patience, |entries| {
            let mut events = entries.iter().filter_map(Entry::event);
            events.find(|event| event.name() == name && predicate(event)).cloned()
        })
    }

    /// Waits for the first line of a worker that `find` has an answer for.
    #[track_caller]
    pub fn wait_output<T>(&self, what: &str, mut find: impl FnMut(&Output) -> Option<T>) -> T {
        self.running
            .wait(what, patience(), |entries| entries.iter().filter_map(Entry::output).find_map(&mut find))
    }

    /// Waits until so many workers are ready and alive by the latest event, and returns their pids.
    #[track_caller]
    pub fn wait_ready(&self, count: usize) -> BTreeSet<u32> {
        let mut ready = BTreeSet::new();
        self.running.wait(&format!("{count} ready workers"), patience(), |entries| {
            for event in entries.iter().filter_map(Entry::event) {
                match event.name() {
                    "ready" => drop(ready.insert(event.pid())),
                    "draining" | "exit" => drop(ready.remove(&event.pid())),
                    _ => {}
                }
            }
            (ready.len() >= count).then(|| ready.clone())
        })
    }

    /// Waits for the first listening worker and returns its port.
    #[track_caller]
    pub fn listening_port(&self) -> u16 {
        let event = self.wait_event("listening", |event| event.has("port"));
        event["port"].as_u64().and_then(|port| u16::try_from(port).ok()).expect("a port is a u16")
    }

    /// Returns all events until now.
    #[must_use]
    pub fn events(&self) -> Vec<Event> {
        self.running.entries().iter().filter_map(Entry::event).cloned().collect()
    }

    /// Returns all lines of workers until now.
    #[must_use]
    pub fn output(&self) -> Vec<Output> {
        self.running.entries().iter().filter_map(Entry::output).cloned().collect()
    }

    /// Returns everything that the primary wrote until now, as it is.
    #[must_use]
    pub fn lines(&self) -> Vec<Line> {
        self.running.lines()
    }

    /// Returns the pids of the workers that were started and have not ended by the latest event.
    #[must_use]
    pub fn worker_pids(&self) -> BTreeSet<u32> {
        let mut pids = BTreeSet::new();
        for event in self.events() {
            match event.name() {
                "forked" => drop(pids.insert(event.pid())),
                "exit" => drop(pids.remove(&event.pid())),
                _ => {}
            }
        }
        pids
    }

    /// Sends the primary a signal.
    #[track_caller]
    pub fn signal(&self, signal: Signal) {
        self.running.signal(signal);
    }

    /// Waits for the end of the primary.
    #[track_caller]
    pub fn wait_exit(&self) -> ExitStatus {
        self.running.wait_exit()
    }

    /// Returns the pids of the workers that still run, after giving them time to end.
    fn outliving_workers(&self) -> Vec<u32> {
        let started = |entry: &Entry| match entry {
            Entry::Event(_, started) => *started,
            Entry::Output(_) | Entry::Other => None,
        };
        let mut workers: Vec<Process> = self.running.entries().iter().filter_map(started).collect();
        within(self.grace, || {
            workers.retain(|worker| worker.is_alive());
            workers.is_empty().then_some(())
        });
        workers.into_iter().map(Process::pid).collect()
    }
}

impl Drop for Worksong {
    fn drop(&mut self) {
        self.running.kill();
        // What workers started themselves is ended without a word: only the tests of whole process trees judge it.
        let outliving = self.outliving_workers();
        if !thread::panicking() {
            assert!(outliving.is_empty(), "workers outlived the primary: {outliving:?}");
        }
    }
}

#[cfg(test)]
mod tests;
