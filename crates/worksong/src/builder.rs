//! What a cluster is to be.

use std::fmt;
use std::time::Duration;

use worksong_engine::cores::usable_cores;
use worksong_engine::engine::Orphans;
use worksong_engine::event::Record;
use worksong_engine::spec::{
    AppSpec, CaptureAddress, Deadlines, Dialect, ListenAddress, OpenLimits, Policies, Policy, Ready,
    RecycleLimits, Replacement, RestartPolicy, StopSignal,
};
use worksong_worker::{BoxError, Options, Worker};

use crate::cluster::{Cluster, FromWorker};
use crate::error::{Error, Result};
use crate::{executable, primary};

/// How many workers a cluster has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Workers {
    /// One for each core that this process may use: by CPU affinity and by the container's quota.
    #[default]
    Cores,
    /// This many, at least one.
    Exactly(usize),
}

impl From<usize> for Workers {
    fn from(count: usize) -> Self {
        Self::Exactly(count)
    }
}

impl Workers {
    fn resolve(self) -> u32 {
        match self {
            Self::Cores => usable_cores(),
            Self::Exactly(count) => u32::try_from(count).unwrap_or(u32::MAX).max(1),
        }
    }
}

/// Describes a cluster; [`run`](Self::run) makes it.
///
/// Every setting has a default: `Cluster::builder().run(…)` is enough.
#[derive(Default)]
#[must_use = "a builder does nothing until run() is called"]
pub struct Builder {
    name: Option<String>,
    workers: Workers,
    policies: Policies,
    /// What is taken from workers that bind it by themselves; with no address every TCP port.
    capture: Option<Vec<CaptureAddress>>,
    ready: Ready,
    deadlines: Deadlines,
    stop_signal: StopSignal,
    restart: RestartPolicy,
    replacement: Replacement,
    recycle: RecycleLimits,
    limits: OpenLimits,
    leave_orphans: bool,
    worker: Options,
    hooks: Hooks,
}

/// What the program wants to know in the primary.
#[derive(Default)]
pub(crate) struct Hooks {
    pub(crate) start: Option<StartHook>,
    pub(crate) event: Option<EventHook>,
    pub(crate) message: Option<MessageHook>,
}

type StartHook = Box<dyn FnOnce(&Cluster)>;
type EventHook = Box<dyn FnMut(&Cluster, &Record)>;
type MessageHook = Box<dyn FnMut(FromWorker)>;

impl fmt::Debug for Builder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Builder")
            .field("name", &self.name)
            .field("workers", &self.workers)
            .field("policies", &self.policies)
            .field("capture", &self.capture)
            .field("ready", &self.ready)
            .field("deadlines", &self.deadlines)
            .field("stop_signal", &self.stop_signal)
            .field("restart", &self.restart)
            .field("replacement", &self.replacement)
            .field("recycle", &self.recycle)
            .field("limits", &self.limits)
            .field("leave_orphans", &self.leave_orphans)
            .field("worker", &self.worker)
            .finish_non_exhaustive()
    }
}

impl Builder {
    /// Sets the name that events call the cluster by. Default: the executable's name.
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.name = Some(name.into());
        self
    }

    /// Sets how many workers there are. Default: [`Workers::Cores`].
    pub fn workers(mut self, workers: impl Into<Workers>) -> Self {
        self.workers = workers.into();
        self
    }

    /// Sets how connections find their worker. Default: [`Policy::RoundRobin`], the primary accepts and hands over in turn.
    /// Others can be read from text: `"sticky:cookie:session".parse()?` keeps users at one worker. [`Policy::custom`] is one of
    /// your own: a [`Balance`](crate::balance::Balance), of which `examples/own_policy.rs` has one.
    pub fn policy(mut self, policy: Policy) -> Self {
        self.policies = self.policies.with_default(policy);
        self
    }

    /// Sets how connections of the listeners at an address find their worker: a port on whatever address, a whole address,
    /// or the path of a Unix socket. Default: as [`policy`](Self::policy) says.
    ///
    /// # Examples
    /// ```no_run
    /// # use worksong::{Cluster, Policy, Spread};
    /// # fn main() -> worksong::Result<()> {
    /// Cluster::builder()
    ///     .policy(Policy::Least)
    ///     .policy_at(9000, Policy::Kernel(Spread::Hash))
    /// #   .run(|_worker| async { Ok(()) })
    /// # }
    /// ```
    pub fn policy_at(mut self, address: impl Into<ListenAddress>, policy: Policy) -> Self {
        self.policies = self.policies.with(address, policy);
        self
    }

    /// Lets all workers share an address that their program binds by itself, in whatever library, and not by
    /// [`Worker::listen`]: a TCP port on whatever address, just one address, or the path of a Unix socket. It may be called
    /// for several. The workers accept by themselves, so the kernel chooses who gets a connection, also where the policy
    /// is another than [`Policy::Shared`]; a Unix socket is shared by all. Default: what a worker binds by itself is its own.
    ///
    /// The kernel is made to ask the primary about each `bind` (seccomp): where that is forbidden, [`run`](Self::run) fails.
    /// A worker that leaves is asked by SIGTERM, when it has nothing to do; [`draining`](Worker::draining) tells it nothing.
    ///
    /// # Examples
    /// ```no_run
    /// # fn main() -> worksong::Result<()> {
    /// worksong::Cluster::builder().capture(8000).run(|_worker| async {
    ///     let listener = tokio::net::TcpListener::bind("0.0.0.0:8000").await?;
    ///     axum::serve(listener, axum::Router::new()).await?;
    ///     Ok(())
    /// })
    /// # }
    /// ```
    pub fn capture(mut self, address: impl Into<CaptureAddress>) -> Self {
        self.capture.get_or_insert_default().push(address.into());
        self
    }

    /// Does what [`capture`](Self::capture) does for every TCP port but 0 that a worker binds by itself.
    pub fn capture_all(mut self) -> Self {
        self.capture = Some(Vec::new());
        self
    }

    /// Sets when a worker is ready, so that a reload goes on. Default: [`Ready::Auto`], when it listens. With
    /// [`Ready::Message`] it is ready when it calls [`Worker::ready`], with [`Ready::Probe`] when it answers a request.
    pub fn ready(mut self, ready: Ready) -> Self {
        self.ready = ready;
        self
    }

    /// Sets how long a worker may take to be ready. Default: 30 s.
    pub fn ready_timeout(mut self, timeout: Duration) -> Self {
        self.deadlines.ready = timeout;
        self
    }

    /// Sets how long a worker may finish what it has, before it gets SIGTERM. Default: 30 s.
    pub fn drain_timeout(mut self, timeout: Duration) -> Self {
        self.deadlines.drain = timeout;
        self
    }

    /// Sets all deadlines of a worker's life.
    pub fn deadlines(mut self, deadlines: Deadlines) -> Self {
        self.deadlines = deadlines;
        self
    }

    /// Sets the signal that asks a worker to leave when no message does, because it listens nowhere. Default: SIGTERM.
    /// Others can be read from text: `"SIGQUIT".parse()?`; only a worker's first process gets those.
    pub fn stop_signal(mut self, signal: StopSignal) -> Self {
        self.stop_signal = signal;
        self
    }

    /// Sets how a worker that ended by itself comes back. Default: at once, then with growing delays.
    pub fn restart(mut self, restart: RestartPolicy) -> Self {
        self.restart = restart;
        self
    }

    /// Sets how many new workers may be starting at a time when old ones are replaced, in a reload as for any other
    /// reason. Default: 1. Old ones are asked to leave only when new ones are ready, so no number lowers capacity.
    pub fn surge(mut self, workers: u32) -> Self {
        self.replacement.surge = workers;
        self
    }

    /// Sets how many replacements may be under way at a time, each until the old worker is gone. Default: as many as
    /// there are workers. `1` takes the least memory, and lets each old worker finish before the next one is replaced.
    pub fn parallel(mut self, replacements: u32) -> Self {
        self.replacement.parallel = Some(replacements);
        self
    }

    /// Replaces a worker when the primary has handed it this many connections; each worker's own limit differs by up to a
    /// tenth. Default: never. With [`Policy::Shared`] and [`Policy::Kernel`] nothing is counted.
    pub fn max_connections(mut self, connections: u64) -> Self {
        self.recycle.max_connections = Some(connections);
        self
    }

    /// Replaces a worker of this age; each worker's own limit differs by up to a tenth. Default: never.
    pub fn max_age(mut self, age: Duration) -> Self {
        self.recycle.max_age = Some(age);
        self
    }

    /// Replaces a worker whose process has more resident memory than this, which is looked at every few seconds; each
    /// worker's own limit differs by up to a tenth. Default: never.
    pub fn max_memory_bytes(mut self, bytes: u64) -> Self {
        self.recycle.max_memory_bytes = Some(bytes);
        self
    }

    /// Sets how many connections may be open in each worker, and in all of them, and what becomes of more. Default: no
    /// limit. Only workers that use [`serve`](crate::serve) say how many they have.
    pub fn limits(mut self, limits: OpenLimits) -> Self {
        self.limits = limits;
        self
    }

    /// Sets whether the primary adopts, reaps and in the end kills what its workers leave behind, also when that has
    /// cleared its environment and left its group. Default: true.
    ///
    /// Children that your own code starts in the primary are safe, with their exit status, as long as they stay in the
    /// primary's process group, where `std::process::Command` starts them. Say `false` if you put them into groups of
    /// their own.
    pub fn reap_orphans(mut self, reap: bool) -> Self {
        self.leave_orphans = !reap;
        self
    }

    /// Sets whether a task's panic makes its worker leave and be replaced. Default: true.
    pub fn leave_on_panic(mut self, leave: bool) -> Self {
        self.worker = self.worker.leave_on_panic(leave);
        self
    }

    /// Sets how many threads each worker's runtime has. Default: 1, because there is a worker for each core.
    #[cfg(feature = "multi-thread")]
    pub fn threads(mut self, threads: usize) -> Self {
        self.worker = self.worker.threads(threads);
        self
    }

    /// Calls `hook` in the primary when the cluster starts, on a thread with a Tokio runtime.
    ///
    /// Hooks must not block: the primary's supervision waits for them (connections do not).
    pub fn on_start(mut self, hook: impl FnOnce(&Cluster) + 'static) -> Self {
        self.hooks.start = Some(Box::new(hook));
        self
    }

    /// Calls `hook` in the primary for each event. It must not block.
    pub fn on_event(mut self, hook: impl FnMut(&Cluster, &Record) + 'static) -> Self {
        self.hooks.event = Some(Box::new(hook));
        self
    }

    /// Calls `hook` in the primary for each message of a worker ([`Worker::send`]). It must not block: of messages that
    /// come while 16 MiB of others wait for it, only an [event](crate::Event::MessageDropped) is left.
    ///
    /// # Examples
    /// ```no_run
    /// # fn main() -> worksong::Result<()> {
    /// worksong::Cluster::builder()
    ///     .on_message(|message| {
    ///         if let Ok("how late is it?") = message.parse() {
    ///             // Fails only when the cluster ends.
    ///             let _ended = message.reply(&std::time::SystemTime::now());
    ///         }
    ///     })
    /// #   .run(|_worker| async { Ok(()) })
    /// # }
    /// ```
    pub fn on_message(mut self, hook: impl FnMut(FromWorker) + 'static) -> Self {
        self.hooks.message = Some(Box::new(hook));
        self
    }

    /// Becomes the cluster: in a process that was started by hand, the primary; in those that the primary starts, a
    /// worker, which runs `program`.
    ///
    /// Call it from `main` before there are other threads. The workers get this process's arguments and environment, and
    /// what they print comes out of it line by line. `program` may end with any error; its text is what is printed
    /// and kept as the cause of the worker's exit.
    ///
    /// # Errors
    /// In the primary when it could not start, when all its workers failed too often in a row, or when it was ended by a
    /// second signal. In a worker with the error of `program`.
    pub fn run<P, F>(self, program: P) -> Result<()>
    where
        P: FnOnce(Worker) -> F,
        F: Future<Output = Result<(), BoxError>>,
    {
        if worksong_engine::guard::run_if_asked().is_some() {
            return Ok(());
        }
        if worksong_worker::is_worker() {
            return self.worker.run(program).map_err(Error::Worker);
        }
        let command = executable::this_program().map_err(Error::Executable)?;
        let name = self.name.unwrap_or_else(|| {
            command.program.file_stem().unwrap_or_default().to_string_lossy().into_owned()
        });
        let spec = AppSpec {
            name,
            command,
            instances: self.workers.resolve(),
            dialect: if self.capture.is_some() {
                Dialect::Capture { channel: true }
            } else {
                Dialect::Native
            },
            policies: self.policies,
            listen: Vec::new(),
            capture: self.capture.unwrap_or_default(),
            ready: self.ready,
            deadlines: self.deadlines,
            stop_signal: self.stop_signal,
            restart: self.restart,
            agent: true,
            replacement: self.replacement,
            recycle: self.recycle,
            limits: self.limits,
        };
        let orphans = if self.leave_orphans { Orphans::Leave } else { Orphans::Adopt };
        primary::run(spec, self.hooks, orphans)
    }
}
