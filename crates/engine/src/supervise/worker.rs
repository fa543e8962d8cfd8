//! One worker: its process, its channel, and where it stands in its life.

use std::time::{Duration, Instant};

use super::contract::{Effect, Settings};
use super::readiness::Proof;
use super::recycle::{Limits, Wish};
use super::step::Step;
use crate::event::{DrainCause, Event, ExitStatus, WorkerRef, signal_name};
use crate::ids::WorkerId;
use crate::spec::Deadlines;

/// What the kernel needs at least to end a process, and its parent to notice.
const LAST_BREATH: Duration = Duration::from_secs(1);

/// A worker from the wish to start it until it is gone.
#[derive(Clone, Debug)]
pub(super) struct Worker {
    pub(super) reference: WorkerRef,
    /// When it became a process; until then, when that was asked for.
    pub(super) started: Instant,
    pub(super) process: Process,
    pub(super) channel: Channel,
    /// How many connections it had when its channel closed, as far as it has said.
    pub(super) open: Option<u64>,
    pub(super) heard: Heard,
    /// Why it does not listen, as far as that was seen.
    pub(super) obstacle: Option<String>,
    pub(super) proof: Proof,
    /// Where it listens since its start, in that order.
    pub(super) addresses: Vec<String>,
    /// Where it has to listen to be ready.
    pub(super) expected: Vec<String>,
    /// When it became ready; kept while it leaves.
    pub(super) ready_since: Option<Instant>,
    /// When it began to leave, if it had become ready.
    pub(super) departed: Option<Instant>,
    pub(super) stage: Stage,
    /// When it is to be recycled.
    pub(super) limits: Limits,
    /// When it is as old as it may become; there once it is a process.
    pub(super) retires_at: Option<Instant>,
    /// Whether it is to be recycled now.
    pub(super) wish: Wish,
}

/// What the kernel knows of the worker.
#[derive(Clone, Debug)]
pub(super) enum Process {
    /// Asked for; the shell has not answered yet.
    Spawning,
    /// A process.
    Running,
    /// It ended, and its channel is still open.
    Exited {
        exit: Exit,
        /// When the channel is no longer waited for.
        forget_at: Instant,
    },
}

/// How and when a worker process ended.
#[derive(Clone, Debug)]
pub(super) struct Exit {
    pub(super) status: ExitStatus,
    pub(super) stderr: Vec<String>,
    pub(super) uptime: Duration,
}

/// The way to talk to the worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Channel {
    Absent,
    Open,
    Closed,
}

/// The most that is known of what the worker does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Heard {
    Nothing,
    Online,
    /// It listens, and accepts by itself: that was seen, not said.
    Captured,
    /// It has asked for what it listens on.
    Listening,
}

/// Where the worker stands; it is in rotation exactly while it is `Ready`.
#[derive(Clone, Copy, Debug)]
pub(super) enum Stage {
    /// On its way to ready.
    Starting(Probation),
    /// In rotation.
    Ready(Answers),
    /// Out of rotation by request. Nobody expects answers of it, and whoever was told that it gives none hears when it does.
    Paused { is_unresponsive: bool },
    /// On its way out; it never comes back.
    Leaving { departure: Departure, escalation: Escalation, answers: Answers },
}

/// What is concluded of a worker that starts, if it does not say that it is ready.
#[derive(Clone, Copy, Debug)]
pub(super) enum Probation {
    /// Nothing: it is no process yet, or was late and is kept.
    Open,
    /// It is ready when it has lived until then: nobody expects more of it.
    Lives { until: Instant },
    /// It is late then.
    Speaks { by: Instant },
}

impl Probation {
    /// Returns when something is concluded.
    pub(super) fn deadline(self) -> Option<Instant> {
        match self {
            Self::Open => None,
            Self::Lives { until: at } | Self::Speaks { by: at } => Some(at),
        }
    }
}

/// Whether a worker answers hand-overs. One that did not when it was told to leave is killed when it would have been.
#[derive(Clone, Copy, Debug)]
pub(super) enum Answers {
    InTime,
    Overdue { kill_at: Instant },
}

/// Why a worker leaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Departure {
    /// The primary asked it to, or it said so itself.
    Drained(DrainCause),
    /// Its channel closed although nobody had asked it to leave.
    Broken,
    /// It did not answer hand-overs and was killed.
    Hung,
    /// It ended by itself.
    Ended,
}

/// The next, harder thing that is done to a worker that leaves.
#[derive(Clone, Copy, Debug)]
pub(super) enum Escalation {
    /// Nothing to do: it is no process yet, or no longer.
    Unarmed,
    /// SIGTERM at `at`, which is `after` since it should have begun to leave.
    Terminate { at: Instant, after: Duration },
    /// SIGKILL at `at`, which is `after` since SIGTERM.
    Kill { at: Instant, after: Duration },
    /// SIGKILL was sent; the kernel has until `at` to end it, which is `after` since then.
    Killed { at: Instant, after: Duration },
    /// The kernel has not ended it in time; only the kernel can say more.
    Abandoned,
}

impl Worker {
    pub(super) fn id(&self) -> WorkerId {
        self.reference.id
    }

    pub(super) fn uptime(&self, now: Instant) -> Duration {
        now.saturating_duration_since(self.started)
    }

    pub(super) fn is_ready(&self) -> bool {
        match self.stage {
            Stage::Ready(_) => true,
            Stage::Starting(_) | Stage::Paused { .. } | Stage::Leaving { .. } => false,
        }
    }

    /// Returns true when it has shown that it can serve, and is not on its way out.
    pub(super) fn is_established(&self) -> bool {
        match self.stage {
            Stage::Ready(_) | Stage::Paused { .. } => true,
            Stage::Starting(_) | Stage::Leaving { .. } => false,
        }
    }

    pub(super) fn is_starting(&self) -> bool {
        match self.stage {
            Stage::Starting(_) => true,
            Stage::Ready(_) | Stage::Paused { .. } | Stage::Leaving { .. } => false,
        }
    }

    /// Returns true when it starts, and has not been late.
    pub(super) fn is_expected(&self) -> bool {
        match self.stage {
            Stage::Starting(Probation::Open) => matches!(self.process, Process::Spawning),
            Stage::Starting(Probation::Lives { .. } | Probation::Speaks { .. }) => true,
            Stage::Ready(_) | Stage::Paused { .. } | Stage::Leaving { .. } => false,
        }
    }

    pub(super) fn is_leaving(&self) -> bool {
        match self.stage {
            Stage::Leaving { .. } => true,
            Stage::Starting(_) | Stage::Ready(_) | Stage::Paused { .. } => false,
        }
    }

    /// Returns true when the end of the worker is its own or the primary's wish.
    pub(super) fn leaves_voluntarily(&self) -> bool {
        self.drained_for().is_some()
    }

    /// Returns why the worker was let go, or lets itself go.
    pub(super) fn drained_for(&self) -> Option<DrainCause> {
        match self.stage {
            Stage::Leaving { departure, .. } => match departure {
                Departure::Drained(cause) => Some(cause),
                Departure::Broken | Departure::Hung | Departure::Ended => None,
            },
            Stage::Starting(_) | Stage::Ready(_) | Stage::Paused { .. } => None,
        }
    }

    /// Returns true when its channel closed long before its process ended.
    pub(super) fn is_broken(&self) -> bool {
        match self.stage {
            Stage::Leaving { departure: Departure::Broken, escalation, .. } => match escalation {
                Escalation::Kill { .. } | Escalation::Killed { .. } | Escalation::Abandoned => true,
                Escalation::Unarmed | Escalation::Terminate { .. } => false,
            },
            Stage::Leaving { .. } | Stage::Starting(_) | Stage::Ready(_) | Stage::Paused { .. } => false,
        }
    }

    /// Returns true while it may finish what it does, until a deadline that is set.
    pub(super) fn is_draining(&self) -> bool {
        match self.stage {
            Stage::Leaving { escalation, .. } => match escalation {
                Escalation::Terminate { .. } | Escalation::Kill { .. } => self.leaves_voluntarily(),
                Escalation::Unarmed | Escalation::Killed { .. } | Escalation::Abandoned => false,
            },
            Stage::Starting(_) | Stage::Ready(_) | Stage::Paused { .. } => false,
        }
    }

    /// Returns when something has to be done about this worker unless it moves by itself.
    pub(super) fn deadline(&self) -> Option<Instant> {
        if let Process::Exited { forget_at, .. } = self.process {
            return Some(forget_at);
        }
        match self.stage {
            Stage::Starting(probation) => {
                [probation.deadline(), self.proof.next_probe()].into_iter().flatten().min()
            }
            Stage::Ready(Answers::InTime) => self.recycle_at(),
            Stage::Ready(Answers::Overdue { kill_at }) => {
                Some(self.recycle_at().map_or(kill_at, |at| at.min(kill_at)))
            }
            Stage::Paused { .. } => None,
            Stage::Leaving { escalation, answers, .. } => {
                let at = match escalation {
                    Escalation::Unarmed | Escalation::Abandoned => return None,
                    // Nothing harder can be done to it for being hung.
                    Escalation::Killed { at, .. } => return Some(at),
                    Escalation::Terminate { at, .. } | Escalation::Kill { at, .. } => at,
                };
                match answers {
                    Answers::InTime => Some(at),
                    Answers::Overdue { kill_at } => Some(at.min(kill_at)),
                }
            }
        }
    }

    /// Moves everything that the worker has time for to later. Its age it has, whether it ran or not.
    pub(super) fn postpone(&mut self, delay: Duration) {
        // A deadline beyond what an instant can say is never reached anyway.
        let later = |at: &mut Instant| *at = at.checked_add(delay).unwrap_or(*at);
        if let Process::Exited { forget_at, .. } = &mut self.process {
            later(forget_at);
        }
        if let Wish::Later { until, .. } = &mut self.wish {
            later(until);
        }
        let answers = match &mut self.stage {
            Stage::Starting(Probation::Open) | Stage::Paused { .. } => return,
            Stage::Starting(Probation::Lives { until: at } | Probation::Speaks { by: at }) => {
                return later(at);
            }
            Stage::Ready(answers) => answers,
            Stage::Leaving { escalation, answers, .. } => {
                match escalation {
                    Escalation::Unarmed | Escalation::Abandoned => {}
                    Escalation::Terminate { at, .. }
                    | Escalation::Kill { at, .. }
                    | Escalation::Killed { at, .. } => later(at),
                }
                answers
            }
        };
        match answers {
            Answers::InTime => {}
            Answers::Overdue { kill_at } => later(kill_at),
        }
    }

    /// Takes the worker out of rotation when it is in, and notes why it leaves.
    pub(super) fn depart(&mut self, departure: Departure, escalation: Escalation, step: &mut Step<'_>) {
        debug_assert!(!self.is_leaving(), "a worker leaves once: {self:?}");
        self.departed = self.ready_since.map(|_| step.now);
        let answers = match self.stage {
            Stage::Ready(answers) => {
                step.push(Effect::LeaveRotation { worker: self.id() });
                answers
            }
            Stage::Starting(_) | Stage::Paused { .. } | Stage::Leaving { .. } => Answers::InTime,
        };
        self.stage = Stage::Leaving { departure, escalation, answers };
    }

    /// Asks a process to finish: by message when it has servers to close, else by signal; one that accepts by itself only
    /// when it has nothing more to do.
    ///
    /// A program that listens on nothing would close its channel at the message and go on with its work.
    pub(super) fn ask_to_leave(&mut self, cause: DrainCause, settings: &Settings, step: &mut Step<'_>) {
        let Stage::Leaving { escalation, .. } = &mut self.stage else { return };
        step.emit(Event::Draining { worker: self.reference, cause });
        let worker = self.reference.id;
        let after = settings.deadlines.drain;
        let at = step.after(after);
        *escalation = if self.channel == Channel::Open && self.heard == Heard::Listening {
            step.push(Effect::Disconnect { worker });
            Escalation::Terminate { at, after }
        } else if self.heard == Heard::Captured {
            step.push(Effect::AwaitIdle { worker });
            Escalation::Terminate { at, after }
        } else {
            ask_by_signal(worker, settings, after, step)
        };
    }

    /// Asks a process to end that was let go, accepts by itself, and has nothing more to do.
    pub(super) fn end_when_idle(&mut self, settings: &Settings, step: &mut Step<'_>) {
        let (worker, heard) = (self.reference.id, self.heard);
        let Stage::Leaving { escalation, .. } = &mut self.stage else { return };
        match (heard, *escalation) {
            (Heard::Captured, Escalation::Terminate { at, .. }) => {
                // It keeps the rest of its time.
                let rest = at.saturating_duration_since(step.now).max(settings.deadlines.kill);
                *escalation = ask_by_signal(worker, settings, rest, step);
            }
            (
                Heard::Nothing | Heard::Online | Heard::Captured | Heard::Listening,
                Escalation::Unarmed
                | Escalation::Terminate { .. }
                | Escalation::Kill { .. }
                | Escalation::Killed { .. }
                | Escalation::Abandoned,
            ) => {}
        }
    }

    /// Does the next, harder thing to a worker that should have left by now.
    pub(super) fn escalate(&mut self, deadlines: &Deadlines, step: &mut Step<'_>) {
        let Stage::Leaving { departure, escalation, .. } = &mut self.stage else { return };
        match *escalation {
            Escalation::Unarmed | Escalation::Killed { .. } | Escalation::Abandoned => {}
            Escalation::Terminate { after, .. } => {
                let since = match departure {
                    Departure::Drained(_) if self.heard == Heard::Captured => "leaving rotation",
                    Departure::Drained(_) => "being asked to leave",
                    Departure::Broken | Departure::Hung | Departure::Ended => "closing its channel",
                };
                *escalation = Escalation::Kill { at: step.after(deadlines.kill), after: deadlines.kill };
                self.signal(libc::SIGTERM, format!("it did not end within {after:?} of {since}"), step);
            }
            Escalation::Kill { after, .. } => {
                self.kill(format!("it did not end within {after:?} of SIGTERM"), deadlines, step);
            }
        }
    }

    /// Sends SIGKILL to a worker that leaves, unless that was done before.
    pub(super) fn kill(&mut self, why: String, deadlines: &Deadlines, step: &mut Step<'_>) {
        let Stage::Leaving { escalation, .. } = &mut self.stage else { return };
        match escalation {
            Escalation::Unarmed | Escalation::Terminate { .. } | Escalation::Kill { .. } => {
                let after = deadlines.kill.max(LAST_BREATH);
                *escalation = Escalation::Killed { at: step.after(after), after };
                self.signal(libc::SIGKILL, why, step);
            }
            Escalation::Killed { .. } | Escalation::Abandoned => {}
        }
    }

    /// Sends a signal and records why.
    pub(super) fn signal(&self, signal: i32, why: String, step: &mut Step<'_>) {
        let name = signal_name(signal).unwrap_or("a signal");
        step.emit(Event::Signalled { worker: self.reference, signal: name, why });
        step.push(Effect::Signal { worker: self.id(), signal });
    }
}

/// Asks a process to end by the signal that the app has for it, and returns what comes next.
fn ask_by_signal(worker: WorkerId, settings: &Settings, after: Duration, step: &mut Step<'_>) -> Escalation {
    let at = step.after(after);
    if settings.stop_signal.is_for_the_tree() {
        step.push(Effect::Signal { worker, signal: settings.stop_signal.number() });
        Escalation::Kill { at, after }
    } else {
        step.push(Effect::AskBySignal { worker, signal: settings.stop_signal });
        Escalation::Terminate { at, after }
    }
}
