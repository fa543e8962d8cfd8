//! What goes into supervision and what comes out of it.

use std::time::Duration;

use crate::event::{Event, ExitStatus};
use crate::ids::{Generation, Slot, WorkerId};
use crate::spec::{
    AppSpec, Deadlines, Dialect, NodeFlavour, Ready, RecycleLimits, Replacement, RestartPolicy, StopSignal,
};

/// How one app is kept.
#[derive(Clone, Debug)]
#[expect(clippy::struct_excessive_bools, reason = "traits of a dialect, independent of each other")]
pub struct Settings {
    /// How many slots the app has; 0 counts as 1.
    pub instances: u32,
    /// Whether workers talk to the primary over a channel; without one they are steered by signals alone.
    pub has_channel: bool,
    /// Whether it is seen that workers listen which do not say it over a channel.
    pub sees_listening: bool,
    /// Whether the primary accepts the connections, and hands them to workers in rotation: others have none.
    pub hands_over: bool,
    /// When a new worker counts as ready; [`Ready::Auto`] is resolved by whether it is known that workers listen.
    pub ready: Ready,
    /// The deadlines of a worker's life.
    pub deadlines: Deadlines,
    /// What asks a worker to leave that no message does.
    pub stop_signal: StopSignal,
    /// How a worker that ended by itself comes back.
    pub restart: RestartPolicy,
    /// How many workers are replaced at a time.
    pub replacement: Replacement,
    /// After what a worker is replaced although it serves.
    pub recycle: RecycleLimits,
    /// Whether all workers listen on the same addresses, which they get from the primary.
    pub same_addresses: bool,
}

impl From<&AppSpec> for Settings {
    fn from(spec: &AppSpec) -> Self {
        Self {
            instances: spec.instances,
            has_channel: spec.dialect.has_channel(),
            sees_listening: spec.dialect.captures() || spec.has_own_sockets(),
            hands_over: spec.dialect.has_channel() && spec.policies.hands_over_all(),
            ready: spec.ready.clone(),
            deadlines: spec.deadlines,
            stop_signal: spec.stop_signal,
            restart: spec.restart,
            replacement: spec.replacement,
            recycle: spec.recycle,
            // Bun binds by itself: with port 0 each worker gets another one.
            same_addresses: spec.dialect != Dialect::Node(NodeFlavour::Bun),
        }
    }
}

/// Whose fault it is that a worker is no process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Blame {
    /// The program's: it cannot be executed.
    Program,
    /// The system's, which lacks something that it may have again: it is tried again for as long as it takes.
    System,
}

/// What comes to an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Traffic {
    /// Connections, over TCP or to a path.
    Connections,
    /// Datagrams.
    Datagrams,
}

impl Traffic {
    /// Returns what comes to an address as it is told, such as `udp 0.0.0.0:53`.
    pub(crate) fn at(address: &str) -> Self {
        if address.starts_with("udp ") { Self::Datagrams } else { Self::Connections }
    }
}

/// A command, or a fact about a worker.
///
/// The shell answers every [`Effect::Spawn`] with `Spawned` or `SpawnFailed`, and a `Spawned` one sooner or
/// later with `Exited`, each before any other fact about that worker. Facts about workers that are unknown or
/// forgotten, and facts that were told before, change nothing.
#[derive(Clone, Debug)]
pub enum Input {
    /// Fills every slot for the first time.
    Start,
    /// The time of [`next_deadline`](super::Supervisor::next_deadline) has come; harmless at any other time.
    Tick,
    /// Replaces every worker by one of a new generation; answered by one [`Effect::ReloadEnded`].
    Reload {
        /// Returned with the answer.
        request: u64,
    },
    /// Changes the number of slots: new ones are filled, the highest ones are drained and dropped.
    Resize(u32),
    /// Something waits at a socket that only a worker which starts now can serve: one starts, serves it, and ends.
    Rescue {
        /// The slot whose worker had the socket.
        slot: Slot,
        /// What waits there.
        traffic: Traffic,
    },
    /// Drains every worker and ends the app.
    Stop {
        /// Why, such as `SIGTERM`.
        reason: String,
    },
    /// Ends every worker with SIGKILL, whether the app was stopping before or not.
    StopNow,
    /// The worker is a process now.
    Spawned {
        /// The worker.
        worker: WorkerId,
        /// Its process id.
        pid: u32,
    },
    /// The worker could not become a process; nothing of it exists.
    SpawnFailed {
        /// The worker.
        worker: WorkerId,
        /// What the system said, in full.
        reason: String,
        /// Whose fault it is.
        blame: Blame,
    },
    /// The worker's runtime is up.
    Online {
        /// The worker.
        worker: WorkerId,
    },
    /// The worker listens on an address.
    Listening {
        /// The worker.
        worker: WorkerId,
        /// The address as people write it.
        address: String,
        /// The port, where there is one.
        port: Option<u16>,
    },
    /// The worker listens on an address by itself, and accepts by itself.
    Captured {
        /// The worker.
        worker: WorkerId,
        /// The address as people write it.
        address: String,
        /// The port, where there is one.
        port: Option<u16>,
    },
    /// The worker was seen not to wait for connections where it should.
    DoesNotWait {
        /// The worker.
        worker: WorkerId,
        /// What was seen, as a sentence without a full stop.
        why: String,
    },
    /// The answer to [`Effect::AwaitIdle`].
    Idle {
        /// The worker.
        worker: WorkerId,
    },
    /// The worker said that it is ready; it counts under [`Ready::Message`] only.
    ReadyMessage {
        /// The worker.
        worker: WorkerId,
    },
    /// The answer to [`Effect::Probe`].
    Probed {
        /// The worker.
        worker: WorkerId,
        /// Why it is not ready yet, as a sentence without a full stop.
        result: Result<(), String>,
    },
    /// The worker said that it will leave by itself (`exitedAfterDisconnect`); the shell has answered it.
    Leaving {
        /// The worker.
        worker: WorkerId,
    },
    /// The worker's end of the channel is closed, and everything that it had sent is read.
    ChannelClosed {
        /// The worker.
        worker: WorkerId,
        /// How many connections it last said that it has, if it has said so since it leaves.
        open: Option<u64>,
    },
    /// The worker process ended and was reaped; when it was let go, nothing of what it started runs any more, either, or
    /// all of that got SIGKILL.
    Exited {
        /// The worker.
        worker: WorkerId,
        /// What the kernel reported.
        status: ExitStatus,
        /// The last lines that it wrote to stderr, oldest first.
        stderr: Vec<String>,
    },
    /// The worker leaves a handed-over connection unanswered; the data plane gives it no new ones.
    Overdue {
        /// The worker.
        worker: WorkerId,
        /// How long the oldest hand-over waits by now.
        waiting: Duration,
    },
    /// The worker answers hand-overs again.
    Answering {
        /// The worker.
        worker: WorkerId,
    },
    /// The worker has taken as many connections as it may: see [`Supervisor::connection_limit`].
    ///
    /// [`Supervisor::connection_limit`]: super::Supervisor::connection_limit
    TookEnough {
        /// The worker.
        worker: WorkerId,
        /// How many it has taken.
        connections: u64,
    },
    /// So much memory of the worker's process is resident now.
    Resident {
        /// The worker.
        worker: WorkerId,
        /// How much.
        bytes: u64,
    },
    /// The worker asks to be replaced.
    AsksForSuccessor {
        /// The worker.
        worker: WorkerId,
    },
    /// Takes the worker out of rotation, alive; only one in rotation can be paused.
    Pause {
        /// The worker.
        worker: WorkerId,
    },
    /// Puts a paused worker back into rotation.
    Resume {
        /// The worker.
        worker: WorkerId,
    },
}

impl Input {
    /// Returns the worker that a fact or command is about; `None` for commands to the app.
    #[must_use]
    pub fn worker(&self) -> Option<WorkerId> {
        match *self {
            Self::Start
            | Self::Tick
            | Self::Reload { .. }
            | Self::Resize(_)
            | Self::Rescue { .. }
            | Self::Stop { .. }
            | Self::StopNow => None,
            Self::Spawned { worker, .. }
            | Self::SpawnFailed { worker, .. }
            | Self::Online { worker }
            | Self::Listening { worker, .. }
            | Self::Captured { worker, .. }
            | Self::DoesNotWait { worker, .. }
            | Self::Idle { worker }
            | Self::ReadyMessage { worker }
            | Self::Probed { worker, .. }
            | Self::Leaving { worker }
            | Self::ChannelClosed { worker, .. }
            | Self::Exited { worker, .. }
            | Self::Overdue { worker, .. }
            | Self::Answering { worker }
            | Self::TookEnough { worker, .. }
            | Self::Resident { worker, .. }
            | Self::AsksForSuccessor { worker }
            | Self::Pause { worker }
            | Self::Resume { worker } => Some(worker),
        }
    }
}

/// What the shell has to do, in this order.
#[derive(Clone, Debug)]
pub enum Effect {
    /// Start a worker process.
    Spawn {
        /// Its name; the numbers of an app count from 1 and are never reused.
        worker: WorkerId,
        /// The slot that it is for.
        slot: Slot,
        /// The generation that it belongs to.
        generation: Generation,
    },
    /// Ask the worker whether it is ready, in a limited time, and tell the answer by [`Input::Probed`]. One is under
    /// way at a time; after the worker's end the answer is not needed.
    Probe {
        /// The worker.
        worker: WorkerId,
    },
    /// Give connections to the worker from now on: once it is ready, and whenever it is resumed.
    EnterRotation {
        /// The worker.
        worker: WorkerId,
    },
    /// Give it no more; once for every time that it entered, and for a replacement never before its successor entered.
    LeaveRotation {
        /// The worker.
        worker: WorkerId,
    },
    /// Send the worker Node's `disconnect`; at most once per worker, a second one would crash it.
    Disconnect {
        /// The worker.
        worker: WorkerId,
    },
    /// Ask the worker to finish and end, by a signal to its first process alone, which tells those that it started.
    AskBySignal {
        /// The worker.
        worker: WorkerId,
        /// A signal that [is not for the tree](StopSignal::is_for_the_tree).
        signal: StopSignal,
    },
    /// Tell by [`Input::Idle`] when nothing waits for the worker any more, and it has nothing to do; at most once per
    /// worker. After its end the answer is not needed.
    AwaitIdle {
        /// The worker.
        worker: WorkerId,
    },
    /// Send a signal to the worker's whole process tree.
    Signal {
        /// The worker.
        worker: WorkerId,
        /// The signal's number.
        signal: i32,
    },
    /// The worker is gone: drop what belongs to it, and end what may be left of its process tree.
    ///
    /// Comes once for every worker that became a process: after its exit, or when the app ends without one that the
    /// kernel does not end.
    Forget {
        /// The worker.
        worker: WorkerId,
    },
    /// Tell subscribers. When a failed reload or recycle names a worker that still lives, the shell adds its last lines.
    Emit(Event),
    /// Answer a reload; once per request.
    ReloadEnded {
        /// The request of [`Input::Reload`].
        request: u64,
        /// How it ended.
        outcome: ReloadOutcome,
    },
    /// Nothing is left to supervise.
    Finished {
        /// Why.
        outcome: Outcome,
    },
}

/// How a reload ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ReloadOutcome {
    /// Every slot is filled by a ready worker of the new generation.
    Done {
        /// The new generation.
        generation: Generation,
        /// From its begin until now, without the time that the request waited for an earlier one.
        took: Duration,
    },
    /// The new generation did not prove itself; the workers that were in rotation stay.
    Failed {
        /// The generation that failed.
        generation: Generation,
        /// The worker that showed it.
        worker: WorkerId,
        /// Why, as a sentence without a full stop.
        reason: String,
        /// The last lines that the worker wrote to stderr, when it has ended.
        stderr: Vec<String>,
    },
    /// A newer request took its place before it began.
    Superseded,
    /// The app does not run, or was told to end meanwhile.
    Stopped,
}

/// How supervision of an app ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The app was told to end, and every worker is gone.
    Stopped,
    /// Every slot was given up and no worker is left; a reload or more slots would still revive the app.
    Errored,
}
