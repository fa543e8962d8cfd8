//! What happened, with its cause: for subscribers of the library and for `--json`.

use std::fmt;
use std::time::Duration;

use serde::{Serialize, Serializer};
use serde_json::value::RawValue;

use crate::ids::{Generation, Slot, WorkerId};

/// One event of an engine, with its place in the order of all events.
#[derive(Clone, Debug, Serialize)]
pub struct Record {
    /// Counts the engine's events from 1, without gaps.
    pub seq: u64,
    /// Milliseconds since the Unix epoch.
    pub at_ms: u64,
    /// The app's name.
    pub app: String,
    /// What happened.
    #[serde(flatten)]
    pub event: Event,
}

/// Which worker an event is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct WorkerRef {
    /// The worker.
    #[serde(rename = "worker", serialize_with = "worker_number")]
    pub id: WorkerId,
    /// Its slot.
    pub slot: Slot,
    /// Its generation.
    pub generation: Generation,
    /// Its process id; 0 when it never became a process.
    pub pid: u32,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde calls it with a reference")]
fn worker_number<S: Serializer>(id: &WorkerId, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_u32(id.number)
}

#[expect(clippy::ref_option, reason = "serde calls it with a reference")]
fn worker_number_if_any<S: Serializer>(id: &Option<WorkerId>, serializer: S) -> Result<S::Ok, S::Error> {
    id.map(|id| id.number).serialize(serializer)
}

/// Something that happened to an app or to one of its workers.
#[derive(Clone, Debug, Serialize)]
#[serde(tag = "event", rename_all = "snake_case")]
#[non_exhaustive]
pub enum Event {
    /// A worker process was started.
    Forked {
        /// Which worker.
        #[serde(flatten)]
        worker: WorkerRef,
    },
    /// A worker could not be started at all.
    SpawnFailed {
        /// Which worker.
        #[serde(flatten)]
        worker: WorkerRef,
        /// What the system said, in full.
        reason: String,
    },
    /// The worker's runtime is up; its program has not run yet (Node's `online`).
    Online {
        /// Which worker.
        #[serde(flatten)]
        worker: WorkerRef,
    },
    /// An address of `--listen` is open; connections wait there from now on.
    Bound {
        /// The address as people write it, with the port that the kernel chose where none was asked for.
        address: String,
        /// The port, where there is one.
        #[serde(skip_serializing_if = "Option::is_none")]
        port: Option<u16>,
    },
    /// The worker listens on an address (Node's `listening`).
    Listening {
        /// Which worker.
        #[serde(flatten)]
        worker: WorkerRef,
        /// The address as people write it: `127.0.0.1:8080`, `/run/api.sock`, `udp 0.0.0.0:53`.
        address: String,
        /// The port, where there is one.
        #[serde(skip_serializing_if = "Option::is_none")]
        port: Option<u16>,
    },
    /// A worker asked for an address that could not be bound; it was told so the way Node tells it.
    ListenFailed {
        /// Which worker.
        #[serde(flatten)]
        worker: WorkerRef,
        /// The address that it asked for.
        address: String,
        /// The reason, with the process that holds the address when it can be found.
        reason: String,
    },
    /// The worker takes connections from now on.
    Ready {
        /// Which worker.
        #[serde(flatten)]
        worker: WorkerRef,
        /// From its start until now.
        #[serde(rename = "after_ms", serialize_with = "milliseconds")]
        after: Duration,
    },
    /// The worker was not ready within its deadline. It is kept: at a first start nothing better exists.
    NotReady {
        /// Which worker.
        #[serde(flatten)]
        worker: WorkerRef,
        /// How long it has had.
        #[serde(rename = "after_ms", serialize_with = "milliseconds")]
        after: Duration,
        /// What is missing, as a sentence without a full stop.
        reason: String,
    },
    /// The worker sent a message of its own (`process.send`).
    Message {
        /// Which worker.
        #[serde(flatten)]
        worker: WorkerRef,
        /// The message as it was sent.
        body: Box<RawValue>,
    },
    /// The worker sent a message, but subscribers have left more than 16 MiB of messages unread.
    MessageDropped {
        /// Which worker.
        #[serde(flatten)]
        worker: WorkerRef,
        /// The length of the message in bytes, as JSON.
        length: usize,
    },
    /// The worker is out of rotation and was asked to finish what it has.
    Draining {
        /// Which worker.
        #[serde(flatten)]
        worker: WorkerRef,
        /// Why.
        cause: DrainCause,
    },
    /// The worker is to be replaced although it serves: as soon as the budget of replacements has room, and once its
    /// successor is ready.
    Recycling {
        /// Which worker.
        #[serde(flatten)]
        worker: WorkerRef,
        /// Why.
        #[serde(flatten)]
        reason: RecycleReason,
    },
    /// The successor of a worker that was to be replaced did not become ready.
    RecycleFailed {
        /// The slot, whose worker goes on.
        slot: Slot,
        /// The successor that failed.
        #[serde(serialize_with = "worker_number")]
        worker: WorkerId,
        /// Why, as a sentence without a full stop.
        reason: String,
        /// The last lines that the successor wrote to stderr, oldest first.
        #[serde(skip_serializing_if = "Vec::is_empty")]
        stderr: Vec<String>,
        /// How long until the next try; `None` when the worker that was to be replaced has ended meanwhile.
        #[serde(
            rename = "retry_ms",
            skip_serializing_if = "Option::is_none",
            serialize_with = "milliseconds_if_any"
        )]
        retry: Option<Duration>,
    },
    /// The worker is out of rotation until it is resumed; it keeps what it has.
    Paused {
        /// Which worker.
        #[serde(flatten)]
        worker: WorkerRef,
        /// How many workers of the app are still in rotation. While there are none, connections wait.
        in_rotation: u32,
        /// How many slots the app has.
        slots: u32,
    },
    /// The worker is back in rotation.
    Resumed {
        /// Which worker.
        #[serde(flatten)]
        worker: WorkerRef,
        /// How many workers of the app are in rotation now.
        in_rotation: u32,
        /// How many slots the app has.
        slots: u32,
    },
    /// The worker sent something that is not the protocol; it was skipped.
    Garbage {
        /// Which worker.
        #[serde(flatten)]
        worker: WorkerRef,
        /// What is wrong with it.
        reason: String,
    },
    /// The kernel takes no connections for a listener any more: somebody who has a copy of the socket shut it down.
    /// Its workers do not know; new ones bind it anew.
    ListenerLost {
        /// Where it listened.
        address: String,
        /// What the system says.
        reason: String,
    },
    /// Connections were closed because their listener was, before a worker took them.
    Dropped {
        /// Where it listened.
        address: String,
        /// How many.
        count: u64,
    },
    /// Connections were closed because the app has had no ready worker for too long; told once a second at most.
    HeldTooLong {
        /// Where they came in.
        address: String,
        /// How many.
        count: u64,
        /// For how long they are held at most.
        #[serde(rename = "hold_ms", serialize_with = "milliseconds")]
        hold: Duration,
    },
    /// Connections were closed because this process had no free descriptors for a whole second.
    Shed {
        /// How many.
        count: u64,
    },
    /// The worker closed its channel, or its end of it broke.
    Disconnect {
        /// Which worker.
        #[serde(flatten)]
        worker: WorkerRef,
    },
    /// The worker does not answer hand-overs in time; it is out of rotation until it does.
    Unresponsive {
        /// Which worker.
        #[serde(flatten)]
        worker: WorkerRef,
        /// How long the oldest hand-over waits.
        #[serde(rename = "waiting_ms", serialize_with = "milliseconds")]
        waiting: Duration,
    },
    /// The worker answers again and is back in rotation.
    Responsive {
        /// Which worker.
        #[serde(flatten)]
        worker: WorkerRef,
    },
    /// The primary sent the worker's processes a signal: a deadline passed, or the app has to end at once.
    Signalled {
        /// Which worker.
        #[serde(flatten)]
        worker: WorkerRef,
        /// The signal's name, such as `SIGTERM`.
        signal: &'static str,
        /// Why, as a sentence without a full stop.
        why: String,
    },
    /// The worker got SIGKILL and has not ended: it waits inside the kernel. Its slot is filled without it, and its exit is
    /// told when it comes.
    Unkillable {
        /// Which worker.
        #[serde(flatten)]
        worker: WorkerRef,
        /// Since SIGKILL.
        #[serde(rename = "after_ms", serialize_with = "milliseconds")]
        after: Duration,
    },
    /// The worker process ended and nothing of it is left.
    Exit {
        /// Which worker.
        #[serde(flatten)]
        worker: WorkerRef,
        /// How and why.
        #[serde(flatten)]
        cause: ExitCause,
        /// From its start until now.
        #[serde(rename = "uptime_ms", serialize_with = "milliseconds")]
        uptime: Duration,
        /// How many connections it still had when it was forced to end; unknown when it cannot have said, or when it ended
        /// by itself with some.
        #[serde(skip_serializing_if = "Option::is_none")]
        cut: Option<u64>,
    },
    /// A worker that ended by itself will be replaced.
    Restart {
        /// The slot that is empty until then.
        slot: Slot,
        /// How many failures in a row the slot has seen.
        failures: u32,
        /// How long the slot waits before the next start.
        #[serde(rename = "delay_ms", serialize_with = "milliseconds")]
        delay: Duration,
    },
    /// A slot failed too often in a row and is given up until the next reload.
    Errored {
        /// The slot.
        slot: Slot,
        /// How many failures in a row.
        failures: u32,
    },
    /// A reload began.
    ReloadStarted {
        /// The generation that it makes.
        generation: Generation,
    },
    /// Every slot is filled by a ready worker of the new generation.
    ReloadDone {
        /// The new generation.
        generation: Generation,
        /// How long it took.
        #[serde(rename = "took_ms", serialize_with = "milliseconds")]
        took: Duration,
    },
    /// The last worker that a reload replaced is gone. What is not known is left out.
    ReloadReport {
        /// The new generation.
        generation: Generation,
        /// How many workers it has.
        workers: usize,
        /// From the begin of the reload until now.
        #[serde(rename = "took_ms", serialize_with = "milliseconds")]
        took: Duration,
        /// How many connections were handed to workers meanwhile; unknown where workers accept by themselves.
        #[serde(skip_serializing_if = "Option::is_none")]
        handed_over: Option<u64>,
        /// How many connections old workers gave back, which others took.
        #[serde(skip_serializing_if = "Option::is_none")]
        moved: Option<u64>,
        /// How many connections were offered to another worker, because one refused them or ended.
        #[serde(skip_serializing_if = "Option::is_none")]
        redispatched: Option<u64>,
        /// The sum of what the old workers cut, as their exits have told it; unknown when one of them is.
        #[serde(skip_serializing_if = "Option::is_none")]
        cut: Option<u64>,
    },
    /// The new generation did not become ready; the old workers stay.
    ReloadFailed {
        /// The generation that failed.
        generation: Generation,
        /// The worker that showed it; `None` when the app was told to end meanwhile.
        #[serde(skip_serializing_if = "Option::is_none", serialize_with = "worker_number_if_any")]
        worker: Option<WorkerId>,
        /// Why, as a sentence without a full stop.
        reason: String,
        /// The last lines that this worker wrote to stderr, oldest first.
        #[serde(skip_serializing_if = "Vec::is_empty")]
        stderr: Vec<String>,
    },
    /// Node workers run without the agent: idle connections are closed when a worker leaves, not moved.
    NoAgent {
        /// Why it could not be written.
        reason: String,
    },
    /// The engine itself failed: it ends, and kills every worker.
    EngineFailed {
        /// What is wrong with it.
        reason: String,
    },
    /// The app is told to end.
    Stopping {
        /// Why, such as `SIGTERM`.
        reason: String,
    },
    /// Every worker of the app is gone, but for those that the kernel does not end.
    Stopped {
        /// How many connections its workers still had when they were forced to end; unknown when one cannot say.
        #[serde(skip_serializing_if = "Option::is_none")]
        cut: Option<u64>,
    },
}

/// Why a worker has to leave.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum DrainCause {
    /// A successor took its slot.
    Reload,
    /// The app stops.
    Stop,
    /// The app was given fewer slots.
    Resize,
    /// It was not ready in time for a reload.
    NotReady,
    /// It asked to leave by itself (`cluster.worker.disconnect()`, `kill()`).
    Asked,
    /// A successor took its slot because it was to be replaced; the event `recycling` has said why.
    Recycle,
    /// It was to be the successor of one worker, and a reload replaces them all, or that one was paused.
    Superseded,
}

/// Why a worker is to be replaced although it serves.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "reason", rename_all = "snake_case")]
#[non_exhaustive]
pub enum RecycleReason {
    /// It has taken as many connections as it may.
    Connections {
        /// How many it has taken.
        connections: u64,
        /// This worker's limit.
        limit: u64,
    },
    /// It is as old as it may become.
    Age {
        /// Since its start.
        #[serde(rename = "age_ms", serialize_with = "milliseconds")]
        age: Duration,
        /// This worker's limit.
        #[serde(rename = "limit_ms", serialize_with = "milliseconds")]
        limit: Duration,
    },
    /// It has more resident memory than it may.
    Memory {
        /// How much it has.
        resident_bytes: u64,
        /// This worker's limit.
        limit_bytes: u64,
    },
    /// It asked for a successor (`process.send({cmd: 'disconnect'})`).
    Asked,
}

/// How a worker ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ExitCause {
    /// What the kernel reported.
    #[serde(flatten)]
    pub status: ExitStatus,
    /// True when the worker was asked to leave, or said before that it would (`exitedAfterDisconnect`).
    pub voluntary: bool,
    /// The last lines that it wrote to stderr, oldest first.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub stderr: Vec<String>,
}

/// What the kernel reported of a process that ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ExitStatus {
    /// It returned this code.
    Code(i32),
    /// It was ended by this signal; as JSON its name, as Node's `exit` event has it.
    Signal(#[serde(serialize_with = "by_name")] i32),
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde calls it with a reference")]
fn by_name<S: Serializer>(number: &i32, serializer: S) -> Result<S::Ok, S::Error> {
    match signal_name(*number) {
        Some(name) => serializer.serialize_str(name),
        None => serializer.collect_str(number),
    }
}

impl fmt::Display for ExitStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Code(code) => write!(f, "exit code {code}"),
            Self::Signal(number) => match signal_name(number) {
                Some(name) => write!(f, "{name}"),
                None => write!(f, "signal {number}"),
            },
        }
    }
}

/// Returns the name of a signal of this system, `SIGKILL` for 9.
#[must_use]
pub fn signal_name(number: i32) -> Option<&'static str> {
    Some(match number {
        libc::SIGHUP => "SIGHUP",
        libc::SIGINT => "SIGINT",
        libc::SIGQUIT => "SIGQUIT",
        libc::SIGILL => "SIGILL",
        libc::SIGTRAP => "SIGTRAP",
        libc::SIGABRT => "SIGABRT",
        libc::SIGBUS => "SIGBUS",
        libc::SIGFPE => "SIGFPE",
        libc::SIGKILL => "SIGKILL",
        libc::SIGUSR1 => "SIGUSR1",
        libc::SIGSEGV => "SIGSEGV",
        libc::SIGUSR2 => "SIGUSR2",
        libc::SIGPIPE => "SIGPIPE",
        libc::SIGALRM => "SIGALRM",
        libc::SIGTERM => "SIGTERM",
        libc::SIGXCPU => "SIGXCPU",
        libc::SIGXFSZ => "SIGXFSZ",
        libc::SIGVTALRM => "SIGVTALRM",
        libc::SIGPROF => "SIGPROF",
        libc::SIGSYS => "SIGSYS",
        _ => return None,
    })
}

#[expect(clippy::ref_option, reason = "serde calls it with a reference")]
fn milliseconds_if_any<S: Serializer>(duration: &Option<Duration>, serializer: S) -> Result<S::Ok, S::Error> {
    match duration {
        Some(duration) => milliseconds(duration, serializer),
        None => serializer.serialize_none(),
    }
}

fn milliseconds<S: Serializer>(duration: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_u64(u64::try_from(duration.as_millis()).unwrap_or(u64::MAX))
}
