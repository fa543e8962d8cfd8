//! What people ask of an app: start, stop, other size; and the passing of deadlines.

use std::time::{Duration, Instant};

use super::contract::{Effect, Outcome};
use super::reload::Refusal;
use super::slot::Occupant;
use super::step::Step;
use super::worker::{Answers, Departure, Escalation, Probation, Process, Stage, Worker};
use super::{Phase, Supervisor, Urgency};
use crate::event::{DrainCause, Event};
use crate::ids::Slot;
use crate::spec::Deadlines;

/// Who comes so late to a deadline was kept from running, not from being in time.
const ASLEEP: Duration = Duration::from_secs(5);

impl Supervisor {
    pub(super) fn start(&mut self, step: &mut Step<'_>) {
        match self.phase {
            Phase::New => {
                self.phase = Phase::Running;
                self.add_slots(self.settings.instances, step);
            }
            Phase::Running | Phase::Errored | Phase::Stopping(_) | Phase::Finished => {}
        }
    }

    pub(super) fn resize(&mut self, instances: u32, step: &mut Step<'_>) {
        self.settings.instances = instances.max(1);
        match self.phase {
            Phase::New | Phase::Stopping(_) | Phase::Finished => return,
            Phase::Running | Phase::Errored => {}
        }
        if self.settings.instances as usize > self.slots.len() {
            self.phase = Phase::Running;
            self.add_slots(self.settings.instances, step);
        }
        while self.slots.len() > self.settings.instances as usize {
            let Some(dropped) = self.slots.pop() else { return };
            if let Occupant::Worker(number) = dropped.occupant {
                self.drain(number, DrainCause::Resize, step);
            }
            if let Some(number) = dropped.successor {
                self.drain(number, DrainCause::Resize, step);
            }
        }
    }

    pub(super) fn stop(&mut self, reason: String, urgency: Urgency, step: &mut Step<'_>) {
        match self.phase {
            Phase::New | Phase::Running | Phase::Errored => {
                self.phase = Phase::Stopping(urgency);
                step.emit(Event::Stopping { reason });
                self.cancel_reloads(step);
                self.slots.clear();
            }
            Phase::Stopping(_) => match urgency {
                Urgency::Drain => return,
                Urgency::AtOnce => self.phase = Phase::Stopping(urgency),
            },
            Phase::Finished => return,
        }
        let numbers: Vec<u32> = self.workers.keys().copied().collect();
        for number in numbers {
            match urgency {
                Urgency::Drain => self.drain(number, DrainCause::Stop, step),
                Urgency::AtOnce => self.kill_for_stop(number, step),
            }
        }
    }

    /// Takes the worker out of rotation and asks it to finish; one that leaves already goes on as it does.
    pub(super) fn drain(&mut self, number: u32, cause: DrainCause, step: &mut Step<'_>) {
        let Some(worker) = self.workers.get_mut(&number).filter(|worker| !worker.is_leaving()) else {
            return;
        };
        worker.depart(Departure::Drained(cause), Escalation::Unarmed, step);
        match worker.process {
            // It is asked as soon as there is somebody to ask.
            Process::Spawning => {}
            Process::Running => worker.ask_to_leave(cause, &self.settings, step),
            Process::Exited { .. } => debug_assert!(false, "an ended worker leaves: {worker:?}"),
        }
    }

    /// Ends a worker with SIGKILL because the app has to end at once.
    pub(super) fn kill_for_stop(&mut self, number: u32, step: &mut Step<'_>) {
        let Some(worker) = self.workers.get_mut(&number) else { return };
        if !worker.is_leaving() {
            worker.depart(Departure::Drained(DrainCause::Stop), Escalation::Unarmed, step);
        }
        match worker.process {
            Process::Spawning | Process::Exited { .. } => {}
            Process::Running => {
                let why = "the app was told to end at once".to_owned();
                worker.kill(why, &self.settings.deadlines, step);
            }
        }
    }

    /// Gives the workers the time again in which nothing ran: when this process stands still, in a container that is
    /// frozen, so do they.
    ///
    /// How long that was is not known, but since when at most.
    pub(super) fn forgive_sleep(&mut self, now: Instant) {
        let is_missed = |at: Instant| now.saturating_duration_since(at) > ASLEEP;
        if !self.workers.values().filter_map(Worker::deadline).any(is_missed) {
            return;
        }
        let slept = self.awake_at.map_or(Duration::ZERO, |at| now.saturating_duration_since(at));
        for worker in self.workers.values_mut() {
            worker.postpone(slept);
        }
    }

    /// Does everything whose time has come.
    pub(super) fn tick(&mut self, step: &mut Step<'_>) {
        let is_due = |deadline: Option<Instant>| deadline.is_some_and(|at| at <= step.now);
        let due: Vec<u32> = self
            .workers
            .iter()
            .filter(|(_, worker)| is_due(worker.deadline()))
            .map(|(number, _)| *number)
            .collect();
        for number in due {
            self.pass_deadline(number, step);
        }
        for index in 0..self.slots.len() {
            if self.slots[index].deadline().is_some_and(|at| at <= step.now) {
                self.fill(Slot(index as u32), step);
            }
        }
    }

    fn pass_deadline(&mut self, number: u32, step: &mut Step<'_>) {
        let Some(worker) = self.workers.get_mut(&number) else { return };
        // What was done for another worker may have given this one a later deadline.
        if worker.deadline().is_none_or(|at| at > step.now) {
            return;
        }
        if let Process::Exited { exit, .. } = &worker.process {
            let exit = exit.clone();
            let why = "its process ended, but something that it started holds its channel open".to_owned();
            worker.signal(libc::SIGKILL, why, step);
            self.gone(number, exit, step);
            return;
        }
        match &mut worker.stage {
            Stage::Starting(probation) => {
                if probation.deadline().is_some_and(|at| at <= step.now) {
                    match std::mem::replace(probation, Probation::Open) {
                        Probation::Open => {}
                        Probation::Lives { .. } => {
                            // It cannot say where it listens, or has had the time for it.
                            worker.expected.clear();
                            self.prove(number, step);
                        }
                        Probation::Speaks { .. } => self.pass_ready_deadline(number, step),
                    }
                }
                self.probe_if_due(number, step);
            }
            Stage::Ready(Answers::Overdue { kill_at }) if *kill_at <= step.now => {
                let why = hung(&self.settings.deadlines);
                worker.depart(Departure::Hung, Escalation::Unarmed, step);
                worker.kill(why, &self.settings.deadlines, step);
            }
            Stage::Ready(_) => self.pass_recycle_deadline(number, step),
            Stage::Paused { .. } => {}
            Stage::Leaving { escalation: Escalation::Killed { .. }, .. } => self.abandon(number, step),
            Stage::Leaving { answers: Answers::Overdue { kill_at }, .. } if *kill_at <= step.now => {
                worker.kill(hung(&self.settings.deadlines), &self.settings.deadlines, step);
            }
            Stage::Leaving { .. } => worker.escalate(&self.settings.deadlines, step),
        }
    }

    /// A late worker fails the reload or recycle that it was started for; otherwise it is kept, for nothing better exists.
    fn pass_ready_deadline(&mut self, number: u32, step: &mut Step<'_>) {
        let Some(worker) = self.workers.get(&number) else { return };
        let reference = worker.reference;
        if self.is_rescuer(number) {
            // It has had its time, and whoever waits for it is closed in time.
            self.let_rescuer_go(number, step);
        } else if worker.is_proven() {
            // It waits for others, which have deadlines of their own.
        } else if self.is_on_trial(&reference) {
            let (slot, allowed) = (reference.slot, self.settings.deadlines.ready);
            let missing = worker.what_is_missing();
            let reason =
                format!("worker {number} in slot {slot} was not ready within {allowed:?}: {missing}");
            let refusal = Refusal { worker: reference.id, reason, stderr: Vec::new() };
            self.fail_trial(&reference, refusal, step);
        } else {
            let (after, reason) = (worker.uptime(step.now), worker.what_is_missing());
            step.emit(Event::NotReady { worker: reference, after, reason });
        }
    }

    /// Draws the conclusions that do not depend on the input: the next replacements, the end of the app.
    pub(super) fn settle(&mut self, step: &mut Step<'_>) {
        match self.phase {
            Phase::New | Phase::Errored | Phase::Finished => {}
            Phase::Running => {
                self.advance_reload(step);
                self.advance_recycles(step);
                let given_up = self.slots.iter().all(|slot| slot.occupant == Occupant::Errored);
                if given_up && self.is_deserted() {
                    self.phase = Phase::Errored;
                    step.push(Effect::Finished { outcome: Outcome::Errored });
                }
            }
            Phase::Stopping(_) => {
                let has_exited = |worker: &Worker| matches!(worker.process, Process::Exited { .. });
                // The exit of one that was abandoned may be known, and wait for the rest of what it has said.
                if self.is_deserted() && !self.workers.values().any(has_exited) {
                    self.forget_abandoned(step);
                    self.phase = Phase::Finished;
                    step.emit(Event::Stopped { cut: self.cut_by_stop });
                    step.push(Effect::Finished { outcome: Outcome::Stopped });
                }
            }
        }
    }
}

/// Says why a hung worker is killed.
fn hung(deadlines: &Deadlines) -> String {
    format!("it left a connection or a ping unanswered for {:?}", deadlines.hung)
}
