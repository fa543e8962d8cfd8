//! When a worker that starts is ready, and what keeps one from it.
//!
//! It has to give the **proof** that the app asks for, and as a successor it has to listen where its predecessor does:
//! a build that serves another port is healthy and useless. A probe is repeated until it is answered well, one at a
//! time, also after the worker's deadline when nothing better exists.
//!
//! A reload goes on only while what it has done holds: a successor that is down again within [`MOMENT`] fails it, and
//! no further slot moves while one that has moved is without a worker.

use std::time::{Duration, Instant};

use super::Supervisor;
use super::contract::Effect;
use super::slot::Place;
use super::step::Step;
use super::worker::{Heard, Worker};
use crate::event::WorkerRef;
use crate::ids::Generation;
use crate::spec::Ready;

/// How long after a failed probe the next one comes.
const PROBE_EVERY: Duration = Duration::from_millis(250);
/// Who is down sooner than this after it was ready has only seemed to be, and what it opens sooner belongs to its start.
const MOMENT: Duration = Duration::from_secs(1);
/// How many addresses of a worker are remembered; a worker can name as many as it likes.
const MAX_ADDRESSES: usize = 64;

/// Whether a worker has shown that it is ready.
#[derive(Clone, Debug)]
pub(super) enum Proof {
    /// Not yet.
    Awaited,
    /// A probe is under way; the last one, if any, failed for this reason.
    Asked { refusal: Option<String> },
    /// The last probe failed for this reason; the next one is due then.
    Refused { refusal: String, next: Instant },
    /// It has.
    Given,
}

impl Proof {
    /// Returns when the worker has to be asked again.
    pub(super) fn next_probe(&self) -> Option<Instant> {
        match self {
            Self::Refused { next, .. } => Some(*next),
            Self::Awaited | Self::Asked { .. } | Self::Given => None,
        }
    }
}

impl Worker {
    /// Remembers where a worker listens as it starts: its successor has to listen there, too. What it opens later it may
    /// have been asked for.
    pub(super) fn note_address(&mut self, address: &str, now: Instant) {
        let starts = self.ready_since.is_none_or(|since| now.saturating_duration_since(since) < MOMENT);
        let is_new = !self.addresses.iter().any(|known| known == address);
        if starts && is_new && self.addresses.len() < MAX_ADDRESSES {
            self.addresses.push(address.to_owned());
        }
    }

    /// Returns an address of its predecessor that it does not listen on.
    fn missing_address(&self) -> Option<&str> {
        self.expected.iter().find(|address| !self.addresses.contains(address)).map(String::as_str)
    }

    /// Returns true when the worker itself has done everything to be ready.
    pub(super) fn is_proven(&self) -> bool {
        matches!(self.proof, Proof::Given) && self.missing_address().is_none()
    }

    /// Says that a worker which is down (`how`: it "ended", "left") was so too soon; `None` when it had served for a moment.
    pub(super) fn too_soon(&self, how: &str) -> Option<String> {
        let (number, slot) = (self.reference.id.number, self.reference.slot);
        let (Some(from), Some(until)) = (self.ready_since, self.departed) else {
            return Some(format!("worker {number} in slot {slot} {how} before it was ready"));
        };
        let served = until.saturating_duration_since(from);
        (served < MOMENT).then(|| {
            format!("worker {number} in slot {slot} {how} {} ms after it was ready", served.as_millis())
        })
    }

    /// Says what is missing of a worker that is not ready, without a full stop.
    pub(super) fn what_is_missing(&self) -> String {
        match &self.proof {
            Proof::Asked { refusal: Some(refusal) } | Proof::Refused { refusal, .. } => refusal.clone(),
            Proof::Asked { refusal: None } => "its first probe is not answered".to_owned(),
            Proof::Given => {
                let (missing, own) =
                    (self.missing_address().unwrap_or("anything"), self.addresses.join(", "));
                match own.as_str() {
                    "" => format!("it does not listen on {missing} as the worker before it"),
                    _ => format!("it listens on {own} and not on {missing} as the worker before it"),
                }
            }
            Proof::Awaited => match (self.heard, &self.obstacle) {
                (Heard::Nothing | Heard::Online, Some(why)) => why.clone(),
                (Heard::Nothing, None) => "nothing was heard of it".to_owned(),
                (Heard::Online, None) => "its program runs and does not listen".to_owned(),
                (Heard::Captured | Heard::Listening, _) => {
                    "it listens and does not say that it is ready".to_owned()
                }
            },
        }
    }
}

impl Supervisor {
    /// Lets a successor listen where the worker of its slot does, as far as others do, too: an address that only one
    /// worker has may be made of its number, and the successor has another. A worker of a generation that failed is no
    /// example for one of the generation that its slot went back to.
    pub(super) fn expect_addresses_of(&mut self, predecessor: u32, successor: u32) {
        if !self.settings.same_addresses {
            return;
        }
        let (old, new) = (self.workers.get(&predecessor), self.workers.get(&successor));
        let Some((predecessor, new)) = old.zip(new) else { return };
        let is_older_build = new.reference.generation < predecessor.reference.generation;
        if is_older_build || !predecessor.is_established() {
            return;
        }
        let is_other =
            |other: &&Worker| other.is_established() && other.reference.slot != predecessor.reference.slot;
        let others: Vec<&Worker> = self.workers.values().filter(is_other).collect();
        let is_common = |address: &&String| {
            others.is_empty() || others.iter().any(|other| other.addresses.contains(address))
        };
        let expected: Vec<String> = predecessor.addresses.iter().filter(is_common).cloned().collect();
        if let Some(worker) = self.workers.get_mut(&successor) {
            worker.expected = expected;
        }
    }

    /// Notes that the worker has shown what the app asks for.
    pub(super) fn prove(&mut self, number: u32, step: &mut Step<'_>) {
        if let Some(worker) = self.workers.get_mut(&number) {
            worker.proof = Proof::Given;
        }
        self.enter_if_proven(number, step);
    }

    /// Puts the worker into rotation when nothing is missing any more.
    pub(super) fn enter_if_proven(&mut self, number: u32, step: &mut Step<'_>) {
        let Some(worker) = self.workers.get(&number) else { return };
        if worker.is_proven() && !self.has_to_wait(worker) {
            self.become_ready(number, step);
        }
    }

    /// Puts the successors into rotation that only waited for the rest of the reload to be well.
    pub(super) fn admit_successors(&mut self, step: &mut Step<'_>) {
        let successors: Vec<u32> = self.slots.iter().filter_map(|slot| slot.successor).collect();
        for number in successors {
            self.enter_if_proven(number, step);
        }
    }

    /// Returns true while the worker would relieve one that serves, and another slot that has moved is without.
    fn has_to_wait(&self, worker: &Worker) -> bool {
        let WorkerRef { id, slot, generation, .. } = worker.reference;
        let place = self.slots.get(slot.0 as usize).filter(|place| place.successor == Some(id.number));
        place.is_some_and(|place| self.is_served(place.occupant)) && self.count_fallen(generation) > 0
    }

    /// Counts the slots that the running reload has moved and that have no worker in rotation now.
    pub(super) fn count_fallen(&self, generation: Generation) -> usize {
        let has_moved = |slot: &&Place| self.is_reloading_to(generation) && slot.generation == generation;
        self.slots.iter().filter(has_moved).filter(|slot| !self.is_served(slot.occupant)).count()
    }

    /// Asks a worker for the first time: there is something to reach now.
    pub(super) fn begin_probing(&mut self, number: u32, step: &mut Step<'_>) {
        let Some(worker) = self.workers.get_mut(&number).filter(|worker| worker.is_starting()) else {
            return;
        };
        if matches!(self.settings.ready, Ready::Probe(_)) && matches!(worker.proof, Proof::Awaited) {
            worker.proof = Proof::Asked { refusal: None };
            step.push(Effect::Probe { worker: worker.id() });
        }
    }

    /// Asks a worker again whose time for that has come.
    pub(super) fn probe_if_due(&mut self, number: u32, step: &mut Step<'_>) {
        let Some(worker) = self.workers.get_mut(&number).filter(|worker| worker.is_starting()) else {
            return;
        };
        match &mut worker.proof {
            Proof::Refused { refusal, next } if *next <= step.now => {
                worker.proof = Proof::Asked { refusal: Some(std::mem::take(refusal)) };
                step.push(Effect::Probe { worker: worker.id() });
            }
            Proof::Refused { .. } | Proof::Awaited | Proof::Asked { .. } | Proof::Given => {}
        }
    }

    pub(super) fn probed(&mut self, number: u32, result: Result<(), String>, step: &mut Step<'_>) {
        let Some(worker) = self.workers.get_mut(&number) else { return };
        match worker.proof {
            Proof::Asked { .. } => {}
            Proof::Awaited | Proof::Refused { .. } | Proof::Given => return,
        }
        match result {
            Ok(()) => self.prove(number, step),
            Err(refusal) => worker.proof = Proof::Refused { refusal, next: step.after(PROBE_EVERY) },
        }
    }
}
