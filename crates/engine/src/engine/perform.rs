//! Effects of supervision, performed.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, PoisonError};

use rustix::pipe::{PipeFlags, pipe_with};

use super::control::{Control, Note};
use super::leftovers::Tree;
use super::places::Ports;
use super::pump::Sink;
use super::reaper;
use super::relay::Names;
use super::spawner::{Job, Spawned};
use super::state::{AppState, Worker};
use super::{Orphans, ReloadError, ReloadReport};
use crate::capture::Watch;
use crate::event::Event;
use crate::guard::Guard;
use crate::ids::{AppId, Generation, Slot, WorkerId};
use crate::output::{LastLines, Stream};
use crate::plane::{Command, PeerSpec};
use crate::process::launch::{self, Gifts};
use crate::process::mark::Mark;
use crate::process::spawn::{Launch, Started};
use crate::process::tree;
use crate::shortage::Shortage;
use crate::spec::{Dialect, NodeFlavour, StopSignal};
use crate::supervise::{Blame, Effect, Input, Outcome, ReloadOutcome};

impl Control {
    pub(super) fn perform(&mut self, app: AppId, effect: Effect) {
        match effect {
            Effect::Spawn { worker, slot, generation } => self.spawn(worker, slot, generation),
            Effect::Probe { worker } => self.probe(worker),
            Effect::AwaitIdle { worker } => self.await_idle(worker),
            Effect::EnterRotation { worker } => {
                self.rotate_slots(worker, true);
                self.plane.send(Command::Rotate { worker, in_rotation: true });
                if !self.has_predecessor(worker) {
                    self.plane.send(Command::Rebalance { newcomer: worker });
                }
            }
            Effect::LeaveRotation { worker } => {
                self.rotate_slots(worker, false);
                self.plane.send(Command::Rotate { worker, in_rotation: false });
            }
            Effect::Disconnect { worker } => self.disconnect(worker),
            Effect::AskBySignal { worker, signal } => self.ask_by_signal(worker, signal),
            Effect::Signal { worker, signal } => self.signal(worker, signal),
            Effect::Forget { worker } => self.forget(worker),
            Effect::Emit(mut event) => {
                if let Event::ReloadFailed { worker: Some(worker), stderr, .. }
                | Event::RecycleFailed { worker, stderr, .. } = &mut event
                {
                    self.add_last_lines(*worker, stderr);
                }
                let step = self.report_step(app, &event);
                self.emit(app, event);
                if let Some(step) = step {
                    self.report(app, step);
                }
            }
            Effect::ReloadEnded { request, outcome } => self.end_reload(app, request, outcome),
            Effect::Finished { outcome } => self.finish(app, outcome),
        }
    }

    /// Steers what the kernel sends to workers that accept by themselves.
    fn rotate_slots(&self, worker: WorkerId, in_rotation: bool) {
        if let Some(slots) = self.apps.get(&worker.app).and_then(|app| app.slots.as_ref()) {
            slots.rotate(worker, in_rotation);
        }
    }

    /// Returns true when another worker of the same slot is there, which gives its connections up.
    fn has_predecessor(&self, id: WorkerId) -> bool {
        let Some(app) = self.apps.get(&id.app) else { return false };
        let slot = app.workers.get(&id).map(|worker| worker.slot);
        let is_before = |worker: &Worker| Some(worker.slot) == slot && !worker.given_up;
        app.workers.iter().any(|(other, worker)| *other != id && is_before(worker))
    }

    fn spawn(&mut self, id: WorkerId, slot: Slot, generation: Generation) {
        let Some(app) = self.apps.get_mut(&id.app) else { return };
        // A reload or more slots revive an app that was given up.
        app.finished.send_if_modified(|finished| finished.take().is_some());
        let mark = self.stamp.mark(id);
        if let Some(slots) = &app.slots {
            slots.add(id, slot);
        }
        let (worker, launch) = match prepare(app, id, slot, generation, mark) {
            Ok(prepared) => prepared,
            Err(error) => {
                if let Some(slots) = &app.slots {
                    slots.remove(id);
                }
                let reason = format!("could not prepare the process: {error}");
                self.spawn_failed(id, reason, Shortage::of_process(&error));
                return;
            }
        };
        app.workers.insert(id, worker);
        self.unclaimed.launching();
        if let Some(spawner) = &self.spawner {
            spawner.launch(Job { worker: id, launch });
        }
    }

    pub(super) fn on_spawned(&mut self, spawned: Spawned) {
        let id = spawned.worker;
        let Started { pid, notifier } = match spawned.result {
            Ok(started) => started,
            Err(error) => {
                self.unclaimed.launched(None);
                if let Some(app) = self.apps.get_mut(&id.app) {
                    app.workers.remove(&id);
                    if let Some(slots) = &app.slots {
                        slots.remove(id);
                    }
                }
                self.spawn_failed(id, error.to_string(), error.shortage());
                return;
            }
        };
        let exit = self.unclaimed.launched(Some(pid));
        // SIGCHLD came and went before the process id was known.
        let exit = exit.or_else(|| reaper::reap(pid));
        let Some(app) = self.apps.get_mut(&id.app) else { return };
        let lines = app.lines.clone();
        let name = Arc::clone(&app.name);
        let dialect = app.spec.dialect;
        let enough = app.supervisor.connection_limit(id);
        let Some(worker) = app.workers.get_mut(&id) else { return };
        worker.pid = pid;
        let slot = worker.slot;
        if let (Some(notifier), Some(slots), Some(capture)) = (notifier, &app.slots, &self.capture) {
            capture.watch(Watch {
                worker: id,
                notifier,
                slots: slots.clone(),
                addresses: app.spec.capture.clone(),
                leader: pid,
                mark: worker.mark.clone(),
            });
        }
        if let Some((lines, (stdout, stderr))) = lines.zip(worker.output.take()) {
            worker.open_outputs = 2;
            let sink =
                Sink { app: name, slot: worker.slot, worker: id, lines, last: Arc::clone(&worker.last) };
            self.pump(sink.clone(), Stream::Stdout, stdout);
            self.pump(sink, Stream::Stderr, stderr);
        }
        if let Some(channel) = self.worker_mut(id).and_then(|worker| worker.channel.take()) {
            let flavour = match dialect {
                Dialect::Node(flavour) => Some(flavour),
                Dialect::Native | Dialect::Activation | Dialect::Capture { .. } | Dialect::Port { .. } => {
                    None
                }
            };
            self.plane.send(Command::AddPeer(PeerSpec { worker: id, slot, channel, flavour, enough }));
        }
        self.tell(id.app, Input::Spawned { worker: id, pid });
        self.await_waiting(id);
        match exit {
            Some(status) => self.on_exit(id, status),
            None => drop(self.pids.insert(pid, id)),
        }
    }

    fn spawn_failed(&mut self, worker: WorkerId, reason: String, shortage: Option<Shortage>) {
        let blame = shortage.map_or(Blame::Program, |_| Blame::System);
        if let Some(of) = shortage {
            self.plane.send(Command::NoteShortage { of });
        }
        self.tell(worker.app, Input::SpawnFailed { worker, reason, blame });
    }

    fn pump(&self, sink: Sink, stream: Stream, pipe: OwnedFd) {
        let notes = self.notes.clone();
        tokio::spawn(async move {
            let worker = sink.worker;
            // An output that cannot be read is as good as closed.
            let _closed = sink.pump(stream, pipe).await;
            let _ended = notes.send(Note::OutputEnded { worker });
        });
    }

    /// Asks a worker to finish. Bun would close its channel and go on serving for ever: only a signal reaches it.
    fn disconnect(&mut self, worker: WorkerId) {
        let Some(app) = self.apps.get(&worker.app) else { return };
        if app.spec.dialect == Dialect::Node(NodeFlavour::Bun) {
            self.ask_by_signal(worker, app.spec.stop_signal);
        } else {
            let within = app.spec.deadlines.drain;
            self.plane.send(Command::Disconnect { worker, within });
        }
    }

    fn ask_by_signal(&mut self, id: WorkerId, signal: StopSignal) {
        if signal.is_for_the_tree() {
            self.signal(id, signal.number());
        } else if let Some(worker) = self.worker_mut(id)
            && worker.pid != 0
            && worker.exited.is_none()
        {
            worker.asked_alone_by = Some(signal);
            tree::signal_leader(worker.pid, signal.number());
        }
    }

    fn signal(&mut self, id: WorkerId, signal: i32) {
        let Some(worker) = self.worker_mut(id) else { return };
        if worker.pid == 0 {
            return;
        }
        worker.terminated |= signal == libc::SIGTERM;
        if worker.exited.is_none() {
            tree::signal(worker.pid, &worker.mark, signal);
            return;
        }
        tree::signal_leftovers(worker.pid, &worker.mark, signal);
        if signal == libc::SIGKILL {
            self.end_wait_for_tree(id);
        }
    }

    /// Drops what belongs to a gone worker.
    fn forget(&mut self, id: WorkerId) {
        self.plane.send(Command::Forget { worker: id });
        let Some(app) = self.apps.get_mut(&id.app) else { return };
        if let Some(slots) = &app.slots {
            slots.remove(id);
        }
        if let Some(worker) = app.workers.remove(&id) {
            self.terminate_leftovers(id, worker);
        }
    }

    /// Completes what a failed reload or recycle tells by the last lines of a worker that still lives.
    fn add_last_lines(&self, worker: WorkerId, stderr: &mut Vec<String>) {
        if stderr.is_empty()
            && let Some(worker) = self.apps.get(&worker.app).and_then(|app| app.workers.get(&worker))
        {
            *stderr = worker.last.lock().unwrap_or_else(PoisonError::into_inner).to_vec();
        }
    }

    fn end_reload(&mut self, app: AppId, request: u64, outcome: ReloadOutcome) {
        let Some(state) = self.apps.get_mut(&app) else { return };
        let Some(ended) = state.reloads.remove(&request) else { return };
        let result = match outcome {
            ReloadOutcome::Done { generation, took } => Ok(ReloadReport { generation, took }),
            ReloadOutcome::Failed { generation, worker, reason, mut stderr } => {
                self.add_last_lines(worker, &mut stderr);
                Err(ReloadError::NotReady { generation, reason, stderr })
            }
            ReloadOutcome::Superseded => Err(ReloadError::Superseded),
            ReloadOutcome::Stopped => Err(ReloadError::Stopped),
        };
        // Whoever asked may have stopped waiting.
        let _unheard = ended.send(result);
    }

    fn finish(&mut self, app: AppId, outcome: Outcome) {
        self.end_leftovers(app);
        if self.orphans != Orphans::Leave && self.apps.values().all(|app| app.workers.is_empty()) {
            // No worker is left that these could belong to.
            tree::kill_descendants(self.guard.as_ref().map(Guard::pid));
        }
        match outcome {
            Outcome::Stopped => {
                self.plane.send(Command::ForgetApp { app });
                if let Some(capture) = &self.capture {
                    capture.leave(app);
                }
                if let Some(state) = self.apps.remove(&app) {
                    state.finished.send_replace(Some(outcome));
                }
            }
            // A reload may revive it.
            Outcome::Errored => {
                if let Some(state) = self.apps.get(&app) {
                    state.finished.send_replace(Some(outcome));
                }
            }
        }
    }
}

/// Makes what the process needs: the two ends of a channel, of its output, and copies of inherited sockets.
fn prepare(
    app: &AppState,
    id: WorkerId,
    slot: Slot,
    generation: Generation,
    mark: Mark,
) -> io::Result<(Worker, Launch)> {
    let (channel, their_channel) = if app.spec.dialect.has_channel() {
        let (ours, theirs) = worksong_channel::pair()?;
        (Some(ours), Some(theirs))
    } else {
        (None, None)
    };
    let (output, their_output) = if app.lines.is_some() {
        let (stdout, their_stdout) = pipe_with(PipeFlags::CLOEXEC)?;
        let (stderr, their_stderr) = pipe_with(PipeFlags::CLOEXEC)?;
        (Some((stdout, stderr)), Some((their_stdout, their_stderr)))
    } else {
        (None, None)
    };
    let mut sockets = Vec::new();
    if app.spec.dialect == Dialect::Activation {
        for opened in &app.listeners {
            sockets.push(opened.inherit(id, app.slots.as_ref())?);
        }
    }
    let gifts = Gifts { channel: their_channel, sockets, output: their_output, agent: app.agent.clone() };
    let launch = launch::describe(&app.spec, id, slot, &mark, gifts)?;
    let worker = Worker {
        slot,
        generation,
        pid: 0,
        mark,
        channel,
        output,
        open_outputs: 0,
        unexplained: 0,
        last: Arc::new(Mutex::new(LastLines::default())),
        exited: None,
        exit_told: false,
        given_up: false,
        terminated: false,
        asked_alone_by: None,
        tree: Tree::Unseen,
        names: Names::default(),
        ports: Ports::default(),
    };
    Ok((worker, launch))
}
