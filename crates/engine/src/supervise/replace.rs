//! Replacing the worker of a slot, whatever for: the one budget, and how a slot goes to its successor.
//!
//! A replacement goes on from the start of the successor until the predecessor is gone. A crash is no replacement: its
//! slot is filled without asking the budget.

use super::Supervisor;
use super::reload::Refusal;
use super::slot::Occupant;
use super::step::Step;
use super::worker::Worker;
use crate::event::{DrainCause, Event, WorkerRef};
use crate::ids::{Generation, Slot};

impl Supervisor {
    /// Returns how many replacements may begin now.
    pub(super) fn room_for_replacements(&self) -> usize {
        let budget = self.settings.replacement;
        let parallel = budget.parallel.map_or(self.slots.len(), |count| count.max(1) as usize);
        let starting = self.slots.iter().filter(|slot| slot.successor.is_some()).count();
        let ending = self.workers.values().filter(|worker| worker.ends_a_replacement()).count();
        let surge = budget.surge.max(1) as usize;
        surge.saturating_sub(starting).min(parallel.saturating_sub(starting + ending))
    }

    /// Starts a worker that takes the slot once it is ready.
    pub(super) fn start_successor(&mut self, slot: Slot, generation: Generation, step: &mut Step<'_>) {
        let number = self.spawn(slot, generation, step);
        let Some(state) = self.slot(slot) else { return };
        debug_assert!(state.successor.is_none(), "a slot has one successor");
        state.successor = Some(number);
        match state.occupant {
            Occupant::Worker(predecessor) => self.expect_addresses_of(predecessor, number),
            Occupant::BackingOff { .. } | Occupant::Errored => {}
        }
    }

    /// Gives the slot to its successor when that is the worker which has just entered rotation.
    pub(super) fn hand_slot_to(&mut self, worker: &WorkerRef, step: &mut Step<'_>) {
        let generation = worker.generation;
        let cause = if self.is_reloading_to(generation) { DrainCause::Reload } else { DrainCause::Recycle };
        let number = worker.id.number;
        let Some(state) = self.slot(worker.slot).filter(|state| state.successor == Some(number)) else {
            return;
        };
        let predecessor = std::mem::replace(&mut state.occupant, Occupant::Worker(number));
        state.successor = None;
        if state.generation != generation {
            state.generation = generation;
            state.failures = 0;
        }
        match predecessor {
            Occupant::Worker(old) => self.drain(old, cause, step),
            Occupant::BackingOff { .. } | Occupant::Errored => {}
        }
    }

    /// Returns true when it depends on this worker whether a reload or recycle fails.
    pub(super) fn is_on_trial(&self, worker: &WorkerRef) -> bool {
        self.is_reloading_to(worker.generation) || self.is_successor(worker)
    }

    /// Returns true when a reload or recycle has started this worker, and its slot still is another's.
    pub(super) fn is_successor(&self, worker: &WorkerRef) -> bool {
        let place = self.slots.get(worker.slot.0 as usize);
        place.is_some_and(|place| place.successor == Some(worker.id.number))
    }

    /// Ends what the worker was on trial for.
    pub(super) fn fail_trial(&mut self, worker: &WorkerRef, refusal: Refusal, step: &mut Step<'_>) {
        if self.is_reloading_to(worker.generation) {
            self.fail_reload(refusal, step);
        } else if self.is_successor(worker) {
            self.fail_recycle(worker.slot, refusal, step);
        }
    }

    /// Lets the successor of a slot go; without a worker the slot waits for its restart again.
    pub(super) fn dismiss_successor(&mut self, slot: Slot, cause: DrainCause, step: &mut Step<'_>) {
        let Some(state) = self.slot(slot) else { return };
        let (occupant, failures) = (state.occupant, state.failures);
        let Some(successor) = state.successor.take() else { return };
        self.drain(successor, cause, step);
        if let Occupant::BackingOff { until } = occupant {
            let delay = until.saturating_duration_since(step.now);
            step.emit(Event::Restart { slot, failures, delay });
        }
    }
}

impl Worker {
    /// Returns true while a replacement goes on only because this worker is not gone.
    ///
    /// A successor that failed does not count: the build that mends it must not wait for its end. Nor does one that the
    /// kernel does not end.
    fn ends_a_replacement(&self) -> bool {
        match self.drained_for() {
            Some(DrainCause::Reload | DrainCause::Recycle) => !self.is_abandoned(),
            Some(
                DrainCause::NotReady
                | DrainCause::Superseded
                | DrainCause::Stop
                | DrainCause::Resize
                | DrainCause::Rescued
                | DrainCause::Asked,
            )
            | None => false,
        }
    }
}
