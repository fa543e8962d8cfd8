//! Every behaviour of supervision one by one, and a seeded simulation of all of them at once.

mod cutting;
mod ending;
mod keeping;
mod ledger;
mod pausing;
mod proving;
mod recycling;
mod reloading;
mod rescuing;
mod simulation;
mod surviving;
mod world;

use super::*;
use crate::event::{Event, ExitStatus, signal_name};
use crate::spec::{Probe, RecycleLimits, Replacement, RestartPolicy, StopSignal};

fn settings(instances: u32) -> Settings {
    Settings {
        instances,
        has_channel: true,
        sees_listening: false,
        hands_over: true,
        ready: Ready::Auto,
        deadlines: Deadlines::default(),
        stop_signal: StopSignal::default(),
        restart: RestartPolicy { max_failures: 3, ..RestartPolicy::default() },
        replacement: Replacement::default(),
        recycle: RecycleLimits::default(),
        same_addresses: true,
    }
}

/// The signal of a program that has one of its own for a graceful end.
fn own_signal() -> StopSignal {
    "QUIT".parse().expect("SIGQUIT can be chosen")
}

fn worker(number: u32) -> WorkerId {
    WorkerId { app: AppId(0), number }
}

fn seconds(count: u64) -> Duration {
    Duration::from_secs(count)
}

/// A supervisor with a hand-driven clock, whose effects read as text.
struct Trial {
    supervisor: Supervisor,
    now: Instant,
}

impl Trial {
    fn new(settings: Settings) -> Self {
        Self { supervisor: Supervisor::new(AppId(0), settings, 7), now: Instant::now() }
    }

    /// Returns an app whose slots are filled by the ready workers `1..=instances`.
    fn running(settings: Settings) -> Self {
        let mut trial = Self::new(settings);
        trial.on(Input::Start);
        for number in 1..=trial.supervisor.settings.instances {
            trial.make_ready(number);
        }
        trial
    }

    fn on(&mut self, input: Input) -> Vec<String> {
        let mut effects = Vec::new();
        self.supervisor.on(input, self.now, &mut effects);
        effects.iter().map(text).collect()
    }

    fn spawned(&mut self, number: u32) -> Vec<String> {
        self.on(Input::Spawned { worker: worker(number), pid: 1_000 + number })
    }

    fn listening(&mut self, number: u32) -> Vec<String> {
        let input =
            Input::Listening { worker: worker(number), address: "0.0.0.0:80".to_owned(), port: Some(80) };
        self.on(input)
    }

    fn make_ready(&mut self, number: u32) -> Vec<String> {
        let mut effects = self.spawned(number);
        effects.extend(self.listening(number));
        effects
    }

    fn closed(&mut self, number: u32) -> Vec<String> {
        self.on(Input::ChannelClosed { worker: worker(number), open: None })
    }

    fn exited(&mut self, number: u32, code: i32) -> Vec<String> {
        let stderr = vec![format!("last words of {number}")];
        self.on(Input::Exited { worker: worker(number), status: ExitStatus::Code(code), stderr })
    }

    /// The worker ends the way the kernel shows it: end of file on the channel, then the exit.
    fn crash(&mut self, number: u32) -> Vec<String> {
        let mut effects = self.closed(number);
        effects.extend(self.exited(number, 1));
        effects
    }

    fn reload(&mut self, request: u64) -> Vec<String> {
        self.on(Input::Reload { request })
    }

    fn stop(&mut self) -> Vec<String> {
        self.on(Input::Stop { reason: "SIGTERM".to_owned() })
    }

    fn pass(&mut self, time: Duration) {
        self.now += time;
    }

    /// Lets the time run to the next deadline, which must be there, and tells how long that took.
    fn ring(&mut self) -> (Duration, Vec<String>) {
        let at = self.supervisor.next_deadline().expect("nothing is pending");
        let waited = at.saturating_duration_since(self.now);
        self.now = self.now.max(at);
        (waited, self.on(Input::Tick))
    }

    fn ring_after(&mut self, expected: Duration) -> Vec<String> {
        let (waited, effects) = self.ring();
        assert_eq!(waited, expected, "{effects:?}");
        effects
    }

    fn in_rotation(&self) -> Vec<u32> {
        let ready = self.supervisor.workers.iter().filter(|(_, worker)| worker.is_ready());
        ready.map(|(number, _)| *number).collect()
    }
}

/// Writes an effect the way the tests expect it: short, and without what the test has put in itself.
fn text(effect: &Effect) -> String {
    match effect {
        Effect::Spawn { worker, slot, generation } => {
            format!("spawn {} in slot {slot} generation {generation}", worker.number)
        }
        Effect::Probe { worker } => format!("probe {}", worker.number),
        Effect::EnterRotation { worker } => format!("enter {}", worker.number),
        Effect::LeaveRotation { worker } => format!("leave {}", worker.number),
        Effect::Disconnect { worker } => format!("disconnect {}", worker.number),
        Effect::AskBySignal { worker, signal } => format!("ask {} by {signal}", worker.number),
        Effect::AwaitIdle { worker } => format!("await idle {}", worker.number),
        Effect::Signal { worker, signal } => {
            format!("{} {}", signal_name(*signal).unwrap_or("?"), worker.number)
        }
        Effect::Forget { worker } => format!("forget {}", worker.number),
        Effect::ReloadEnded { request, outcome } => match outcome {
            ReloadOutcome::Done { generation, .. } => {
                format!("reload {request} done: generation {generation}")
            }
            ReloadOutcome::Failed { reason, stderr, .. } => {
                format!("reload {request} failed: {reason} {stderr:?}")
            }
            ReloadOutcome::Superseded => format!("reload {request} superseded"),
            ReloadOutcome::Stopped => format!("reload {request} stopped"),
        },
        Effect::Finished { outcome } => format!("finished {outcome:?}"),
        Effect::Emit(event) => event_text(event),
    }
}

fn event_text(event: &Event) -> String {
    match event {
        Event::Forked { worker } => format!("[forked {}]", worker.id.number),
        Event::SpawnFailed { worker, reason } => format!("[spawn failed {}: {reason}]", worker.id.number),
        Event::Online { worker } => format!("[online {}]", worker.id.number),
        Event::Listening { worker, .. } => format!("[listening {}]", worker.id.number),
        Event::Ready { worker, .. } => format!("[ready {}]", worker.id.number),
        Event::NotReady { worker, reason, .. } => format!("[not ready {}: {reason}]", worker.id.number),
        Event::Draining { worker, cause } => format!("[draining {} {cause:?}]", worker.id.number),
        Event::Disconnect { worker } => format!("[disconnected {}]", worker.id.number),
        Event::Unresponsive { worker, .. } => format!("[unresponsive {}]", worker.id.number),
        Event::Responsive { worker } => format!("[responsive {}]", worker.id.number),
        Event::Recycling { worker, reason } => format!("[recycling {} {reason:?}]", worker.id.number),
        Event::RecycleFailed { slot, reason, retry, .. } => {
            let then = if retry.is_some() { "again later" } else { "not again" };
            format!("[recycle of slot {slot} failed: {reason}; {then}]")
        }
        Event::Paused { worker, in_rotation, slots } => {
            format!("[paused {}, {in_rotation} of {slots} serve]", worker.id.number)
        }
        Event::Resumed { worker, in_rotation, slots } => {
            format!("[resumed {}, {in_rotation} of {slots} serve]", worker.id.number)
        }
        Event::Signalled { worker, signal, why } => format!("[{signal} {}: {why}]", worker.id.number),
        Event::Unkillable { worker, after } => format!("[unkillable {} after {after:?}]", worker.id.number),
        Event::Exit { worker, cause, .. } => {
            let kind = if cause.voluntary { "voluntary" } else { "crash" };
            format!("[exit {} {} {kind}]", worker.id.number, cause.status)
        }
        Event::Restart { slot, failures, .. } => format!("[restart slot {slot} after {failures}]"),
        Event::Errored { slot, failures } => format!("[errored slot {slot} after {failures}]"),
        Event::ReloadStarted { generation } => format!("[reload to {generation}]"),
        Event::ReloadDone { generation, .. } => format!("[reloaded to {generation}]"),
        Event::ReloadFailed { generation, reason, .. } => {
            format!("[reload to {generation} failed: {reason}]")
        }
        Event::Stopping { reason } => format!("[stopping: {reason}]"),
        Event::Stopped { .. } => "[stopped]".to_owned(),
        other => format!("[unexpected {other:?}]"),
    }
}
