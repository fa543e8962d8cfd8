//! What an app looks like now, for status listings.

use std::time::Instant;

use super::Supervisor;
use super::slot::{Occupant, Place};
use super::worker::{Answers, Escalation, Process, Stage, Worker};
use crate::event::WorkerRef;
use crate::ids::{Generation, Slot, WorkerId};

/// An app at one moment.
#[derive(Clone, Debug)]
pub struct Snapshot {
    /// The last generation that filled every slot.
    pub generation: Generation,
    /// The generation that a running reload makes.
    pub reloading_to: Option<Generation>,
    /// The slots in their order; none before the start and once the app was told to end.
    pub slots: Vec<SlotView>,
    /// The workers that are on their way out and fill no slot any more.
    pub leaving: Vec<WorkerView>,
}

/// One slot at one moment.
#[derive(Clone, Debug)]
pub struct SlotView {
    /// The slot.
    pub slot: Slot,
    /// Its failures in a row.
    pub failures: u32,
    /// Who fills it.
    pub state: SlotState,
    /// The worker that a reload or recycle has started for it.
    pub successor: Option<WorkerView>,
}

/// Who fills a slot.
#[derive(Clone, Copy, Debug)]
pub enum SlotState {
    /// This worker.
    Filled(WorkerView),
    /// Nobody until then, after a failure; while there is a successor, it is waited for instead.
    BackingOff {
        /// When it will be filled again.
        until: Instant,
    },
    /// Nobody until the next reload, after too many failures.
    Errored,
}

/// One worker at one moment.
#[derive(Clone, Copy, Debug)]
pub struct WorkerView {
    /// The worker.
    pub worker: WorkerRef,
    /// Where it stands.
    pub state: WorkerState,
    /// When it became a process; until then, when that was asked for.
    pub started: Instant,
}

/// Where a worker stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WorkerState {
    /// It was asked for and is no process yet.
    Spawning,
    /// It runs, and is not ready.
    Starting,
    /// It is in rotation.
    Ready,
    /// It serves what it has, and is out of rotation until it is resumed.
    Paused,
    /// It is in rotation by name, but leaves connections unanswered.
    Unresponsive,
    /// It is on its way out.
    Leaving,
    /// It got SIGKILL, and the kernel has not ended it in time.
    Unkillable,
    /// It ended; only its channel is still open.
    Exited,
}

impl Supervisor {
    /// Returns what the app looks like now.
    #[must_use]
    pub fn snapshot(&self) -> Snapshot {
        let slots: Vec<SlotView> =
            self.slots.iter().enumerate().map(|(index, slot)| self.view(index, slot)).collect();
        let fills_a_slot = |worker: &Worker| {
            self.slots.iter().any(|slot| {
                slot.occupant == Occupant::Worker(worker.id().number)
                    || slot.successor == Some(worker.id().number)
            })
        };
        Snapshot {
            generation: self.generation,
            reloading_to: self.reload.as_ref().map(|reload| reload.generation),
            slots,
            leaving: self.workers.values().filter(|worker| !fills_a_slot(worker)).map(Worker::view).collect(),
        }
    }

    /// Returns where a worker stands; `None` when it is gone.
    #[must_use]
    pub fn state_of(&self, worker: WorkerId) -> Option<WorkerState> {
        self.knows(worker).then(|| self.workers[&worker.number].view().state)
    }

    fn view(&self, index: usize, slot: &Place) -> SlotView {
        // Who fills or succeeds is known: `check_invariants` holds.
        let worker = |number: u32| self.workers[&number].view();
        SlotView {
            slot: Slot(index as u32),
            failures: slot.failures,
            state: match slot.occupant {
                Occupant::Worker(number) => SlotState::Filled(worker(number)),
                Occupant::BackingOff { until } => SlotState::BackingOff { until },
                Occupant::Errored => SlotState::Errored,
            },
            successor: slot.successor.map(worker),
        }
    }
}

impl Worker {
    fn view(&self) -> WorkerView {
        let state = match (&self.process, self.stage) {
            (Process::Exited { .. }, _) => WorkerState::Exited,
            (_, Stage::Leaving { escalation: Escalation::Abandoned, .. }) => WorkerState::Unkillable,
            (_, Stage::Leaving { .. }) => WorkerState::Leaving,
            (_, Stage::Ready(Answers::InTime)) => WorkerState::Ready,
            (_, Stage::Ready(Answers::Overdue { .. })) => WorkerState::Unresponsive,
            (_, Stage::Paused { .. }) => WorkerState::Paused,
            (Process::Spawning, Stage::Starting(_)) => WorkerState::Spawning,
            (Process::Running, Stage::Starting(_)) => WorkerState::Starting,
        };
        WorkerView { worker: self.reference, state, started: self.started }
    }
}
