//! What happened, with its cause: for subscribers of the library and for `--json`.

mod cause;
mod json;

use std::time::Duration;

use serde::Serialize;
use serde_json::value::RawValue;

pub use self::cause::{DrainCause, ExitCause, ExitStatus, RecycleReason, signal_name};
use self::json::{as_text, milliseconds, milliseconds_if_any, worker_number, worker_number_if_any};
use crate::ids::{Generation, Slot, WorkerId};
use crate::shortage::Shortage;
use crate::spec::Overload;

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
    /// What the worker binds cannot be seen, so it binds by itself, alone: it has changed its user, for example.
    NotCaptured {
        /// Which worker.
        #[serde(flatten)]
        worker: WorkerRef,
        /// What the system says.
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
    /// The worker is out of rotation until it is resumed; its idle connections move to others. One that has its socket
    /// itself (`shared`, inherited sockets, own ports, Bun) goes on accepting.
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
    /// Connections or datagrams wait where no worker can take them: the one that could died as it left, has closed its socket,
    /// or its slot is given up. One more worker starts for them, serves them, and ends.
    Orphaned {
        /// Where they came in.
        address: String,
        /// How many connections; how many sockets, where datagrams wait.
        count: u32,
    },
    /// No worker has an address bound any more that one of them bound by itself: it is closed.
    Unbound {
        /// The address.
        address: String,
        /// How many connections waited there, which are reset, or how many datagrams.
        count: u64,
    },
    /// Connections were closed because the app has had no ready worker for too long, or datagrams were thrown away that no
    /// worker could read; told once a second at most.
    HeldTooLong {
        /// Where they came in.
        address: String,
        /// How many.
        count: u64,
        /// For how long they are held at most.
        #[serde(rename = "hold_ms", serialize_with = "milliseconds")]
        hold: Duration,
    },
    /// The program's own policy of a listener has panicked; its connections go to the workers in turn from now on.
    PolicyFailed {
        /// Where it listens.
        address: String,
        /// What it panicked with.
        reason: String,
    },
    /// The primary could not get what it needs from the system: for connections, which wait in the kernel, or for workers,
    /// which cannot be started. Told to all apps, once until it is over.
    Shortage {
        /// What is short.
        of: Shortage,
        /// How many descriptors the primary may have open.
        #[serde(skip_serializing_if = "Option::is_none")]
        limit: Option<u64>,
    },
    /// The system has enough again, and nothing was missed for a while.
    ShortageOver {
        /// What was short.
        of: Shortage,
        /// Since it was missed for the first time.
        #[serde(rename = "took_ms", serialize_with = "milliseconds")]
        took: Duration,
    },
    /// Connections were closed because this process had no free descriptors for a whole second; told once a second at most.
    Shed {
        /// How many.
        count: u64,
    },
    /// Connections have begun to meet a limit of open ones. What the limits did is told when it is over.
    Overloaded {
        /// How many are open in the app's workers, or were handed over to them.
        open: u64,
        /// How many may be, in each worker.
        #[serde(rename = "max_open", skip_serializing_if = "Option::is_none")]
        per_worker: Option<u64>,
        /// How many may be, in all workers.
        #[serde(rename = "max_open_app", skip_serializing_if = "Option::is_none")]
        per_app: Option<u64>,
        /// What becomes of those that are too many.
        #[serde(serialize_with = "as_text")]
        overload: Overload,
    },
    /// No connection has met a limit for a second.
    OverloadOver {
        /// From the first that met one to the last.
        #[serde(rename = "took_ms", serialize_with = "milliseconds")]
        took: Duration,
        /// How many were turned away; the others waited.
        turned_away: u64,
    },
    /// The worker takes connections and does not say how many it has open, so no limit is kept for it.
    Uncounted {
        /// Which worker.
        #[serde(flatten)]
        worker: WorkerRef,
    },
    /// More connections wait in the kernel, at one listening socket, than half of what its queue takes.
    QueueFills {
        /// Where it listens.
        address: String,
        /// How many wait.
        queued: u32,
        /// How many may.
        backlog: u32,
    },
    /// The queue is less than a quarter full again.
    QueueOver {
        /// Where it listens.
        address: String,
        /// For how long it was long.
        #[serde(rename = "took_ms", serialize_with = "milliseconds")]
        took: Duration,
        /// How many waited at most, as far as that was seen.
        most: u32,
        /// How often a connection found a full queue meanwhile, of any program of the machine; unknown when another queue was
        /// long at the same time and is over.
        #[serde(skip_serializing_if = "Option::is_none")]
        overflows: Option<u64>,
    },
    /// The worker closed its channel, or its end of it broke.
    Disconnect {
        /// Which worker.
        #[serde(flatten)]
        worker: WorkerRef,
    },
    /// The worker does not answer hand-overs or pings in time; it is out of rotation until it does.
    Unresponsive {
        /// Which worker.
        #[serde(flatten)]
        worker: WorkerRef,
        /// How long the oldest hand-over, or ping, waits.
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
        /// How many connections were turned away meanwhile, because as many were open as may be; unknown without a limit.
        #[serde(skip_serializing_if = "Option::is_none")]
        turned_away: Option<u64>,
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

#[cfg(test)]
mod tests;
