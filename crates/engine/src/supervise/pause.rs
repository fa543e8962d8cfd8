//! Pause: a worker is out of rotation and alive, for whoever wants to look at it.

use super::Supervisor;
use super::contract::Effect;
use super::step::Step;
use super::worker::{Answers, Stage};
use crate::event::{DrainCause, Event};

impl Supervisor {
    /// Takes a worker out of rotation. What it owes is not expected any more: a debugger may have stopped it.
    pub(super) fn pause(&mut self, number: u32, step: &mut Step<'_>) {
        let Some(worker) = self.workers.get_mut(&number) else { return };
        match worker.stage {
            Stage::Ready(answers) => {
                let is_unresponsive = matches!(answers, Answers::Overdue { .. });
                worker.stage = Stage::Paused { is_unresponsive };
            }
            Stage::Starting(_) | Stage::Paused { .. } | Stage::Leaving { .. } => return,
        }
        let reference = worker.reference;
        step.push(Effect::LeaveRotation { worker: reference.id });
        let (in_rotation, slots) = self.capacity();
        step.emit(Event::Paused { worker: reference, in_rotation, slots });
        // A recycle would end the worker that somebody wants to look at. A reload is asked for by people, too.
        if self.reload.is_none() {
            self.dismiss_successor(reference.slot, DrainCause::Superseded, step);
        }
    }

    pub(super) fn resume(&mut self, number: u32, step: &mut Step<'_>) {
        let Some(worker) = self.workers.get_mut(&number) else { return };
        match worker.stage {
            // The data plane judges it anew, and tells so: that it answers is said then.
            Stage::Paused { is_unresponsive: true } => {
                let kill_at = step.after(self.settings.deadlines.hung);
                worker.stage = Stage::Ready(Answers::Overdue { kill_at });
            }
            Stage::Paused { is_unresponsive: false } => worker.stage = Stage::Ready(Answers::InTime),
            Stage::Starting(_) | Stage::Ready(_) | Stage::Leaving { .. } => return,
        }
        let reference = worker.reference;
        step.push(Effect::EnterRotation { worker: reference.id });
        let (in_rotation, slots) = self.capacity();
        step.emit(Event::Resumed { worker: reference, in_rotation, slots });
    }

    /// Returns how many workers are in rotation, and how many should be.
    fn capacity(&self) -> (u32, u32) {
        let in_rotation = self.workers.values().filter(|worker| worker.is_ready()).count();
        (in_rotation as u32, self.slots.len() as u32)
    }
}
