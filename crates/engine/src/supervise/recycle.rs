//! Recycle: a worker that serves is replaced, because of a limit or because it asks for it.
//!
//! As in a reload its successor is ready first, and it drains then. Recycles wait for the [budget](super::replace) of
//! replacements, and for a reload, which replaces every worker anyway. When the successor does not become ready the
//! worker stays and the next one is tried after a growing delay.

use std::time::{Duration, Instant};

use super::Supervisor;
use super::backoff::{self, Factor};
use super::reload::Refusal;
use super::slot::Occupant;
use super::step::Step;
use super::worker::{Stage, Worker};
use crate::event::{DrainCause, Event, RecycleReason};
use crate::ids::{Generation, Slot, WorkerId};
use crate::spec::RecycleLimits;

/// How long a worker serves at least: one that is over its limits from the start must not keep the app starting workers.
const SHORTEST_SERVICE: Duration = Duration::from_secs(1);

/// The limits of one worker.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    connections: Option<u64>,
    pub(super) age: Option<Duration>,
    memory_bytes: Option<u64>,
}

impl Limits {
    /// Returns the limits of one worker, which `factor` sets apart from the others.
    pub(super) fn of_one_worker(common: &RecycleLimits, factor: Factor) -> Self {
        Self {
            connections: common.max_connections.map(|count| factor.of_count(count)),
            age: common.max_age.map(|age| factor.of_time(age)),
            memory_bytes: common.max_memory_bytes.map(|bytes| factor.of_count(bytes)),
        }
    }
}

/// Whether a worker is to be recycled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wish {
    /// No.
    Stay,
    /// As soon as it is ready and the budget has room; so many successors have failed.
    Go { failures: u32 },
    /// The same, but not before then.
    Later { failures: u32, until: Instant },
}

impl Worker {
    /// Returns when something has to be thought about because of a recycle.
    pub(super) fn recycle_at(&self) -> Option<Instant> {
        match self.wish {
            Wish::Stay => self.retires_at,
            Wish::Go { .. } => None,
            Wish::Later { until, .. } => Some(until),
        }
    }

    /// Returns true when a successor is wanted now.
    fn wants_successor(&self) -> bool {
        match self.wish {
            Wish::Go { .. } => self.is_ready(),
            Wish::Stay | Wish::Later { .. } => false,
        }
    }

    /// Lets the wish of a worker that has just become ready wait until it has served for a while.
    pub(super) fn serve_first(&mut self, now: Instant) {
        match self.wish {
            Wish::Go { failures } => self.wish = Wish::Later { failures, until: now + SHORTEST_SERVICE },
            Wish::Stay | Wish::Later { .. } => {}
        }
    }
}

impl Supervisor {
    /// Returns how many connections the worker may take; [`Input::TookEnough`](super::Input::TookEnough) is told then.
    #[must_use]
    pub fn connection_limit(&self, worker: WorkerId) -> Option<u64> {
        self.workers.get(&worker.number).filter(|known| known.id() == worker)?.limits.connections
    }

    pub(super) fn took_enough(&mut self, number: u32, connections: u64, step: &mut Step<'_>) {
        let limit = self.workers.get(&number).and_then(|worker| worker.limits.connections);
        if let Some(limit) = limit.filter(|limit| connections >= *limit) {
            self.wish_to_recycle(number, RecycleReason::Connections { connections, limit }, step);
        }
    }

    pub(super) fn resident(&mut self, number: u32, bytes: u64, step: &mut Step<'_>) {
        let limit = self.workers.get(&number).and_then(|worker| worker.limits.memory_bytes);
        if let Some(limit_bytes) = limit.filter(|limit| bytes > *limit) {
            let reason = RecycleReason::Memory { resident_bytes: bytes, limit_bytes };
            self.wish_to_recycle(number, reason, step);
        }
    }

    /// Does what is due of a recycle for a worker that is ready.
    pub(super) fn pass_recycle_deadline(&mut self, number: u32, step: &mut Step<'_>) {
        let is_due = |worker: &&mut Worker| worker.recycle_at().is_some_and(|at| at <= step.now);
        let Some(worker) = self.workers.get_mut(&number).filter(is_due) else { return };
        match worker.wish {
            Wish::Later { failures, .. } => worker.wish = Wish::Go { failures },
            Wish::Stay => {
                if let Some(limit) = worker.limits.age {
                    let reason = RecycleReason::Age { age: worker.uptime(step.now), limit };
                    self.wish_to_recycle(number, reason, step);
                }
            }
            Wish::Go { .. } => {}
        }
    }

    /// Notes that the worker is to be replaced; [`Self::advance_recycles`] begins it.
    pub(super) fn wish_to_recycle(&mut self, number: u32, reason: RecycleReason, step: &mut Step<'_>) {
        let Some(worker) = self.workers.get_mut(&number) else { return };
        match (worker.wish, worker.stage) {
            (Wish::Stay, Stage::Starting(_) | Stage::Ready(_) | Stage::Paused { .. }) => {}
            (Wish::Go { .. } | Wish::Later { .. }, _) | (Wish::Stay, Stage::Leaving { .. }) => return,
        }
        step.emit(Event::Recycling { worker: worker.reference, reason });
        let serves_until = worker.ready_since.map(|since| since + SHORTEST_SERVICE);
        worker.wish = match serves_until.filter(|until| *until > step.now) {
            Some(until) => Wish::Later { failures: 0, until },
            None => Wish::Go { failures: 0 },
        };
    }

    /// Starts successors of the workers that are to be replaced, as many as the budget has room for.
    pub(super) fn advance_recycles(&mut self, step: &mut Step<'_>) {
        if self.reload.is_some() {
            return;
        }
        let room = self.room_for_replacements();
        // In the order of their start, so that none waits for ever behind slots that are emptied faster.
        let waiting = self.workers.values().filter(|worker| worker.wants_successor());
        let slots = waiting.map(|worker| worker.reference.slot);
        // A worker of a reload that failed later is replaced by one of the generation that its slot went back to.
        let free = slots.filter_map(|slot| {
            let state = self.slots.get(slot.0 as usize).filter(|state| state.successor.is_none())?;
            Some((slot, state.generation))
        });
        let chosen: Vec<(Slot, Generation)> = free.take(room).collect();
        for (slot, generation) in chosen {
            self.start_successor(slot, generation, step);
        }
    }

    /// Lets the worker that was to be replaced stay, and tries again later.
    pub(super) fn fail_recycle(&mut self, slot: Slot, refusal: Refusal, step: &mut Step<'_>) {
        let policy = self.settings.restart;
        let predecessor = match self.slot(slot).map(|state| state.occupant) {
            Some(Occupant::Worker(number)) => self.workers.get_mut(&number),
            Some(Occupant::BackingOff { .. } | Occupant::Errored) | None => None,
        };
        let retry = predecessor.and_then(|worker| match worker.wish {
            Wish::Go { failures } | Wish::Later { failures, .. } => {
                let failures = failures.saturating_add(1);
                let delay = backoff::delay(&policy, failures, &mut self.jitter);
                worker.wish = Wish::Later { failures, until: step.after(delay) };
                Some(delay)
            }
            // It took the slot of the one that wished it.
            Wish::Stay => None,
        });
        let Refusal { worker, reason, stderr } = refusal;
        step.emit(Event::RecycleFailed { slot, worker, reason, stderr, retry });
        self.dismiss_successor(slot, DrainCause::NotReady, step);
    }
}
