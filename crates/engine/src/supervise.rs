//! Supervision of one app, as a pure state machine: inputs and the time go in, effects come out.
//!
//! A **worker** lives through `starting → ready → leaving`, and is gone when its exit was seen *and* its channel
//! is closed, in whichever order. It is in rotation exactly while it is ready and not paused, it never comes back
//! from leaving, and what makes it leave by force (SIGTERM, SIGKILL) is always armed while it does.
//!
//! A **slot** is filled by a worker, backs off after a failure, or is given up (errored). In a reload or recycle it has
//! a successor besides, which takes the slot at the moment it is ready; only then is the old worker asked to leave.
//!
//! An **app** goes `new → running → stopping → finished`; it is errored while every slot is given up.
//!
//! There is no clock, no randomness, no I/O and no lock in here: the shell owns a [`Supervisor`], reports what
//! happened to [`Supervisor::on`], performs the effects in their order, and wakes it at
//! [`Supervisor::next_deadline`].

mod backoff;
mod commands;
mod contract;
mod endings;
mod facts;
mod invariants;
mod pause;
mod readiness;
mod recycle;
mod reload;
mod replace;
mod rescue;
mod slot;
mod snapshot;
mod step;
#[cfg(test)]
mod tests;
mod worker;

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use self::backoff::Jitter;
pub use self::contract::{Blame, Effect, Input, Outcome, ReloadOutcome, Settings, Traffic};
use self::reload::Reload;
use self::rescue::Rescuer;
use self::slot::Place;
pub use self::snapshot::{SlotState, SlotView, Snapshot, WorkerState, WorkerView};
use self::step::Step;
use self::worker::{Heard, Worker};
use crate::event::RecycleReason;
use crate::ids::{AppId, Generation, WorkerId};
use crate::spec::{Deadlines, Ready};

/// The shortest deadline of a worker that leaves.
const SHORTEST: Duration = Duration::from_millis(1);

/// Decides what happens to the workers of one app.
///
/// ```
/// use std::time::Instant;
/// use worksong_engine::ids::AppId;
/// use worksong_engine::spec::{Deadlines, Ready, RecycleLimits, Replacement, RestartPolicy, StopSignal};
/// use worksong_engine::supervise::{Effect, Input, Settings, Supervisor};
///
/// let settings = Settings {
///     instances: 2,
///     has_channel: true,
///     sees_listening: false,
///     hands_over: true,
///     ready: Ready::Auto,
///     deadlines: Deadlines::default(),
///     stop_signal: StopSignal::default(),
///     restart: RestartPolicy::default(),
///     replacement: Replacement::default(),
///     recycle: RecycleLimits::default(),
///     same_addresses: true,
/// };
/// let mut supervisor = Supervisor::new(AppId(0), settings, 42);
/// let mut effects = Vec::new();
/// supervisor.on(Input::Start, Instant::now(), &mut effects);
/// assert!(effects.iter().all(|effect| matches!(effect, Effect::Spawn { .. })));
/// assert_eq!(effects.len(), 2);
/// ```
#[derive(Clone, Debug)]
pub struct Supervisor {
    app: AppId,
    settings: Settings,
    phase: Phase,
    slots: Vec<Place>,
    /// Every worker that is not gone, by number.
    workers: BTreeMap<u32, Worker>,
    last_number: u32,
    /// The last generation that filled every slot; what new slots are filled with.
    generation: Generation,
    /// The last generation that was begun, complete or not.
    last_generation: Generation,
    reload: Option<Reload>,
    /// The request of the reload that waits for the running one.
    waiting_reload: Option<u64>,
    /// A worker beside those of slots.
    rescuer: Option<Rescuer>,
    jitter: Jitter,
    /// How many connections were cut since the app was told to end; `None` when nobody knows.
    cut_by_stop: Option<u64>,
    /// When it got its last input.
    awake_at: Option<Instant>,
}

/// Where the app stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    New,
    Running,
    /// Every slot is given up, no worker is left, and that was told.
    Errored,
    Stopping(Urgency),
    Finished,
}

/// How an app stops.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Urgency {
    Drain,
    AtOnce,
}

impl Supervisor {
    /// Makes the supervisor of an app that [`Input::Start`] will start; `seed` is the source of all jitter.
    #[must_use]
    pub fn new(app: AppId, mut settings: Settings, seed: u64) -> Self {
        settings.instances = settings.instances.max(1);
        // What is over at once would be due again in the tick that begins it.
        let Deadlines { drain, kill, .. } = &mut settings.deadlines;
        *drain = SHORTEST.max(*drain);
        *kill = SHORTEST.max(*kill);
        settings.ready = match settings.ready {
            Ready::Auto if settings.has_channel || settings.sees_listening => Ready::Listening,
            Ready::Auto => Ready::Started,
            resolved @ (Ready::Listening
            | Ready::Message
            | Ready::Started
            | Ready::Observed
            | Ready::Probe(_)) => resolved,
        };
        Self {
            app,
            settings,
            phase: Phase::New,
            slots: Vec::new(),
            workers: BTreeMap::new(),
            last_number: 0,
            generation: Generation(1),
            last_generation: Generation(1),
            reload: None,
            waiting_reload: None,
            rescuer: None,
            jitter: Jitter::new(seed),
            cut_by_stop: Some(0),
            awake_at: None,
        }
    }

    /// Takes one input and appends what the shell has to do about it, in order.
    ///
    /// `now` must not run backwards. An input about an unknown worker or another app changes nothing.
    pub fn on(&mut self, input: Input, now: Instant, effects: &mut Vec<Effect>) {
        // Workers are forgotten before the last facts about them arrive.
        if input.worker().is_some_and(|worker| !self.knows(worker)) {
            return;
        }
        self.forgive_sleep(now);
        self.awake_at = Some(now);
        let mut step = Step { now, effects };
        self.take(input, &mut step);
        self.settle(&mut step);
        if cfg!(debug_assertions) {
            self.check_invariants();
        }
    }

    /// Returns whether a worker was let go, and may finish what it does until the deadline that is set.
    pub(crate) fn is_draining(&self, worker: WorkerId) -> bool {
        self.knows(worker) && self.workers[&worker.number].is_draining()
    }

    fn knows(&self, worker: WorkerId) -> bool {
        worker.app == self.app && self.workers.contains_key(&worker.number)
    }

    fn take(&mut self, input: Input, step: &mut Step<'_>) {
        match input {
            Input::Start => self.start(step),
            Input::Tick => self.tick(step),
            Input::Reload { request } => self.request_reload(request, step),
            Input::Resize(instances) => self.resize(instances, step),
            Input::Rescue { slot, traffic } => self.rescue(slot, traffic, step),
            Input::Stop { reason } => self.stop(reason, Urgency::Drain, step),
            Input::StopNow => self.stop("to end at once".to_owned(), Urgency::AtOnce, step),
            Input::Spawned { worker, pid } => self.spawned(worker.number, pid, step),
            Input::SpawnFailed { worker, reason, blame } => {
                self.spawn_failed(worker.number, &reason, blame, step);
            }
            Input::Online { worker } => self.online(worker.number, step),
            Input::Listening { worker, address, port } => {
                self.hear(worker.number, Heard::Listening);
                self.listening(worker.number, address, port, step);
            }
            Input::Captured { worker, address, port } => {
                self.settings.hands_over = false;
                self.hear(worker.number, Heard::Captured);
                self.listening(worker.number, address, port, step);
            }
            Input::DoesNotWait { worker, why } => self.does_not_wait(worker.number, why),
            Input::Idle { worker } => self.idle(worker.number, step),
            Input::ReadyMessage { worker } => self.ready_message(worker.number, step),
            Input::Probed { worker, result } => self.probed(worker.number, result, step),
            Input::Leaving { worker } => self.leaving(worker.number, step),
            Input::ChannelClosed { worker, open } => self.channel_closed(worker.number, open, step),
            Input::Exited { worker, status, stderr } => self.exited(worker.number, status, stderr, step),
            Input::Overdue { worker, waiting } => self.overdue(worker.number, waiting, step),
            Input::Answering { worker } => self.answering(worker.number, step),
            Input::TookEnough { worker, connections } => self.took_enough(worker.number, connections, step),
            Input::Resident { worker, bytes } => self.resident(worker.number, bytes, step),
            Input::AsksForSuccessor { worker } => {
                self.wish_to_recycle(worker.number, RecycleReason::Asked, step);
            }
            Input::Pause { worker } => self.pause(worker.number, step),
            Input::Resume { worker } => self.resume(worker.number, step),
        }
    }

    /// Returns when [`Input::Tick`] is due at the latest; `None` while only facts can change anything.
    ///
    /// After a tick at that time it lies in the future.
    #[must_use]
    pub fn next_deadline(&self) -> Option<Instant> {
        let workers = self.workers.values().filter_map(Worker::deadline);
        let slots = self.slots.iter().filter_map(Place::deadline);
        workers.chain(slots).min()
    }
}
