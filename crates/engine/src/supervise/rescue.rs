//! One more worker, for connections that nobody can accept: they wait at a socket whose worker died as it left.
//!
//! The *rescuer* fills no slot and never enters rotation. It gets the socket where they wait, as any worker that starts, and is
//! let go as soon as it accepts: a worker that leaves serves what waits for it first.

use super::step::Step;
use super::{Phase, Supervisor};
use crate::event::DrainCause;
use crate::ids::Slot;

impl Supervisor {
    /// Starts a rescuer as a worker of this slot, unless there is one.
    pub(super) fn rescue(&mut self, slot: Slot, step: &mut Step<'_>) {
        match self.phase {
            Phase::Running if self.rescuer.is_none() => {
                self.rescuer = Some(self.spawn(slot, self.generation, step));
            }
            Phase::New | Phase::Running | Phase::Errored | Phase::Stopping(_) | Phase::Finished => {}
        }
    }

    /// Returns true for a worker that is to serve what waits, and nothing new.
    pub(super) fn is_rescuer(&self, number: u32) -> bool {
        self.rescuer == Some(number)
    }

    /// Lets the worker go if it is the rescuer: it accepts now.
    pub(super) fn let_rescuer_go(&mut self, number: u32, step: &mut Step<'_>) {
        if self.is_rescuer(number) {
            self.drain(number, DrainCause::Rescued, step);
        }
    }

    /// Makes room for another rescuer when this worker was it.
    pub(super) fn forget_rescuer(&mut self, number: u32) {
        self.rescuer = self.rescuer.filter(|rescuer| *rescuer != number);
    }
}
