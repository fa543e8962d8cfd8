//! Rolling reload: each slot gets a ready successor before its worker is asked to leave.
//!
//! One reload runs and at most one waits. A slot *has moved* once its generation is that of the reload. A reload
//! is done when every slot has moved and is filled by a worker that was ready; it has failed as soon as one worker of its
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
        // It replaces their predecessors, too.
        for index in 0..self.slots.len() {
            self.dismiss_successor(Slot(index as u32), DrainCause::Superseded, step);
        }
        generation
    }

    fn start_successors(&mut self, generation: Generation, step: &mut Step<'_>) {
        let mut room = self.room_for_replacements().saturating_sub(self.count_fallen(generation));
        for index in 0..self.slots.len() {
            if room == 0 {
                return;
            }
            let state = &self.slots[index];
            if state.generation != generation && state.successor.is_none() {
                self.start_successor(Slot(index as u32), generation, step);
                room -= 1;
            }
        }
    }

    pub(super) fn is_served(&self, occupant: Occupant) -> bool {
        match occupant {
            Occupant::Worker(number) => self.workers.get(&number).is_some_and(Worker::is_established),
            Occupant::BackingOff { .. } | Occupant::Errored => false,
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
        let occupant = state.occupant;
        self.dismiss_successor(slot, DrainCause::NotReady, step);
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
