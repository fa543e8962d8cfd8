//! One more worker, for connections that nobody can accept: they wait at a socket whose worker died as it left.
//!
//! The *rescuer* fills no slot and never enters rotation. It gets the socket where they wait, as any worker that starts, and is
//! let go as soon as it accepts there: a worker that leaves serves what waits for it first.

use std::time::{Duration, Instant};

use super::contract::Traffic;
use super::slot::{Occupant, Place};
use super::step::Step;
use super::worker::Worker;
use super::{Phase, Supervisor};
use crate::event::DrainCause;
use crate::ids::Slot;

/// How soon a slot that backs off is filled by itself.
const SOON: Duration = Duration::from_secs(2);

/// A worker that is to serve what waits, and nothing new.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Rescuer {
    pub(super) number: u32,
    /// What it was started for.
    pub(super) traffic: Traffic,
}

impl Supervisor {
    /// Returns whether a rescuer would start as a worker of this slot: there is none, and no other worker of the slot is
    /// about to start.
    pub(crate) fn can_rescue(&self, slot: Slot, now: Instant) -> bool {
        let is_about_to_be_filled = self.slots.get(slot.0 as usize).is_some_and(|place| {
            place.successor.is_some()
                || match place.occupant {
                    Occupant::Worker(number) => self.workers.get(&number).is_some_and(Worker::is_expected),
                    Occupant::BackingOff { until } => until.saturating_duration_since(now) <= SOON,
                    Occupant::Errored => false,
                }
        });
        match self.phase {
            Phase::Running => self.rescuer.is_none() && !is_about_to_be_filled,
            Phase::New | Phase::Errored | Phase::Stopping(_) | Phase::Finished => false,
        }
    }

    /// Starts a rescuer as a worker of this slot, if that [can be](Self::can_rescue).
    pub(super) fn rescue(&mut self, slot: Slot, traffic: Traffic, step: &mut Step<'_>) {
        if self.can_rescue(slot, step.now) {
            let number = self.spawn(slot, self.generation, step);
            self.rescuer = Some(Rescuer { number, traffic });
        }
    }

    /// Returns how many slots have a worker or will get one: those that are not given up.
    pub(crate) fn slots_to_fill(&self) -> u32 {
        let is_given_up = |place: &&Place| place.occupant == Occupant::Errored && place.successor.is_none();
        (self.slots.len() - self.slots.iter().filter(is_given_up).count()) as u32
    }

    /// Returns true for a worker that is to serve what waits, and nothing new.
    pub(super) fn is_rescuer(&self, number: u32) -> bool {
        self.rescuer.is_some_and(|rescuer| rescuer.number == number)
    }

    /// Lets the worker go if it is the rescuer.
    pub(super) fn let_rescuer_go(&mut self, number: u32, step: &mut Step<'_>) {
        if self.is_rescuer(number) {
            self.drain(number, DrainCause::Rescued, step);
        }
    }

    /// Makes room for another rescuer when this worker was it.
    pub(super) fn forget_rescuer(&mut self, number: u32) {
        self.rescuer = self.rescuer.filter(|rescuer| rescuer.number != number);
    }
}
