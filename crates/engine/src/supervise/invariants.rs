//! What always holds between two inputs.

use super::slot::Occupant;
use super::worker::{Escalation, Process, Stage, Worker};
use super::{Phase, Supervisor};

impl Supervisor {
    /// Checks everything that always holds; debug builds do so after every input.
    ///
    /// # Panics
    ///
    /// Panics when supervision contradicts itself, which no input can cause.
    pub fn check_invariants(&self) {
        let (has_slots, has_workers) = (!self.slots.is_empty(), !self.is_deserted());
        let agrees = match self.phase {
            Phase::New | Phase::Finished => !has_slots && self.workers.is_empty(),
            Phase::Running => has_slots,
            Phase::Errored => has_slots && !has_workers,
            Phase::Stopping(_) => !has_slots && !self.workers.is_empty(),
        };
        assert!(agrees, "{:?} with slots: {has_slots}, with workers: {has_workers}", self.phase);
        if self.phase != Phase::Running {
            assert!(self.reload.is_none(), "only a running app reloads");
        }
        assert!(
            self.reload.is_some() || self.waiting_reload.is_none(),
            "a reload waits for another one only"
        );
        assert!(self.generation <= self.last_generation, "generations are counted upwards");
        self.check_slots();
        for (number, worker) in &self.workers {
            assert!(*number == worker.id().number && *number <= self.last_number, "numbers are never reused");
            self.check_worker(worker);
        }
    }

    fn check_slots(&self) {
        for (index, slot) in self.slots.iter().enumerate() {
            if let Occupant::Worker(number) = slot.occupant {
                let worker =
                    self.workers.get(&number).expect("invariant: a slot is filled by a known worker");
                assert_eq!(worker.reference.slot.0 as usize, index, "a worker fills its own slot");
                let is_let_go = worker.leaves_voluntarily() || worker.is_abandoned();
                assert!(!is_let_go, "a worker that was let go left its slot");
            }
            if let Some(number) = slot.successor {
                let worker = self.workers.get(&number).expect("invariant: a successor is a known worker");
                assert_eq!(worker.reference.slot.0 as usize, index, "a successor is for its own slot");
                assert!(!worker.is_established(), "a successor takes its slot as soon as it is ready");
                let generation = worker.reference.generation;
                let is_for_recycle = self.reload.is_none() && generation == slot.generation;
                assert!(is_for_recycle || self.is_reloading_to(generation), "the reload has all successors");
            }
            let has_moved = self.is_reloading_to(slot.generation);
            assert!(has_moved || slot.generation == self.generation, "slots follow a trusted generation");
        }
    }

    fn check_worker(&self, worker: &Worker) {
        let number = worker.id().number;
        let place = self.slots.get(worker.reference.slot.0 as usize);
        let fills = place.is_some_and(|place| place.occupant == Occupant::Worker(number));
        let succeeds = place.is_some_and(|place| place.successor == Some(number));
        let agrees = match (&worker.process, worker.stage) {
            (Process::Exited { .. }, stage) => matches!(stage, Stage::Leaving { .. }),
            (_, Stage::Starting(_)) => fills || succeeds || self.is_rescuer(number),
            (_, Stage::Ready(_) | Stage::Paused { .. }) => fills,
            (Process::Running, Stage::Leaving { escalation, .. }) => {
                !matches!(escalation, Escalation::Unarmed)
            }
            (Process::Spawning, Stage::Leaving { .. }) => true,
        };
        assert!(agrees, "nobody wants it, or leaving has no deadline: {worker:?}");
    }
}
