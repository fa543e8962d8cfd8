//! The book-keeper of the simulation: it sees what goes in and out, and objects to what must never happen.
//!
//! It knows nothing of the supervisor's insides; each check is one sentence of the contract.

mod entry;

use std::collections::{BTreeMap, BTreeSet};

use self::entry::{Entry, Rotation};
use super::*;
use crate::event::{DrainCause, RecycleReason};
use crate::ids::Slot;

/// What went in and out so far.
pub(super) struct Ledger {
    has_channel: bool,
    ready: Ready,
    budget: Replacement,
    slots: usize,
    /// The worker that the input is about to pause or resume.
    steered: Option<u32>,
    /// The worker that has left rotation without relief in this tick, which only kills of hung workers excuse.
    dropped: Option<u32>,
    is_tick: bool,
    pub(super) entries: BTreeMap<u32, Entry>,
    failed: BTreeSet<Generation>,
    /// The generation that the running reload makes, and the slots that have a worker of it.
    reloading: Option<Generation>,
    moved: BTreeSet<Slot>,
    /// The generation of a worker that was down a moment after it was ready: a reload to it has to fail at once.
    fallen: Option<Generation>,
    /// The requests without an answer.
    pub(super) unanswered: BTreeSet<u64>,
    pub(super) stopped: bool,
    /// How many connections were cut since then, as far as everybody knows.
    cut_since_stop: Option<u64>,
    pub(super) finished: Vec<Outcome>,
    /// How often each kind of thing happened; a simulation in which something never happens proves nothing.
    pub(super) tally: BTreeMap<&'static str, u64>,
}

impl Ledger {
    pub(super) fn new(settings: &Settings) -> Self {
        Self {
            has_channel: settings.has_channel,
            ready: settings.ready.clone(),
            budget: settings.replacement,
            slots: settings.instances as usize,
            steered: None,
            dropped: None,
            is_tick: false,
            entries: BTreeMap::new(),
            failed: BTreeSet::new(),
            reloading: None,
            moved: BTreeSet::new(),
            fallen: None,
            unanswered: BTreeSet::new(),
            stopped: false,
            cut_since_stop: Some(0),
            finished: Vec::new(),
            tally: BTreeMap::new(),
        }
    }

    /// Notes an input before the supervisor gets it.
    pub(super) fn note_input(&mut self, input: &Input, now: Instant) {
        let ready = self.ready.clone();
        self.steered = match input {
            Input::Pause { worker } | Input::Resume { worker } => Some(worker.number),
            _ => None,
        };
        self.is_tick = matches!(input, Input::Tick);
        let mut entry = |worker: &WorkerId, note: &dyn Fn(&mut Entry)| {
            if let Some(entry) = self.entries.get_mut(&worker.number).filter(|entry| !entry.forgotten) {
                note(entry);
            }
        };
        match input {
            Input::Spawned { worker, .. } => entry(worker, &|entry| {
                entry.is_process = true;
                entry.told_ready |= matches!(ready, Ready::Started | Ready::Observed);
            }),
            Input::Listening { worker, .. } | Input::Captured { worker, .. } => {
                entry(worker, &|entry| entry.told_ready |= ready == Ready::Listening);
                let is_known = self.entries.get(&worker.number).is_some_and(|entry| !entry.forgotten);
                if is_known && ready == Ready::Observed {
                    self.ready = Ready::Listening;
                }
            }
            Input::ReadyMessage { worker } => {
                entry(worker, &|entry| entry.told_ready |= ready == Ready::Message);
            }
            Input::Probed { worker, result } => {
                entry(worker, &|entry| {
                    entry.is_probed = false;
                    entry.told_ready |= result.is_ok() && matches!(ready, Ready::Probe(_));
                });
                if result.is_err() {
                    self.count("failed probes");
                }
            }
            Input::Exited { worker, .. } => entry(worker, &|entry| {
                entry.told_exit = entry.told_exit.or(Some(now));
                entry.departed = entry.departed.or(Some(now));
            }),
            Input::ChannelClosed { worker, open } => entry(worker, &|entry| {
                if !std::mem::replace(&mut entry.told_closed, true) {
                    entry.open = *open;
                }
                entry.leaves = true;
                entry.departed = entry.departed.or(Some(now));
            }),
            Input::Leaving { worker } => entry(worker, &|entry| {
                entry.leaves = true;
                entry.departed = entry.departed.or(Some(now));
            }),
            Input::Reload { request } => {
                self.unanswered.insert(*request);
            }
            Input::Stop { .. } => self.stopped = true,
            Input::StopNow => {
                self.stopped = true;
                self.entries.values_mut().for_each(|entry| entry.is_let_go |= !entry.leaves);
            }
            Input::Resize(instances) => {
                let slots = (*instances).max(1) as usize;
                if std::mem::replace(&mut self.slots, slots) != slots {
                    self.count("resizes");
                }
                self.moved.retain(|slot| (slot.0 as usize) < slots);
                self.give_up_unborn(|slot| slot.0 as usize >= slots);
            }
            Input::SpawnFailed { worker, .. } => {
                entry(worker, &|entry| entry.unborn = !entry.is_process);
            }
            Input::Start
            | Input::Tick
            | Input::Rescue { .. }
            | Input::Online { .. }
            | Input::Idle { .. }
            | Input::Overdue { .. }
            | Input::Answering { .. }
            | Input::TookEnough { .. }
            | Input::Resident { .. }
            | Input::AsksForSuccessor { .. }
            | Input::Pause { .. }
            | Input::DoesNotWait { .. }
            | Input::Resume { .. } => {}
        }
    }

    /// Checks one effect against everything before it.
    pub(super) fn take(&mut self, effect: &Effect, now: Instant) {
        match effect {
            Effect::Spawn { worker, slot, generation } => self.take_spawn(*worker, *slot, *generation),
            Effect::Probe { worker } => {
                let entry = self.living(*worker);
                assert!(entry.is_process && entry.rotation == Rotation::Never, "nothing is to be found out");
                assert!(!std::mem::replace(&mut entry.is_probed, true), "two probes at a time");
            }
            Effect::EnterRotation { worker } => {
                let failed = self.failed.clone();
                let is_resumed = self.steered == Some(worker.number);
                let entry = self.living(*worker);
                let before = if is_resumed { Rotation::Paused } else { Rotation::Never };
                assert_eq!(entry.rotation, before, "a worker enters rotation once, and when it is resumed");
                assert!(entry.told_ready, "only a ready worker enters rotation");
                assert!(
                    entry.told_exit.is_none() && !entry.told_closed && !entry.leaves,
                    "it is on its way out"
                );
                assert!(is_resumed || !failed.contains(&entry.generation), "its generation has failed");
                entry.rotation = Rotation::In;
                entry.entered = entry.entered.or(Some(now));
                let (slot, generation) = (entry.slot, entry.generation);
                assert!(!self.stopped, "nothing enters rotation after a stop");
                if !is_resumed && self.reloading == Some(generation) {
                    self.note_move(slot, worker.number);
                }
            }
            Effect::LeaveRotation { worker } => {
                let relieved = self.is_relieved(*worker);
                assert!(self.dropped.is_none(), "a tick lowered capacity");
                self.dropped = (self.is_tick && !relieved).then_some(worker.number);
                let is_paused = self.steered == Some(worker.number);
                let entry = self.living(*worker);
                assert_eq!(entry.rotation, Rotation::In, "only who is in rotation leaves it");
                if is_paused {
                    entry.rotation = Rotation::Paused;
                } else {
                    entry.rotation = Rotation::Left { relieved };
                    entry.leaves = true;
                    entry.departed = entry.departed.or(Some(now));
                }
            }
            Effect::Disconnect { worker } => {
                let has_channel = self.has_channel;
                let entry = self.living(*worker);
                entry.disconnects += 1;
                assert_eq!(entry.disconnects, 1, "a second disconnect crashes a worker");
                assert!(has_channel && !entry.told_closed, "there is no channel to say it on");
                assert!(entry.told_exit.is_none() && entry.is_process, "there is nobody to say it to");
                self.count("disconnects");
            }
            Effect::AskBySignal { worker, .. } => self.take_ask_by_signal(*worker),
            Effect::AwaitIdle { worker } => self.take_await_idle(*worker),
            Effect::Signal { worker, signal } => {
                let entry = self.living(*worker);
                assert!(entry.is_process, "there is no process to signal");
                assert!(entry.told_exit.is_none() || *signal == libc::SIGKILL, "its main process has ended");
                entry.signalled |= entry.told_exit.is_none();
                self.dropped = self.dropped.filter(|dropped| *dropped != worker.number);
                let entry = self.living(*worker);
                entry.killed |= *signal == libc::SIGKILL;
                self.count(if *signal == libc::SIGKILL { "SIGKILL" } else { "SIGTERM" });
            }
            Effect::Forget { worker } => {
                let has_channel = self.has_channel;
                let is_last = self.stopped;
                let entry = self.living(*worker);
                if entry.abandoned && entry.told_exit.is_none() {
                    assert!(is_last, "its exit may still come");
                    entry.forgotten = true;
                    self.cut_since_stop = None;
                    return self.count("ends without a worker's end");
                }
                let exit = entry.told_exit.expect("forgotten before its exit");
                let waited_in_vain = now - exit >= seconds(1) && entry.killed;
                assert!(!has_channel || entry.told_closed || waited_in_vain, "its channel is still open");
                assert_ne!(entry.rotation, Rotation::In, "still in rotation");
                entry.forgotten = true;
                if has_channel && !self.entries[&worker.number].told_closed {
                    self.count("stray channels");
                }
            }
            Effect::ReloadEnded { request, outcome } => {
                assert!(
                    self.unanswered.remove(request),
                    "request {request} was answered before, or never made"
                );
                self.count(match outcome {
                    ReloadOutcome::Done { .. } => "reloads done",
                    ReloadOutcome::Failed { .. } => "reloads failed",
                    ReloadOutcome::Superseded => "reloads superseded",
                    ReloadOutcome::Stopped => "reloads stopped",
                });
            }
            Effect::Finished { outcome } => self.take_finished(*outcome),
            Effect::Emit(event) => self.take_event(event),
        }
    }

    fn take_finished(&mut self, outcome: Outcome) {
        self.finished.push(outcome);
        let left = self.entries.values().find(|entry| entry.is_left() && !entry.abandoned);
        assert!(left.is_none(), "finished, but a worker is left: {left:?}");
    }

    fn take_await_idle(&mut self, worker: WorkerId) {
        let entry = self.living(worker);
        assert!(entry.told_exit.is_none() && entry.is_process, "there is nobody to wait for");
        assert!(!std::mem::replace(&mut entry.awaited_idle, true), "it is waited for twice");
        self.count("waits until idle");
    }

    fn take_ask_by_signal(&mut self, worker: WorkerId) {
        let entry = self.living(worker);
        assert!(entry.is_process && entry.told_exit.is_none(), "there is nobody to ask");
        assert!(!entry.signalled, "it was asked more roughly before");
        self.count("stop signals");
    }

    fn take_spawn(&mut self, worker: WorkerId, slot: Slot, generation: Generation) {
        assert!(!self.stopped, "spawn after a stop");
        assert!(!self.failed.contains(&generation), "spawn of a failed generation");
        let highest = self.entries.keys().next_back().copied().unwrap_or(0);
        assert_eq!(worker.number, highest + 1, "numbers count up");
        let succeeds = self.entries.values().any(|entry| entry.slot == slot && entry.serves());
        let entry = Entry::new(slot, generation, succeeds);
        self.entries.insert(worker.number, entry);
        self.count("spawns");
        // Whoever crashed or hung serves nobody: to fill its slot asks no budget.
        if succeeds {
            self.check_budget();
        }
    }

    /// Notes that the reload has moved a slot, which it may only while all that it has moved are served.
    fn note_move(&mut self, slot: Slot, newcomer: u32) {
        let is_served = |slot: Slot, but: u32| {
            self.entries.iter().any(|(number, entry)| *number != but && entry.slot == slot && entry.serves())
        };
        if is_served(slot, newcomer) {
            let fallen = self.moved.iter().find(|moved| !is_served(**moved, 0));
            assert!(fallen.is_none(), "slot {slot} moves while slot {fallen:?} has no worker");
        }
        self.moved.insert(slot);
    }

    /// Notes a worker that ends by its own doing, or that of its build.
    fn note_end(&mut self, worker: WorkerId) {
        let entry = &self.entries[&worker.number];
        let served = entry.departed.zip(entry.entered).map(|(until, from)| until - from);
        if served.is_some_and(|served| served < seconds(1)) && self.reloading == Some(entry.generation) {
            self.fallen = Some(entry.generation);
            self.count("falls");
        }
    }

    /// Checks that no more is said of connections than is known, and no less.
    fn check_cut(&mut self, worker: WorkerId, cut: Option<u64>) {
        let entry = &self.entries[&worker.number];
        let is_known = match entry.open {
            _ if self.has_channel && entry.entered.is_none() => cut == Some(0),
            None | Some(0) => cut == entry.open,
            Some(_) => cut == entry.open.filter(|_| entry.is_let_go && entry.signalled),
        };
        assert!(is_known, "{cut:?} of {entry:?}");
        if self.stopped {
            self.cut_since_stop = self.cut_since_stop.zip(cut).map(|(all, cut)| all + cut);
        }
        self.count(match cut {
            None => "unknown cuts",
            Some(0) => "ends without a cut",
            Some(_) => "cuts",
        });
    }

    /// Checks what the input had to lead to.
    pub(super) fn check_consequences(&mut self) {
        assert!(self.dropped.is_none(), "a tick lowered capacity");
        if let Some(generation) = self.fallen.take() {
            assert_ne!(self.reloading, Some(generation), "it goes on with a build that does not hold");
        }
    }

    /// Notes that successors are not wanted any more; that is not told of those that are no processes yet.
    fn give_up_unborn(&mut self, is_meant: impl Fn(Slot) -> bool) {
        let unborn = self.entries.values_mut().filter(|entry| entry.succeeds && !entry.is_process);
        unborn.filter(|entry| is_meant(entry.slot)).for_each(|entry| entry.leaves = true);
    }

    /// Checks what everybody can see of the budget when a successor is started.
    fn check_budget(&self) {
        let starts = |entry: &&Entry| {
            let is_there = !entry.unborn && !entry.leaves && entry.told_exit.is_none();
            entry.succeeds && entry.rotation == Rotation::Never && is_there
        };
        let ends = |entry: &&Entry| entry.replaced && !entry.forgotten && !entry.unborn && !entry.abandoned;
        let starting = self.entries.values().filter(starts).count();
        let ending = self.entries.values().filter(ends).count();
        assert!(starting <= self.budget.surge as usize, "{starting} successors start at a time");
        let parallel = self.budget.parallel.map_or(self.slots, |count| count as usize);
        assert!(starting + ending <= parallel, "{starting} starting and {ending} ending replacements");
    }

    /// Returns true when a newer worker of the same slot is in rotation.
    fn is_relieved(&self, worker: WorkerId) -> bool {
        let slot = self.entries[&worker.number].slot;
        let serves = |other: &Entry| other.rotation == Rotation::In && other.slot == slot;
        self.entries.range(worker.number + 1..).any(|(_, other)| serves(other))
    }

    fn take_event(&mut self, event: &Event) {
        match event {
            Event::Draining { worker, cause } => {
                let is_relieved = self.is_relieved(worker.id);
                let entry = self.living(worker.id);
                entry.leaves = true;
                entry.is_let_go = true;
                match cause {
                    DrainCause::Reload | DrainCause::Recycle => {
                        let free = match entry.rotation {
                            Rotation::Never => true,
                            Rotation::In => false,
                            Rotation::Paused => is_relieved && *cause == DrainCause::Reload,
                            Rotation::Left { relieved } => relieved,
                        };
                        assert!(free, "a replacement lowered capacity: {entry:?}");
                        entry.replaced = true;
                        if *cause == DrainCause::Recycle {
                            self.count("recycles done");
                        }
                    }
                    DrainCause::Superseded => {
                        assert_eq!(entry.rotation, Rotation::Never, "a reload took a serving worker");
                        self.count("recycles superseded");
                    }
                    DrainCause::NotReady => {
                        assert_eq!(entry.rotation, Rotation::Never, "a failed reload took a serving worker");
                    }
                    DrainCause::Asked => self.note_end(worker.id),
                    DrainCause::Rescued => {
                        assert_eq!(entry.rotation, Rotation::Never, "a rescuer gets nothing new");
                        self.count("rescues");
                    }
                    DrainCause::Stop | DrainCause::Resize => {}
                }
            }
            Event::Unkillable { worker, .. } => {
                let entry = self.living(worker.id);
                let is_new = !std::mem::replace(&mut entry.abandoned, true);
                assert!(is_new && entry.killed && entry.told_exit.is_none(), "{entry:?}");
                self.count("survivals");
            }
            Event::Stopped { cut } => assert_eq!(*cut, self.cut_since_stop, "the sum of its workers"),
            Event::Exit { worker, cause, cut, .. } => {
                self.check_cut(worker.id, *cut);
                if !cause.voluntary && !self.entries[&worker.id.number].abandoned {
                    self.note_end(worker.id);
                }
                let entry = self.entries.get_mut(&worker.id.number).expect("exit of an unknown worker");
                entry.exits += 1;
                assert_eq!(entry.exits, 1, "an exit is told once");
                if entry.rotation == Rotation::Paused {
                    self.count("ends of paused workers");
                }
            }
            Event::ReloadStarted { generation } => {
                self.reloading = Some(*generation);
                self.moved.clear();
                self.give_up_unborn(|_| true);
            }
            Event::ReloadDone { .. } => self.reloading = None,
            Event::ReloadFailed { generation, .. } => {
                self.reloading = None;
                self.give_up_unborn(|_| true);
                assert!(self.failed.insert(*generation), "it failed before");
            }
            Event::Recycling { reason, .. } => self.count(match reason {
                RecycleReason::Connections { .. } => "recycles by connections",
                RecycleReason::Age { .. } => "recycles by age",
                RecycleReason::Memory { .. } => "recycles by memory",
                RecycleReason::Asked => "recycles by request",
            }),
            Event::RecycleFailed { slot, .. } => {
                self.give_up_unborn(|failed| failed == *slot);
                self.count("recycles failed");
            }
            Event::Paused { worker, .. } => {
                if self.reloading.is_none() {
                    self.give_up_unborn(|slot| slot == worker.slot);
                }
                self.count("pauses");
            }
            Event::Resumed { .. } => self.count("resumes"),
            Event::SpawnFailed { .. } => self.count("spawns failed"),
            Event::NotReady { .. } => self.count("late starts"),
            Event::Errored { .. } => self.count("slots errored"),
            Event::Restart { .. } => self.count("restarts"),
            Event::Unresponsive { .. } => self.count("hangs"),
            _ => {}
        }
    }

    fn living(&mut self, worker: WorkerId) -> &mut Entry {
        let entry =
            self.entries.get_mut(&worker.number).expect("an effect for a worker that was never asked for");
        assert!(!entry.forgotten, "an effect for worker {} after it was forgotten", worker.number);
        entry
    }

    pub(super) fn count(&mut self, what: &'static str) {
        *self.tally.entry(what).or_default() += 1;
    }

    /// Returns how many signals were sent.
    pub(super) fn signals(&self) -> u64 {
        ["SIGTERM", "SIGKILL"].iter().filter_map(|name| self.tally.get(name)).sum()
    }

    pub(super) fn in_rotation(&self) -> usize {
        self.entries.values().filter(|entry| entry.rotation == Rotation::In).count()
    }

    pub(super) fn is_one_per_slot(&self) -> bool {
        let slots =
            self.entries.values().filter(|entry| entry.rotation == Rotation::In).map(|entry| entry.slot);
        slots.collect::<BTreeSet<_>>().len() == self.in_rotation()
    }

    /// Returns a worker that is told to leave, and whose end something waits for.
    pub(super) fn on_its_way_out(&self) -> Option<&Entry> {
        let waits = |entry: &&Entry| entry.leaves && entry.told_exit.is_none() && !entry.abandoned;
        self.entries.values().filter(|entry| entry.is_left()).find(waits)
    }
}
