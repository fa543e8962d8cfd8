//! What happens to workers, as the shell reports it.

use std::time::Duration;

use super::contract::{Blame, Effect, Traffic};
use super::reload::Refusal;
use super::rescue::Rescuer;
use super::slot::Occupant;
use super::step::Step;
use super::worker::{Answers, Channel, Departure, Escalation, Exit, Heard, Probation, Process, Stage};
use super::{Phase, Supervisor, Urgency};
use crate::event::{DrainCause, Event, ExitStatus};
use crate::spec::Ready;

/// A worker that leaves by itself before it was up for this long backs off like one that failed.
const HOT_LOOP_GUARD: Duration = Duration::from_secs(1);

/// A successor that cannot say that it is ready has to live for this long before its predecessor leaves: a build
/// that fails as it starts must not replace one that works.
const SETTLING: Duration = Duration::from_secs(1);

/// How long a channel may stay open after the worker's exit; by then only a stray child can hold it.
const LINGER: Duration = Duration::from_secs(1);

impl Supervisor {
    pub(super) fn spawned(&mut self, number: u32, pid: u32, step: &mut Step<'_>) {
        let deadlines = self.settings.deadlines;
        let Some(is_on_trial) = self.workers.get(&number).map(|worker| self.is_on_trial(&worker.reference))
        else {
            return;
        };
        let is_rescuer = self.is_rescuer(number);
        let Some(worker) = self.workers.get_mut(&number) else { return };
        match worker.process {
            Process::Spawning => worker.process = Process::Running,
            Process::Running | Process::Exited { .. } => return,
        }
        worker.reference.pid = pid;
        worker.started = step.now;
        worker.retires_at = worker.limits.age.map(|age| step.after(age));
        step.emit(Event::Forked { worker: worker.reference });
        match &mut worker.stage {
            // What it is for it can do only once it listens.
            Stage::Starting(probation) if is_rescuer => {
                *probation = Probation::Speaks { by: step.after(deadlines.ready) };
            }
            Stage::Starting(probation) => {
                match &self.settings.ready {
                    Ready::Started | Ready::Observed if is_on_trial => {
                        *probation = Probation::Lives { until: step.after(deadlines.ready.min(SETTLING)) };
                    }
                    Ready::Started | Ready::Observed => self.become_ready(number, step),
                    Ready::Auto | Ready::Listening | Ready::Message | Ready::Probe(_) => {
                        *probation = Probation::Speaks { by: step.after(deadlines.ready) };
                        // Over a channel it says when there is something to reach.
                        if !self.settings.has_channel && !self.settings.sees_listening {
                            self.begin_probing(number, step);
                        }
                    }
                }
            }
            Stage::Leaving {
                departure: Departure::Drained(cause), escalation: Escalation::Unarmed, ..
            } => {
                let cause = *cause;
                if self.phase == Phase::Stopping(Urgency::AtOnce) {
                    self.kill_for_stop(number, step);
                } else {
                    worker.ask_to_leave(cause, &self.settings, step);
                }
            }
            Stage::Ready(_) | Stage::Paused { .. } | Stage::Leaving { .. } => {}
        }
    }

    pub(super) fn spawn_failed(&mut self, number: u32, reason: &str, blame: Blame, step: &mut Step<'_>) {
        let Some(worker) = self.workers.get(&number) else { return };
        match worker.process {
            Process::Spawning => {}
            Process::Running | Process::Exited { .. } => return,
        }
        let (reference, was_wanted) = (worker.reference, !worker.leaves_voluntarily());
        self.workers.remove(&number);
        self.forget_rescuer(number);
        step.emit(Event::SpawnFailed { worker: reference, reason: reason.to_owned() });
        if was_wanted {
            let reason = format!("worker {number} in slot {} could not be started: {reason}", reference.slot);
            let refusal = Refusal { worker: reference.id, reason, stderr: Vec::new() };
            self.fail_trial(&reference, refusal, step);
        }
        self.fail_slot(&reference, None, blame, step);
    }

    pub(super) fn online(&mut self, number: u32, step: &mut Step<'_>) {
        let Some(worker) = self.workers.get_mut(&number) else { return };
        match worker.heard {
            Heard::Nothing => {
                worker.heard = Heard::Online;
                step.emit(Event::Online { worker: worker.reference });
            }
            Heard::Online | Heard::Captured | Heard::Listening => {}
        }
    }

    /// Notes what a worker has shown of itself.
    pub(super) fn hear(&mut self, number: u32, heard: Heard) {
        if let Some(worker) = self.workers.get_mut(&number) {
            worker.heard = worker.heard.max(heard);
        }
    }

    /// Notes why a worker does not listen: it is told when its time is over.
    pub(super) fn does_not_wait(&mut self, number: u32, why: String) {
        if let Some(worker) = self.workers.get_mut(&number) {
            worker.obstacle = Some(why);
        }
    }

    pub(super) fn listening(&mut self, number: u32, address: String, port: Option<u16>, step: &mut Step<'_>) {
        let Some(worker) = self.workers.get_mut(&number) else { return };
        worker.note_address(&address, step.now);
        let traffic = Traffic::at(&address);
        step.emit(Event::Listening { worker: worker.reference, address, port });
        match &self.settings.ready {
            // A program that has said it once will say it again.
            Ready::Observed => {
                self.settings.ready = Ready::Listening;
                self.prove(number, step);
            }
            // One that only has to live for a while has shown more than that.
            Ready::Listening | Ready::Started => self.prove(number, step),
            Ready::Probe(_) if self.settings.has_channel || self.settings.sees_listening => {
                self.begin_probing(number, step);
                self.enter_if_proven(number, step);
            }
            // Node's `listening` comes after what the program says in its own callback.
            Ready::Message | Ready::Probe(_) => self.enter_if_proven(number, step),
            Ready::Auto => {}
        }
        if self.rescuer == Some(Rescuer { number, traffic }) {
            self.let_rescuer_go(number, step);
        }
    }

    pub(super) fn ready_message(&mut self, number: u32, step: &mut Step<'_>) {
        if self.settings.ready == Ready::Message {
            self.prove(number, step);
        }
    }

    pub(super) fn become_ready(&mut self, number: u32, step: &mut Step<'_>) {
        if self.is_rescuer(number) {
            return;
        }
        let Some(worker) = self.workers.get_mut(&number).filter(|worker| worker.is_starting()) else {
            return;
        };
        let reference = worker.reference;
        worker.ready_since = Some(step.now);
        worker.stage = Stage::Ready(Answers::InTime);
        worker.serve_first(step.now);
        step.push(Effect::EnterRotation { worker: reference.id });
        step.emit(Event::Ready { worker: reference, after: worker.uptime(step.now) });
        self.hand_slot_to(&reference, step);
        // It may have become too old as it started.
        self.pass_recycle_deadline(number, step);
    }

    /// The worker leaves of its own will: that is no crash, and its slot is filled without waiting for its exit.
    pub(super) fn leaving(&mut self, number: u32, step: &mut Step<'_>) {
        let after = self.settings.deadlines.drain;
        let Some(worker) = self.workers.get_mut(&number) else { return };
        let departure = Departure::Drained(DrainCause::Asked);
        match worker.stage {
            Stage::Starting(_) | Stage::Ready(_) | Stage::Paused { .. } => {
                let escalation = Escalation::Terminate { at: step.after(after), after };
                worker.depart(departure, escalation, step);
            }
            // Its exit was noticed before its last words were read.
            Stage::Leaving { departure: Departure::Ended, escalation, answers } => {
                worker.stage = Stage::Leaving { departure, escalation, answers };
            }
            Stage::Leaving { .. } => return,
        }
        let (reference, uptime) = (worker.reference, worker.uptime(step.now));
        let too_soon = worker.too_soon("left");
        step.emit(Event::Draining { worker: reference, cause: DrainCause::Asked });
        if let Some(reason) = too_soon {
            let refusal = Refusal { worker: reference.id, reason, stderr: Vec::new() };
            self.fail_trial(&reference, refusal, step);
        }
        let Some(state) = self.slot_filled_by(&reference) else { return };
        if uptime < HOT_LOOP_GUARD {
            self.fail_slot(&reference, None, Blame::Program, step);
        } else if state.successor.is_some() {
            state.occupant = Occupant::BackingOff { until: step.now };
        } else {
            self.fill(reference.slot, step);
        }
    }

    pub(super) fn channel_closed(&mut self, number: u32, open: Option<u64>, step: &mut Step<'_>) {
        let Some(worker) = self.workers.get_mut(&number) else { return };
        match worker.channel {
            Channel::Open => worker.channel = Channel::Closed,
            Channel::Absent | Channel::Closed => return,
        }
        worker.open = open;
        step.emit(Event::Disconnect { worker: worker.reference });
        match &worker.process {
            Process::Spawning | Process::Running => {}
            Process::Exited { exit, .. } => {
                let exit = exit.clone();
                self.gone(number, exit, step);
                return;
            }
        }
        // A program that knows nothing of a channel may close what it does not know.
        let speaks = match worker.heard {
            Heard::Captured => false,
            Heard::Nothing => !self.settings.sees_listening,
            Heard::Online | Heard::Listening => true,
        };
        if speaks && !worker.is_leaving() {
            let after = self.settings.deadlines.kill;
            worker.depart(Departure::Broken, Escalation::Terminate { at: step.after(after), after }, step);
        }
    }

    /// A worker that leaves has nothing more to do.
    pub(super) fn idle(&mut self, number: u32, step: &mut Step<'_>) {
        if let Some(worker) = self.workers.get_mut(&number) {
            worker.end_when_idle(&self.settings, step);
        }
    }

    pub(super) fn exited(
        &mut self,
        number: u32,
        status: ExitStatus,
        stderr: Vec<String>,
        step: &mut Step<'_>,
    ) {
        let Some(worker) = self.workers.get_mut(&number) else { return };
        match worker.process {
            Process::Spawning | Process::Running => {}
            Process::Exited { .. } => return,
        }
        if !worker.is_leaving() {
            worker.depart(Departure::Ended, Escalation::Unarmed, step);
        }
        let exit = Exit { status, stderr, uptime: worker.uptime(step.now) };
        match worker.channel {
            Channel::Open => worker.process = Process::Exited { exit, forget_at: step.after(LINGER) },
            Channel::Absent | Channel::Closed => self.gone(number, exit, step),
        }
    }

    pub(super) fn overdue(&mut self, number: u32, waiting: Duration, step: &mut Step<'_>) {
        let hung = self.settings.deadlines.hung;
        let Some(worker) = self.workers.get_mut(&number) else { return };
        match worker.stage {
            Stage::Ready(Answers::InTime) => {
                let kill_at = step.after(hung.saturating_sub(waiting));
                worker.stage = Stage::Ready(Answers::Overdue { kill_at });
                step.emit(Event::Unresponsive { worker: worker.reference, waiting });
            }
            Stage::Ready(Answers::Overdue { .. })
            | Stage::Starting(_)
            | Stage::Paused { .. }
            | Stage::Leaving { .. } => {}
        }
    }

    pub(super) fn answering(&mut self, number: u32, step: &mut Step<'_>) {
        let Some(worker) = self.workers.get_mut(&number) else { return };
        match &mut worker.stage {
            Stage::Ready(answers @ Answers::Overdue { .. })
            | Stage::Leaving { answers: answers @ Answers::Overdue { .. }, .. } => *answers = Answers::InTime,
            Stage::Paused { is_unresponsive: is_told @ true } => *is_told = false,
            Stage::Ready(Answers::InTime)
            | Stage::Leaving { answers: Answers::InTime, .. }
            | Stage::Paused { is_unresponsive: false }
            | Stage::Starting(_) => return,
        }
        step.emit(Event::Responsive { worker: worker.reference });
    }
}
