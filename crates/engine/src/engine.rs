//! The engine: apps in, events out.
//!
//! ```text
//!   Engine, App (handles)          output tasks
//!        │ requests                     │ lines, ends
//!        ▼                              ▼
//!   control task ── effects ◀── supervise (pure, one per app)
//!     │      │ ▲
//!     │      │ └───── facts ───── data plane (own thread) ── channels ── workers
//!     │      └─────  commands ──▶
//!     └─ launches ─▶ spawner (own thread) ── fork, exec
//! ```
//!
//! One task owns all state of the control plane; handles send it typed requests. The data plane goes on handing
//! connections over whatever this task does.

mod add;
mod address;
mod control;
mod events;
mod exits;
mod facts;
mod hints;
mod idle;
mod leftovers;
mod memory;
mod overflow;
mod perform;
mod places;
mod probe;
mod pump;
mod reaper;
mod relay;
mod report;
mod requests;
mod saying;
mod short;
mod spawner;
mod state;
mod steer;
mod waiting;

use std::ffi::OsString;
use std::fmt;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use serde_json::value::RawValue;
use tokio::sync::{broadcast, mpsc, oneshot, watch};

pub use self::events::Subscription;
pub use self::places::Place;
pub use self::steer::SteerError;
pub use crate::handover::Tally;
pub use crate::plane::{Queue, SendError};
pub use crate::supervise::{Outcome, Snapshot};

use crate::holder::Holder;
use crate::ids::{AppId, Generation, WorkerId};
use crate::output::OutputLine;
use crate::shortage::Shortage;
use crate::spec::{AppSpec, CaptureError, CapturePolicyError, LimitError, ProbeError};

/// How many requests of handles may wait for the control task; senders wait when there are more.
const REQUESTS: usize = 64;
/// How many events a slow subscriber may be behind before it misses some.
const EVENTS: usize = 1024;

/// How an engine treats the process that it runs in.
#[derive(Clone, Debug, Default)]
pub struct EngineOptions {
    /// What it does with processes below this one that are none of its workers.
    pub orphans: Orphans,
    /// Keeps a small second process that ends everything below this one, should this one be killed: the kernel
    /// does that for the workers themselves, but not for what they started. It is this executable again, with
    /// these arguments (the name of the program first); its `main` has to reach
    /// [`guard::run_if_asked`](crate::guard::run_if_asked) before it does anything else.
    pub guard: Option<Vec<OsString>>,
}

/// What an engine does with processes below this one that are none of its workers.
///
/// Children in this process's own process group were started by its other code (`std::process::Command`), or were there
/// before its program was executed. They and what is below them are never killed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Orphans {
    /// Nothing: what a worker leaves behind is found by its mark only, and goes to process 1.
    #[default]
    Leave,
    /// Adopts them all (`PR_SET_CHILD_SUBREAPER`), so that nothing a worker left behind can escape: reaps them, and
    /// kills what is still there when no worker is left. A child that other code of this process puts into a group of
    /// its own is taken for one of them.
    Adopt,
    /// As `Adopt`, and reaps the children in this process's own group, too: for a program that waits for none, and for
    /// process 1 of a container.
    AdoptAndReapAll,
}

/// A running engine. Handles are cheap to clone.
///
/// When the last handle (this and every [`App`]) is dropped, or the runtime ends, the engine ends and all its
/// workers get SIGKILL.
#[derive(Clone, Debug)]
pub struct Engine {
    requests: mpsc::Sender<Request>,
    events: events::Source,
}

/// One app of an engine. Handles are cheap to clone; dropping one does not end the app.
#[derive(Clone, Debug)]
pub struct App {
    id: AppId,
    name: Arc<str>,
    addresses: Arc<[String]>,
    requests: mpsc::Sender<Request>,
    finished: watch::Receiver<Option<Outcome>>,
}

/// What the control task is asked.
#[derive(Debug)]
enum Request {
    Add {
        spec: Box<AppSpec>,
        lines: Option<mpsc::Sender<OutputLine>>,
        added: oneshot::Sender<Result<App, AddError>>,
    },
    Reload {
        app: AppId,
        ended: oneshot::Sender<Result<ReloadReport, ReloadError>>,
    },
    Resize {
        app: AppId,
        instances: u32,
    },
    Pause {
        worker: WorkerId,
        done: oneshot::Sender<Result<(), SteerError>>,
    },
    Resume {
        worker: WorkerId,
        done: oneshot::Sender<Result<(), SteerError>>,
    },
    Stop {
        app: AppId,
        reason: String,
    },
    StopNow {
        app: AppId,
    },
    Send {
        worker: WorkerId,
        body: Box<RawValue>,
        sent: oneshot::Sender<Result<(), SendError>>,
    },
    Inspect {
        app: AppId,
        snapshot: oneshot::Sender<Snapshot>,
    },
    Queues {
        app: AppId,
        queues: oneshot::Sender<Vec<Queue>>,
    },
    Places {
        app: AppId,
        places: oneshot::Sender<Vec<Place>>,
    },
    NoteShortage {
        of: Shortage,
    },
    Count {
        tally: oneshot::Sender<Tally>,
    },
}

/// The engine could not start.
#[derive(Debug, thiserror::Error)]
#[error("could not {what}: {source}; check the limits of open files and processes (ulimit -a)")]
pub struct StartError {
    what: &'static str,
    source: io::Error,
}

/// The engine failed by a fault of its own, and ended all workers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the engine failed by a fault of its own, which stderr tells; please report it")]
pub struct EngineFailed;

/// An app could not be added; nothing of it was started.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AddError {
    /// A `--listen` address could not be bound.
    #[error("could not listen on {address}: {source}{}", hints::hint(.address, .source, .holder.as_ref()))]
    Listen {
        /// The address as it was asked for.
        address: String,
        /// What the system says.
        source: io::Error,
        /// Who holds the address, when that can be seen.
        holder: Option<Holder>,
    },
    /// The ports of the app's program cannot be captured.
    #[error("app {name} cannot run with --dialect capture: {source}")]
    Capture {
        /// The app's name.
        name: String,
        /// Why not, and what to use instead.
        source: CaptureError,
    },
    /// The app waits for its workers to say something over a channel that they do not have.
    #[error(
        "app {name} can never be ready: its workers have no channel to say so; use --ready started, or --dialect node or native"
    )]
    NeverReady {
        /// The app's name.
        name: String,
    },
    /// The app's workers cannot be probed one by one.
    #[error("app {name} can never be ready: {source}")]
    Probe {
        /// The app's name.
        name: String,
        /// Why not, and what to use instead.
        source: ProbeError,
    },
    /// Its open connections cannot be limited.
    #[error("app {name} cannot start: {source}")]
    Limits {
        /// The app's name.
        name: String,
        /// Why not, and what to do instead.
        source: LimitError,
    },
    /// A policy is set where it could change nothing.
    #[error("app {name} cannot start: {source}")]
    CapturePolicy {
        /// The app's name.
        name: String,
        /// Why not, and what to do instead.
        source: CapturePolicyError,
    },
    /// The kernel cannot choose between so many sockets.
    #[error(
        "app {name} would need {needed} sockets at one address, and the kernel chooses between {most} at most; use fewer \
         --instances, a smaller --surge, or --policy shared"
    )]
    TooManySockets {
        /// The app's name.
        name: String,
        /// One for each worker and each successor, and one more.
        needed: usize,
        /// How many there may be.
        most: usize,
    },
    /// The engine has ended.
    #[error("the engine has ended")]
    Ended,
}

/// A reload that replaced every worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReloadReport {
    /// The new generation.
    pub generation: Generation,
    /// How long it took.
    pub took: Duration,
}

/// A reload that did not happen. The workers that were in rotation stay.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ReloadError {
    /// A new worker did not become ready.
    #[error("{reason}; the old workers stay{}", last_lines(.stderr))]
    NotReady {
        /// The generation that failed.
        generation: Generation,
        /// Why, as a sentence without a full stop.
        reason: String,
        /// The last lines that the new worker wrote to stderr, oldest first.
        stderr: Vec<String>,
    },
    /// A newer reload took its place before it began.
    #[error("a newer reload took its place")]
    Superseded,
    /// The app does not run, or was told to end meanwhile.
    #[error("the app is ending")]
    Stopped,
}

impl Engine {
    /// Starts the data plane, the spawner and the control task on the current Tokio runtime.
    ///
    /// # Errors
    ///
    /// When the system has no descriptors or threads left.
    pub fn start(options: EngineOptions) -> Result<Self, StartError> {
        let (requests, inbox) = mpsc::channel(REQUESTS);
        let events = events::Source::new(broadcast::Sender::new(EVENTS));
        control::start(options, inbox, requests.downgrade(), &events)?;
        Ok(Self { requests, events })
    }

    /// Returns the events from now on.
    ///
    /// Messages of workers wait for subscribers up to 16 MiB in all (a single one may be larger); of one that comes
    /// beyond that only its length is told.
    #[must_use]
    pub fn subscribe(&self) -> Subscription {
        self.events.subscribe()
    }

    /// Starts an app: binds its `listen` addresses, then fills its slots.
    ///
    /// The workers' output goes to `lines`, line by line; when nobody receives them fast enough the workers wait
    /// on their own `write`, as they would for any pipe. Without `lines` the workers share this process's
    /// stdout and stderr, and an exit cause has no last lines.
    ///
    /// # Errors
    ///
    /// See [`AddError`].
    ///
    /// # Cancel safety
    ///
    /// The app is started even if the future is dropped.
    pub async fn add(&self, spec: AppSpec, lines: Option<mpsc::Sender<OutputLine>>) -> Result<App, AddError> {
        let (added, answer) = oneshot::channel();
        let request = Request::Add { spec: Box::new(spec), lines, added };
        self.requests.send(request).await.map_err(|_ended| AddError::Ended)?;
        answer.await.map_err(|_ended| AddError::Ended)?
    }

    /// Returns what happened to connections so far, over all apps.
    ///
    /// # Cancel safety
    ///
    /// Nothing is lost when the future is dropped.
    pub async fn tally(&self) -> Tally {
        let (tally, answer) = oneshot::channel();
        // An engine that has ended has no connections.
        let _ended = self.requests.send(Request::Count { tally }).await;
        answer.await.unwrap_or_default()
    }
}

impl App {
    /// Returns the app's id in its engine.
    #[must_use]
    pub fn id(&self) -> AppId {
        self.id
    }

    /// Returns the app's name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Returns the addresses that were opened for `listen`, in its order, with the ports that the kernel chose.
    #[must_use]
    pub fn addresses(&self) -> &[String] {
        &self.addresses
    }

    /// Replaces every worker, one after another: each successor is ready before its predecessor has to leave.
    ///
    /// One reload runs at a time and at most one waits; a newer one takes the place of the waiting one.
    ///
    /// # Errors
    ///
    /// See [`ReloadError`]. The workers that were in rotation stay.
    ///
    /// # Cancel safety
    ///
    /// The reload goes on when the future is dropped.
    pub async fn reload(&self) -> Result<ReloadReport, ReloadError> {
        let (ended, answer) = oneshot::channel();
        let request = Request::Reload { app: self.id, ended };
        self.requests.send(request).await.map_err(|_ended| ReloadError::Stopped)?;
        answer.await.unwrap_or(Err(ReloadError::Stopped))
    }

    /// Changes the number of slots. New ones are filled; the highest ones are drained.
    ///
    /// # Cancel safety
    ///
    /// The change is made or not made; it is never half done.
    pub async fn resize(&self, instances: u32) {
        let _ended = self.requests.send(Request::Resize { app: self.id, instances }).await;
    }

    /// Tells the app to end: its listeners close, what they had queued is handed over, the workers drain.
    ///
    /// Returns when it was told, not when it has ended: see [`finished`](Self::finished).
    ///
    /// # Cancel safety
    ///
    /// The app is told or not told.
    pub async fn stop(&self, reason: impl Into<String>) {
        let _ended = self.requests.send(Request::Stop { app: self.id, reason: reason.into() }).await;
    }

    /// Ends every worker with SIGKILL.
    ///
    /// # Cancel safety
    ///
    /// The app is told or not told.
    pub async fn stop_now(&self) {
        let _ended = self.requests.send(Request::StopNow { app: self.id }).await;
    }

    /// Sends a worker a message, as Node's `worker.send()`; the text must be JSON.
    ///
    /// # Errors
    ///
    /// When the worker is gone, has no channel, or has left 16 MiB unread.
    ///
    /// # Cancel safety
    ///
    /// The message is sent even if the future is dropped.
    pub async fn send(&self, worker: WorkerId, body: Box<RawValue>) -> Result<(), SendError> {
        let (sent, answer) = oneshot::channel();
        let request = Request::Send { worker, body, sent };
        self.requests.send(request).await.map_err(|_ended| SendError::Gone)?;
        answer.await.unwrap_or(Err(SendError::Gone))
    }

    /// Returns what the app looks like now; `None` when it has ended.
    ///
    /// # Cancel safety
    ///
    /// Nothing is lost when the future is dropped.
    pub async fn snapshot(&self) -> Option<Snapshot> {
        let (snapshot, answer) = oneshot::channel();
        self.requests.send(Request::Inspect { app: self.id, snapshot }).await.ok()?;
        answer.await.ok()
    }

    /// Returns how many connections wait in the kernel for the app, at each socket that it listens on: those that workers
    /// asked the primary for, those of `listen`, and those that programs have bound by themselves where that was captured.
    ///
    /// # Cancel safety
    ///
    /// Nothing is lost when the future is dropped.
    pub async fn queues(&self) -> Vec<Queue> {
        let (queues, answer) = oneshot::channel();
        // An app that has ended listens nowhere.
        let _ended = self.requests.send(Request::Queues { app: self.id, queues }).await;
        answer.await.unwrap_or_default()
    }

    /// Waits until nothing of the app is left, or every slot was given up.
    ///
    /// An app that was given up runs again after [`reload`](Self::reload), and has not finished then.
    ///
    /// # Errors
    ///
    /// The engine has failed, and every worker with it; the event `engine_failed` says how.
    ///
    /// # Cancel safety
    ///
    /// It may be called again, also after it has returned.
    pub async fn finished(&self) -> Result<Outcome, EngineFailed> {
        let mut finished = self.finished.clone();
        match finished.wait_for(Option::is_some).await.map(|outcome| *outcome) {
            Ok(Some(outcome)) => Ok(outcome),
            // While it has handles it ends in no other way.
            Ok(None) | Err(_) => Err(EngineFailed),
        }
    }
}

fn last_lines(stderr: &[String]) -> String {
    if stderr.is_empty() {
        return String::new();
    }
    format!("; its last words were:\n  {}", stderr.join("\n  "))
}

impl fmt::Display for ReloadReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "generation {} is ready after {} ms", self.generation, self.took.as_millis())
    }
}
