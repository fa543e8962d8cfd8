//! Rolling reload: each slot gets a ready successor before its worker is asked to leave.
//!
//! One reload runs and at most one waits. A slot *has moved* once its generation is that of the reload. A reload
//! is done when every slot has moved and is filled by a ready worker; it has failed as soon as one worker of its
//! generation shows that it will not become ready. After a failure no further worker of that generation enters
//! rotation; those that are in rotation stay, and their slots go back to the last complete generation when they
//! end.

use std::time::Instant;

use super::contract::{Effect, ReloadOutcome};
use super::slot::Occupant;
use super::step::Step;
use super::worker::Worker;
use super::{Phase, Supervisor};
use crate::event::{DrainCause, Event};
use crate::ids::{Generation, Slot, WorkerId};

/// The reload that runs.
#[derive(Clone, Debug)]
pub(super) struct Reload {
    request: u64,
    pub(super) generation: Generation,
    began: Instant,
}

/// Why a generation is not trusted.
#[derive(Debug)]
pub(super) struct Refusal {
    /// The worker that showed it.
    pub(super) worker: WorkerId,
    pub(super) reason: String,
    pub(super) stderr: Vec<String>,
}

impl Supervisor {
    /// Queues a reload; [`Self::advance_reload`] begins it.
    pub(super) fn request_reload(&mut self, request: u64, step: &mut Step<'_>) {
        match self.phase {
            Phase::New | Phase::Stopping(_) | Phase::Finished => {
                step.push(Effect::ReloadEnded { request, outcome: ReloadOutcome::Stopped });
            }
            Phase::Running | Phase::Errored => {
                self.phase = Phase::Running;
                if let Some(request) = self.waiting_reload.replace(request) {
                    step.push(Effect::ReloadEnded { request, outcome: ReloadOutcome::Superseded });
                }
            }
        }
    }

    /// Does what the reload can do now: begin, start successors, end.
    pub(super) fn advance_reload(&mut self, step: &mut Step<'_>) {
        loop {
            let generation = match &self.reload {
                Some(reload) => reload.generation,
                None => match self.waiting_reload.take() {
                    Some(request) => self.begin_reload(request, step),
                    None => return,
                },
            };
            self.admit_successors(step);
            self.start_successors(generation, step);
            if !self.slots.iter().all(|slot| slot.generation == generation && self.is_served(slot.occupant)) {
                return;
            }
            if let Some(reload) = self.reload.take() {
                let took = step.now.saturating_duration_since(reload.began);
                self.generation = generation;
                step.emit(Event::ReloadDone { generation, took });
                let outcome = ReloadOutcome::Done { generation, took };
                step.push(Effect::ReloadEnded { request: reload.request, outcome });
            }
        }
    }

    fn begin_reload(&mut self, request: u64, step: &mut Step<'_>) -> Generation {
        self.last_generation.0 += 1;
        let generation = self.last_generation;
        self.reload = Some(Reload { request, generation, began: step.now });
        step.emit(Event::ReloadStarted { generation });
        generation
    }

    fn start_successors(&mut self, generation: Generation, step: &mut Step<'_>) {
        let starting = self.slots.iter().filter(|slot| slot.successor.is_some()).count();
        let mut in_flight = starting + self.count_fallen(generation);
        for index in 0..self.slots.len() {
            if in_flight >= self.settings.surge as usize {
                return;
            }
            let state = &self.slots[index];
            if state.generation != generation && state.successor.is_none() {
                let predecessor = state.occupant;
                let number = self.spawn(Slot(index as u32), generation, step);
                self.slots[index].successor = Some(number);
                match predecessor {
                    Occupant::Worker(predecessor) => self.expect_addresses_of(predecessor, number),
                    Occupant::BackingOff { .. } | Occupant::Errored => {}
                }
                in_flight += 1;
            }
        }
    }

    pub(super) fn is_served(&self, occupant: Occupant) -> bool {
        match occupant {
            Occupant::Worker(number) => self.workers.get(&number).is_some_and(Worker::is_ready),
            Occupant::BackingOff { .. } | Occupant::Errored => false,
        }
    }

    /// Gives the slot to its successor when that is the worker which has just entered rotation.
    pub(super) fn hand_slot_to(
        &mut self,
        number: u32,
        slot: Slot,
        generation: Generation,
        step: &mut Step<'_>,
    ) {
        let Some(state) = self.slot(slot).filter(|state| state.successor == Some(number)) else { return };
        let predecessor = std::mem::replace(&mut state.occupant, Occupant::Worker(number));
        state.successor = None;
        state.generation = generation;
        state.failures = 0;
        match predecessor {
            Occupant::Worker(old) => self.drain(old, DrainCause::Reload, step),
            Occupant::BackingOff { .. } | Occupant::Errored => {}
        }
    }

    pub(super) fn is_reloading_to(&self, generation: Generation) -> bool {
        self.reload.as_ref().is_some_and(|reload| reload.generation == generation)
    }

    /// Ends the running reload as failed: what is not ready yet of its generation goes, everything else stays.
    pub(super) fn fail_reload(&mut self, refusal: Refusal, step: &mut Step<'_>) {
        let Some(Reload { request, generation, .. }) = self.reload.take() else { return };
        let Refusal { worker, reason, stderr } = refusal;
        step.emit(Event::ReloadFailed {
            generation,
            worker: Some(worker),
            reason: reason.clone(),
            stderr: stderr.clone(),
        });
        for index in 0..self.slots.len() {
            self.return_slot(Slot(index as u32), generation, step);
        }
        let outcome = ReloadOutcome::Failed { generation, worker, reason, stderr };
        step.push(Effect::ReloadEnded { request, outcome });
    }

    /// Takes a slot back from a failed generation.
    fn return_slot(&mut self, slot: Slot, failed: Generation, step: &mut Step<'_>) {
        let complete = self.generation;
        let Some(state) = self.slot(slot) else { return };
        let has_moved = state.generation == failed;
        if has_moved {
            state.generation = complete;
        }
        let (occupant, failures) = (state.occupant, state.failures);
        if let Some(successor) = state.successor.take() {
            self.drain(successor, DrainCause::NotReady, step);
            if let Occupant::BackingOff { until } = occupant {
                let delay = until.saturating_duration_since(step.now);
                step.emit(Event::Restart { slot, failures, delay });
            }
        }
        match occupant {
            Occupant::Worker(number)
                if has_moved && self.workers.get(&number).is_some_and(Worker::is_starting) =>
            {
                self.drain(number, DrainCause::NotReady, step);
                self.fill(slot, step);
            }
            Occupant::Worker(_) | Occupant::BackingOff { .. } | Occupant::Errored => {}
        }
    }

    /// Ends the reloads that run or wait because the app ends.
    pub(super) fn cancel_reloads(&mut self, step: &mut Step<'_>) {
        if let Some(Reload { request, generation, .. }) = self.reload.take() {
            step.emit(Event::ReloadFailed {
                generation,
                worker: None,
                reason: "the app was told to end".to_owned(),
                stderr: Vec::new(),
            });
            step.push(Effect::ReloadEnded { request, outcome: ReloadOutcome::Stopped });
        }
        if let Some(request) = self.waiting_reload.take() {
            step.push(Effect::ReloadEnded { request, outcome: ReloadOutcome::Stopped });
        }
    }
}
