//! How it ends with a worker: it is gone, or the kernel does not end it.
//!
//! SIGKILL ends every process, but not one that waits inside the kernel for a disk or a file server which does not
//! answer. Such a worker is **abandoned** after a while: its slot and its place in the budget are free, and nothing
//! waits for it any more but the record of its exit.

use std::time::Duration;

use super::contract::{Blame, Effect};
use super::reload::Refusal;
use super::step::Step;
use super::worker::{Escalation, Exit, Stage, Worker};
use super::{Phase, Supervisor};
use crate::event::{Event, ExitCause};

impl Supervisor {
    /// Nothing of the worker is left: records its end, and fills its slot when that was not foreseen.
    pub(super) fn gone(&mut self, number: u32, exit: Exit, step: &mut Step<'_>) {
        let Some(worker) = self.workers.remove(&number) else { return };
        self.forget_rescuer(number);
        let reference = worker.reference;
        let voluntary = worker.leaves_voluntarily();
        let Exit { status, stderr, uptime } = exit;
        step.push(Effect::Forget { worker: reference.id });
        let cause = ExitCause { status, voluntary, stderr: stderr.clone() };
        let cut = self.count_cut(&worker);
        step.emit(Event::Exit { worker: reference, cause, uptime, cut });
        let how = if worker.is_broken() { "closed its channel" } else { "ended" };
        let why = worker.too_soon(how).map(|too_soon| format!("{too_soon}: {status}"));
        self.make_up_for(&worker, why, stderr, uptime, step);
    }

    /// Goes on without a worker that the kernel has not ended.
    pub(super) fn abandon(&mut self, number: u32, step: &mut Step<'_>) {
        let Some(worker) = self.workers.get_mut(&number) else { return };
        let Stage::Leaving { escalation, .. } = &mut worker.stage else { return };
        let Escalation::Killed { after, .. } = *escalation else { return };
        *escalation = Escalation::Abandoned;
        step.emit(Event::Unkillable { worker: worker.reference, after });
        let how = if worker.is_broken() { "closed its channel" } else { "stopped answering" };
        let why = worker.too_soon(how).map(|too_soon| format!("{too_soon} and survives SIGKILL"));
        let worker = worker.clone();
        self.forget_rescuer(number);
        self.make_up_for(&worker, why, Vec::new(), worker.uptime(step.now), step);
    }

    /// Draws the conclusions from the loss of a worker, unless it was foreseen; `why` a reload or recycle fails by it. The
    /// end of one that was abandoned changes nothing more.
    fn make_up_for(
        &mut self,
        worker: &Worker,
        why: Option<String>,
        stderr: Vec<String>,
        uptime: Duration,
        step: &mut Step<'_>,
    ) {
        if worker.leaves_voluntarily() {
            return;
        }
        let reference = worker.reference;
        if let Some(reason) = why {
            self.fail_trial(&reference, Refusal { worker: reference.id, reason, stderr }, step);
        }
        self.fail_slot(&reference, worker.ready_since.map(|_| uptime), Blame::Program, step);
    }

    /// Counts the connections that ended with a worker, and not by its will; `None` when nobody knows.
    ///
    /// What it has said for the last time is what was cut only when it was ended before it had finished: one that ends
    /// by itself may have finished more since.
    fn count_cut(&mut self, worker: &Worker) -> Option<u64> {
        let cut = match worker.open {
            _ if self.settings.hands_over && worker.ready_since.is_none() => Some(0),
            Some(0) => Some(0),
            Some(open) if worker.was_forced() => Some(open),
            Some(_) | None => None,
        };
        if matches!(self.phase, Phase::Stopping(_)) {
            self.cut_by_stop = self.cut_by_stop.zip(cut).map(|(all, cut)| all.saturating_add(cut));
        }
        cut
    }

    /// Returns true when no worker is left that anything waits for.
    pub(super) fn is_deserted(&self) -> bool {
        self.workers.values().all(Worker::is_abandoned)
    }

    /// Ends with those that the kernel does not end: the app ends without them.
    pub(super) fn forget_abandoned(&mut self, step: &mut Step<'_>) {
        for worker in std::mem::take(&mut self.workers).into_values() {
            self.cut_by_stop = None;
            step.push(Effect::Forget { worker: worker.id() });
        }
    }
}

impl Worker {
    /// Returns true when it was let go and had to be ended by a signal.
    fn was_forced(&self) -> bool {
        match self.stage {
            Stage::Leaving { escalation, .. } => match escalation {
                Escalation::Kill { .. } | Escalation::Killed { .. } | Escalation::Abandoned => {
                    self.leaves_voluntarily()
                }
                Escalation::Unarmed | Escalation::Terminate { .. } => false,
            },
            Stage::Starting(_) | Stage::Ready(_) | Stage::Paused { .. } => false,
        }
    }

    /// Returns true when it was killed, and nothing waits for its end any more.
    pub(super) fn is_abandoned(&self) -> bool {
        matches!(self.stage, Stage::Leaving { escalation: Escalation::Abandoned, .. })
    }
}
