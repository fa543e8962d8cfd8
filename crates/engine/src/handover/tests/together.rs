//! Supervision and the switchboard together, under crashes, reloads, hangs, resizes and stops.
//!
//! The supervisor's effects drive the seats, what the switchboard tells and what the kernel shows go back to the
//! supervisor, and clients connect all the time. The world's ledger watches each connection.

mod processes;

use self::processes::Processes;
use super::dice::{Count, Dice, run_seeds};
use super::world::{Fact, World};
use super::*;
use crate::event::{DrainCause, Event};
use crate::ids::{AppId, Generation};
use crate::spec::{Deadlines, Ready, RecycleLimits, Replacement, RestartPolicy, StopSignal};
use crate::supervise::{Blame, Effect, Input, Outcome, ReloadOutcome, Settings, SlotState, Supervisor};

const SEEDS: u64 = 256;
const STORM: Duration = Duration::from_secs(20);

const MUST_HAPPEN: [&str; 25] = [
    "apps errored",
    "crashes",
    "delivered by key",
    "dropped",
    "held too long",
    "held without a worker",
    "killed by a signal",
    "left by the dead",
    "limits met",
    "only reloads",
    "overdue",
    "pauses",
    "recycled",
    "refused",
    "reloads done",
    "reloads failed",
    "resumes",
    "servers closed",
    "stops in the storm",
    "stray channels",
    "taken",
    "took enough",
    "turned away",
    "uncounted",
    "workers of bad generations",
];

#[test]
fn crashes_reloads_hangs_and_stops_lose_no_connection() {
    run_seeds(SEEDS, &MUST_HAPPEN, run);
}

/// Runs one schedule: a storm, perhaps a calm after it, and the end.
fn run(seed: u64) -> Count {
    let mut app = App::new(seed);
    app.tell(Input::Start);
    let end = app.world.crowd.now + STORM;
    while app.world.crowd.now < end {
        assert!(app.step(), "clients come for ever");
    }
    if app.dice.percent(60) {
        app.calm_down();
    } else {
        app.count("stops in the storm");
    }
    app.end();
    app.world.crowd.ledger.count
}

/// One app: its supervisor, its processes, and the data plane between them and the clients.
struct App {
    supervisor: Supervisor,
    processes: Processes,
    world: World,
    line: LineId,
    dice: Dice,
    failed: Vec<Generation>,
    /// How many workers must be in rotation, once they were: nothing but reloads happens in such a schedule.
    only_reloads: Option<Steady>,
    finished: Option<Outcome>,
}

#[derive(Clone, Copy, Debug)]
struct Steady {
    instances: usize,
    was_reached: bool,
}

impl App {
    fn new(seed: u64) -> Self {
        let mut dice = Dice::new(seed ^ 0xabcd);
        let settings = random_settings(&mut dice);
        let mut world = World::new(seed);
        let choice = dice.pick(&CHOICES).unwrap_or(Choice::InTurn);
        let line = world.add_line(choice);
        // A worker that counts as ready before it has shown anything may well crash afterwards.
        let is_provable = settings.ready != Ready::Started;
        let only_reloads = (is_provable && dice.percent(30))
            .then_some(Steady { instances: settings.instances as usize, was_reached: false });
        let mut processes = Processes::new(seed, only_reloads.is_some());
        processes.plan_commands(world.crowd.now, STORM);
        if only_reloads.is_some() {
            world.crowd.ledger.count("only reloads");
        }
        let supervisor = Supervisor::new(AppId(0), settings, seed);
        Self { supervisor, processes, world, line, dice, failed: Vec::new(), only_reloads, finished: None }
    }

    fn count(&mut self, what: &'static str) {
        self.world.crowd.ledger.count(what);
    }

    fn in_rotation(&self) -> usize {
        self.world.crowd.workers.values().filter(|worker| worker.in_rotation).count()
    }

    /// Gives the supervisor an input and does what it wants; only some inputs may cost capacity.
    fn tell(&mut self, input: Input) {
        let may_lower_capacity = match input {
            Input::Start
            | Input::Reload { .. }
            | Input::Rescue { .. }
            | Input::Spawned { .. }
            | Input::SpawnFailed { .. }
            | Input::Online { .. }
            | Input::Listening { .. }
            | Input::Captured { .. }
            | Input::DoesNotWait { .. }
            | Input::Idle { .. }
            | Input::ReadyMessage { .. }
            | Input::Probed { .. }
            | Input::Overdue { .. }
            | Input::Answering { .. }
            | Input::TookEnough { .. }
            | Input::Resident { .. }
            | Input::AsksForSuccessor { .. }
            | Input::Resume { .. } => false,
            Input::Tick
            | Input::Pause { .. }
            | Input::Resize(_)
            | Input::Stop { .. }
            | Input::StopNow
            | Input::Leaving { .. }
            | Input::ChannelClosed { .. }
            | Input::Exited { .. } => true,
        };
        let before = self.in_rotation();
        let told = input.clone();
        let mut effects = Vec::new();
        self.supervisor.on(input, self.world.crowd.now, &mut effects);
        for effect in effects {
            self.perform(effect);
        }
        assert!(may_lower_capacity || self.in_rotation() >= before, "{told:?} lowered capacity");
    }

    fn perform(&mut self, effect: Effect) {
        self.processes.perform(&effect, &mut self.world, self.line);
        if let Effect::Emit(Event::Forked { worker }) = effect
            && let Some(limit) = self.supervisor.connection_limit(worker.id)
        {
            self.world.count_to(worker.id.number, limit);
        }
        match effect {
            Effect::EnterRotation { worker } => {
                self.world.set_rotation(worker.number, true);
            }
            Effect::LeaveRotation { worker } => self.world.set_rotation(worker.number, false),
            Effect::Forget { worker } => {
                if self.world.crowd.workers.contains_key(&worker.number) {
                    self.count("stray channels");
                    self.world.remove(worker.number);
                }
            }
            Effect::ReloadEnded { outcome, .. } => match outcome {
                ReloadOutcome::Done { .. } => self.count("reloads done"),
                ReloadOutcome::Failed { generation, .. } => {
                    self.failed.push(generation);
                    self.count("reloads failed");
                }
                ReloadOutcome::Superseded | ReloadOutcome::Stopped => {}
            },
            Effect::Finished { outcome } => {
                self.finished = Some(outcome);
                if outcome == Outcome::Errored {
                    self.count("apps errored");
                }
            }
            Effect::Emit(Event::Ready { worker, .. }) => {
                let generation = worker.generation;
                assert!(!self.failed.contains(&generation), "{generation} has failed, and gets connections");
            }
            Effect::Emit(Event::Draining { cause: DrainCause::Recycle, .. }) => self.count("recycled"),
            Effect::Emit(Event::Paused { .. }) => self.count("pauses"),
            Effect::Emit(Event::Resumed { .. }) => self.count("resumes"),
            Effect::Emit(Event::Exit { cause, .. }) if !cause.voluntary => self.count("crashes"),
            Effect::Spawn { .. }
            | Effect::Probe { .. }
            | Effect::Disconnect { .. }
            | Effect::AskBySignal { .. }
            | Effect::AwaitIdle { .. }
            | Effect::Signal { .. }
            | Effect::Emit(_) => {}
        }
    }

    /// Lets the next thing happen; returns false when nothing ever would.
    fn step(&mut self) -> bool {
        let (process, deadline) = (self.processes.next_at(), self.supervisor.next_deadline());
        let world = self.world.next_at();
        let Some(next) = [process, deadline, world].into_iter().flatten().min() else { return false };
        if world == Some(next) {
            self.world.step();
        } else {
            self.world.crowd.now = self.world.crowd.now.max(next);
            if process == Some(next) {
                self.processes
                    .play(&mut self.world, self.line)
                    .into_iter()
                    .for_each(|input| self.tell(input));
            } else {
                self.tell(Input::Tick);
            }
        }
        self.see_to_facts();
        self.check_steadiness();
        true
    }

    fn see_to_facts(&mut self) {
        while !self.world.facts.is_empty() {
            for fact in std::mem::take(&mut self.world.facts) {
                let worker = |number| self.processes.id(number);
                self.tell(match fact {
                    Fact::Overdue(number, waiting) => Input::Overdue { worker: worker(number), waiting },
                    Fact::TookEnough(number, connections) => {
                        Input::TookEnough { worker: worker(number), connections }
                    }
                    Fact::Answering(number) => Input::Answering { worker: worker(number) },
                    Fact::Closed(number) => Input::ChannelClosed { worker: worker(number), open: None },
                });
            }
        }
    }

    fn check_steadiness(&mut self) {
        let in_rotation = self.in_rotation();
        if let Some(steady) = &mut self.only_reloads {
            steady.was_reached |= in_rotation >= steady.instances;
            assert!(
                !steady.was_reached || in_rotation >= steady.instances,
                "{in_rotation} in rotation: {steady:?}"
            );
        }
    }

    fn calm_down(&mut self) {
        self.processes.calm_down(&self.world);
        self.world.calm_down();
        let deadline = self.world.crowd.now + Duration::from_mins(10);
        while self.step() {
            assert!(self.world.crowd.now < deadline, "all is calm, and something still happens");
        }
        let snapshot = self.supervisor.snapshot();
        assert!(snapshot.leaving.is_empty() && snapshot.reloading_to.is_none(), "left over: {snapshot:?}");
        let served = snapshot.slots.iter().filter(|slot| matches!(slot.state, SlotState::Filled(_))).count();
        assert_eq!(self.in_rotation(), served, "who fills a slot gets connections, and nobody else");
        if served > 0 {
            self.world.check_rest();
        }
    }

    /// The app is told to end; clients come until it has.
    fn end(&mut self) {
        self.only_reloads = None;
        self.finished = None;
        let deadline = self.world.crowd.now + Duration::from_secs(15);
        self.world.end_holding();
        let at_once = self.dice.percent(25);
        self.tell(if at_once { Input::StopNow } else { Input::Stop { reason: "SIGTERM".to_owned() } });
        while self.finished != Some(Outcome::Stopped) {
            assert!(self.step(), "stopping, and nothing would ever happen: {:?}", self.supervisor);
            assert!(self.world.crowd.now < deadline, "not stopped in time: {:?}", self.supervisor);
        }
        assert!(self.world.crowd.workers.is_empty(), "a worker is left: {:?}", self.world.crowd.workers);
        self.world.remove_line(self.line);
        self.world.check_rest();
    }
}

fn random_settings(dice: &mut Dice) -> Settings {
    Settings {
        instances: 1 + dice.below(4) as u32,
        has_channel: true,
        sees_listening: false,
        hands_over: true,
        ready: dice
            .pick(&[0, 0, 1, 2])
            .map(|kind| match kind {
                0 => Ready::Listening,
                1 => Ready::Message,
                _ => Ready::Started,
            })
            .unwrap_or_default(),
        deadlines: Deadlines {
            ready: Duration::from_secs(5),
            drain: Duration::from_secs(4),
            kill: Duration::from_secs(1),
            hung: Duration::from_secs(3),
            ..Deadlines::default()
        },
        stop_signal: StopSignal::TERMINATE,
        restart: RestartPolicy {
            min_delay: milliseconds(100),
            max_delay: Duration::from_secs(2),
            stable_after: Duration::from_secs(8),
            max_failures: 2 + dice.below(5) as u32,
        },
        replacement: Replacement {
            surge: 1 + dice.below(2) as u32,
            parallel: dice.percent(50).then(|| 1 + dice.below(3) as u32),
        },
        recycle: RecycleLimits {
            max_connections: dice.percent(60).then(|| 1 + dice.below(60)),
            ..RecycleLimits::default()
        },
        same_addresses: true,
    }
}
