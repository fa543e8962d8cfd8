//! The slots of an app: who fills them, and what happens when nobody does.

use std::time::{Duration, Instant};

use super::backoff;
use super::contract::{Blame, Effect};
use super::readiness::Proof;
use super::recycle::{Limits, Wish};
use super::reload::Refusal;
use super::step::Step;
use super::worker::{Channel, Heard, Probation, Process, Stage, Worker};
use super::{Phase, Supervisor};
use crate::event::{Event, WorkerRef};
use crate::ids::{Generation, Slot, WorkerId};

/// One slot.
#[derive(Clone, Debug)]
pub(super) struct Place {
    /// The generation that the next worker of this slot is started for.
    pub(super) generation: Generation,
    /// Failures in a row.
    pub(super) failures: u32,
    pub(super) occupant: Occupant,
    /// The number of the worker that a reload or recycle has started for this slot; it takes the slot once it is ready.
    ///
    /// While a reload runs, successors are its own.
    pub(super) successor: Option<u32>,
}

/// Who fills a slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Occupant {
    /// The worker of this number.
    Worker(u32),
    /// Nobody until then; while there is a successor, it is waited for instead.
    BackingOff { until: Instant },
    /// Nobody until the next reload.
    Errored,
}

impl Place {
    /// Returns when the slot has to be filled again.
    pub(super) fn deadline(&self) -> Option<Instant> {
        match (self.occupant, self.successor) {
            (Occupant::BackingOff { until }, None) => Some(until),
            (Occupant::BackingOff { .. }, Some(_)) | (Occupant::Worker(_) | Occupant::Errored, _) => None,
        }
    }
}

impl Supervisor {
    /// Adds slots up to `count` and fills them.
    pub(super) fn add_slots(&mut self, count: u32, step: &mut Step<'_>) {
        for index in self.slots.len() as u32..count {
            let number = self.spawn(Slot(index), self.generation, step);
            self.slots.push(Place {
                generation: self.generation,
                failures: 0,
                occupant: Occupant::Worker(number),
                successor: None,
            });
        }
    }

    /// Fills a slot with a new worker of the slot's generation.
    pub(super) fn fill(&mut self, slot: Slot, step: &mut Step<'_>) {
        let Some(generation) = self.slot(slot).map(|state| state.generation) else { return };
        let number = self.spawn(slot, generation, step);
        self.set_occupant(slot, Occupant::Worker(number));
    }

    /// Asks for a worker process and returns the worker's number.
    pub(super) fn spawn(&mut self, slot: Slot, generation: Generation, step: &mut Step<'_>) -> u32 {
        debug_assert_eq!(self.phase, Phase::Running, "only a running app starts workers");
        self.last_number += 1;
        let worker = WorkerId { app: self.app, number: self.last_number };
        let limits = Limits::of_one_worker(&self.settings.recycle, self.jitter.about_one());
        let channel = if self.settings.has_channel { Channel::Open } else { Channel::Absent };
        self.workers.insert(
            worker.number,
            Worker {
                reference: WorkerRef { id: worker, slot, generation, pid: 0 },
                started: step.now,
                process: Process::Spawning,
                channel,
                open: None,
                heard: Heard::Nothing,
                obstacle: None,
                proof: Proof::Awaited,
                addresses: Vec::new(),
                expected: Vec::new(),
                ready_since: None,
                departed: None,
                stage: Stage::Starting(Probation::Open),
                limits,
                retires_at: None,
                wish: Wish::Stay,
            },
        );
        step.push(Effect::Spawn { worker, slot, generation });
        worker.number
    }

    pub(super) fn slot(&mut self, slot: Slot) -> Option<&mut Place> {
        self.slots.get_mut(slot.0 as usize)
    }

    pub(super) fn set_occupant(&mut self, slot: Slot, occupant: Occupant) {
        if let Some(state) = self.slot(slot) {
            state.occupant = occupant;
        }
    }

    /// Returns the slot that the worker fills, unless it is on its way out of it.
    pub(super) fn slot_filled_by(&mut self, worker: &WorkerRef) -> Option<&mut Place> {
        let occupant = Occupant::Worker(worker.id.number);
        self.slot(worker.slot).filter(|state| state.occupant == occupant)
    }

    /// Empties the slot of a worker that failed: it backs off, or is given up, but not for what the system lacks.
    ///
    /// `served` is how long the worker had been up if it ever was ready.
    pub(super) fn fail_slot(
        &mut self,
        worker: &WorkerRef,
        served: Option<Duration>,
        blame: Blame,
        step: &mut Step<'_>,
    ) {
        let policy = self.settings.restart;
        let slot = worker.slot;
        let Some(state) = self.slot_filled_by(worker) else { return };
        if served.is_some_and(|uptime| uptime >= policy.stable_after) {
            state.failures = 0;
        }
        state.failures = match blame {
            Blame::Program => state.failures + 1,
            Blame::System => (state.failures + 1).min(policy.max_failures.saturating_sub(1)),
        };
        let (failures, generation) = (state.failures, state.generation);
        if failures < policy.max_failures || blame == Blame::System {
            let awaited = state.successor.is_some();
            let delay = backoff::delay(&policy, failures, &mut self.jitter);
            self.set_occupant(slot, Occupant::BackingOff { until: step.after(delay) });
            if !awaited {
                step.emit(Event::Restart { slot, failures, delay });
            }
        } else {
            self.set_occupant(slot, Occupant::Errored);
            step.emit(Event::Errored { slot, failures });
            if self.is_reloading_to(generation) {
                let reason = format!("slot {slot} failed {failures} times in a row");
                self.fail_reload(Refusal { worker: worker.id, reason, stderr: Vec::new() }, step);
            }
        }
    }
}
