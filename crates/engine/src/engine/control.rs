//! The control task: one owner for all apps and workers.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::future::pending;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Instant;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{Semaphore, mpsc, oneshot};

use super::events::{Journal, Source};
use super::reaper::{self, Unclaimed};
use super::spawner::{Spawned, Spawner};
use super::state::{AppState, Worker};
use super::{EngineOptions, Orphans, Request, StartError, memory};
use crate::capture::{Capture, CaptureFact};
use crate::event::{Event, WorkerRef};
use crate::guard::Guard;
use crate::ids::{AppId, Generation, WorkerId};
use crate::plane::{AppCount, Command, Fact, NotTaken, PlaneHandle};
use crate::process::mark::Stamp;
use crate::supervise::Input;

/// Starts the task on the current runtime.
pub(super) fn start(
    options: EngineOptions,
    requests: mpsc::Receiver<Request>,
    handle: mpsc::WeakSender<Request>,
    events: &Source,
) -> Result<(), StartError> {
    let Some(journal) = events.journal() else { return Ok(()) };
    let children = signal(SignalKind::child()).map_err(failed("watch for children that end"))?;
    let (mut control, mut facts) = Control::new(options, handle, journal)?;
    // Those that ended before anybody listened to their signals.
    control.on_children(&mut facts);
    tokio::spawn(control.run(requests, facts, children));
    Ok(())
}

fn failed(what: &'static str) -> impl Fn(io::Error) -> StartError {
    move |source| StartError { what, source }
}

/// What tasks and threads of the engine tell the control task.
#[derive(Debug)]
pub(super) enum Note {
    Spawned(Spawned),
    /// One of a worker's output pipes is closed.
    OutputEnded {
        worker: WorkerId,
    },
    /// The last lines of a worker that exited are waited for no longer.
    OutputOverdue {
        worker: WorkerId,
    },
    /// The listeners of an app that stops are closed, or were given the time for it.
    ListenersClosed {
        app: AppId,
        reason: String,
    },
    /// Nothing is left of what a worker that was let go had started.
    TreeEnded {
        worker: WorkerId,
    },
    /// What a gone worker left behind has had its time.
    LeftoversOverdue {
        worker: WorkerId,
    },
    /// What has happened to an app's connections so far, for the report of a reload.
    Counted {
        app: AppId,
        generation: Generation,
        count: AppCount,
    },
    /// A probe has a connection for this worker, and waits for what that says to it.
    ProbeBegun {
        worker: WorkerId,
        connection: OwnedFd,
        taken: oneshot::Sender<Result<(), NotTaken>>,
    },
    /// What was seen of a worker that binds by itself.
    Captured(CaptureFact),
    /// A worker waits for connections at a socket that it inherited for itself.
    Waits {
        worker: WorkerId,
    },
    /// It was seen not to; why, as a sentence without a full stop.
    DoesNotWait {
        worker: WorkerId,
        why: String,
    },
    /// A worker that accepts by itself, and leaves, has nothing more to do.
    Idle {
        worker: WorkerId,
    },
    /// What a probe found; otherwise why the worker is not ready.
    Probed {
        worker: WorkerId,
        result: Result<(), String>,
    },
    /// Why a worker could not listen, with what was found out about it.
    Explained {
        worker: WorkerId,
        event: Event,
    },
}

/// All state of the control plane.
pub(super) struct Control {
    pub(super) orphans: Orphans,
    /// What marks the workers of this engine.
    pub(super) stamp: Stamp,
    pub(super) handle: mpsc::WeakSender<Request>,
    pub(super) plane: PlaneHandle,
    /// There until the end.
    pub(super) spawner: Option<Spawner>,
    /// Who looks whether a worker is idle: all processes of the machine are looked at.
    pub(super) looks: Arc<Semaphore>,
    /// There once an app needs it.
    pub(super) capture: Option<Capture>,
    pub(super) journal: Journal,
    pub(super) notes: mpsc::UnboundedSender<Note>,
    pub(super) told: mpsc::UnboundedReceiver<Note>,
    pub(super) apps: BTreeMap<AppId, AppState>,
    pub(super) pids: HashMap<u32, WorkerId>,
    pub(super) unclaimed: Unclaimed,
    pub(super) next_app: u32,
    pub(super) next_reload: u64,
    /// Inputs that arose while effects were performed.
    pub(super) queue: VecDeque<(AppId, Input)>,
    /// Ends everything when this process does.
    pub(super) guard: Option<Guard>,
}

impl Control {
    /// Starts the threads and the guard, and returns what the data plane will tell besides.
    fn new(
        options: EngineOptions,
        handle: mpsc::WeakSender<Request>,
        journal: Journal,
    ) -> Result<(Self, mpsc::UnboundedReceiver<Fact>), StartError> {
        if options.orphans != Orphans::Leave {
            rustix::process::set_child_subreaper(Some(rustix::process::getpid()))
                .map_err(|error| failed("adopt orphans")(error.into()))?;
        }
        let (plane, facts) = PlaneHandle::start().map_err(failed("start the data plane"))?;
        let (notes, told) = mpsc::unbounded_channel();
        let done = notes.clone();
        let spawner = Spawner::start(move |spawned| {
            let _ended = done.send(Note::Spawned(spawned));
        })
        .map_err(failed("start the thread that forks"))?;
        let stamp = Stamp::new();
        let guard = options.guard.map(|arguments| Guard::start(arguments, &stamp)).transpose();
        let guard = guard.map_err(failed("start the guard process"))?;
        let control = Self {
            orphans: options.orphans,
            stamp,
            handle,
            plane,
            spawner: Some(spawner),
            looks: Arc::new(Semaphore::new(1)),
            capture: None,
            journal,
            notes,
            told,
            apps: BTreeMap::new(),
            pids: HashMap::new(),
            unclaimed: Unclaimed::default(),
            next_app: 0,
            next_reload: 0,
            queue: VecDeque::new(),
            guard,
        };
        Ok((control, facts))
    }

    async fn run(
        mut self,
        mut requests: mpsc::Receiver<Request>,
        mut facts: mpsc::UnboundedReceiver<Fact>,
        mut children: Signal,
    ) {
        let mut memory = memory::interval();
        loop {
            let deadline = self.apps.values().filter_map(|app| app.supervisor.next_deadline()).min();
            let tick = async move {
                match deadline {
                    Some(at) => tokio::time::sleep_until(at.into()).await,
                    None => pending().await,
                }
            };
            // In no fixed order: a worker that talks without pause must not keep signals and timers waiting. What
            // the supervisor learns of one worker by two ways may come in either order.
            tokio::select! {
                fact = facts.recv() => match fact {
                    Some(fact) => self.on_fact(fact),
                    // Its thread ends before this task only by a panic, which it has printed.
                    None => return self.fail("the data plane has ended unexpectedly"),
                },
                Some(note) = self.told.recv() => self.on_note(note),
                Some(()) = children.recv() => self.on_children(&mut facts),
                request = requests.recv() => match request {
                    Some(request) => self.on_request(request),
                    None => return,
                },
                () = tick => self.on_tick(),
                _ = memory.tick(), if self.watches_memory() => self.look_at_memory(),
            }
            self.work_off();
        }
    }

    /// Tells every app that the engine ends now, and all workers with it.
    fn fail(mut self, reason: &str) {
        self.emit_to_all(&Event::EngineFailed { reason: reason.to_owned() });
    }

    /// Supervises until nothing new arises.
    fn work_off(&mut self) {
        let mut effects = Vec::new();
        while let Some((id, input)) = self.queue.pop_front() {
            let Some(app) = self.apps.get_mut(&id) else { continue };
            app.supervisor.on(input, Instant::now(), &mut effects);
            // Only then: a look has their lock for as long as it takes.
            let to_fill = app.supervisor.slots_to_fill();
            if let Some(slots) = &app.slots
                && app.expected_workers.replace(to_fill) != Some(to_fill)
            {
                slots.expect_workers(to_fill);
            }
            for effect in effects.drain(..) {
                self.perform(id, effect);
            }
        }
    }

    pub(super) fn tell(&mut self, app: AppId, input: Input) {
        self.queue.push_back((app, input));
    }

    fn on_tick(&mut self) {
        let now = Instant::now();
        let due = |app: &AppState| app.supervisor.next_deadline().is_some_and(|at| at <= now);
        let apps: Vec<AppId> = self.apps.iter().filter(|(_, app)| due(app)).map(|(id, _)| *id).collect();
        for app in apps {
            self.tell(app, Input::Tick);
        }
    }

    fn on_note(&mut self, note: Note) {
        match note {
            Note::Spawned(spawned) => self.on_spawned(spawned),
            Note::OutputEnded { worker } => {
                if let Some(known) = self.worker_mut(worker) {
                    known.open_outputs = known.open_outputs.saturating_sub(1);
                    self.tell_exit(worker);
                }
            }
            Note::OutputOverdue { worker } => {
                if let Some(known) = self.worker_mut(worker) {
                    known.open_outputs = 0;
                    self.tell_exit(worker);
                }
            }
            Note::Explained { worker, event } => {
                self.emit(worker.app, event);
                if let Some(known) = self.worker_mut(worker) {
                    known.unexplained = known.unexplained.saturating_sub(1);
                    self.tell_exit(worker);
                }
            }
            Note::Counted { app, generation, count } => self.on_counted(app, generation, count),
            Note::ProbeBegun { worker, connection, taken } => {
                self.plane.send(Command::Probe { worker, connection, taken });
            }
            Note::Captured(fact) => self.on_captured(fact),
            Note::Waits { worker } => self.on_waits(worker),
            Note::DoesNotWait { worker, why } => self.tell(worker.app, Input::DoesNotWait { worker, why }),
            Note::Idle { worker } => self.tell(worker.app, Input::Idle { worker }),
            Note::Probed { worker, result } => self.on_probed(worker, result),
            Note::ListenersClosed { app, reason } => self.tell(app, Input::Stop { reason }),
            Note::TreeEnded { worker } => self.end_wait_for_tree(worker),
            Note::LeftoversOverdue { worker } => self.end_leftovers_of(worker),
        }
    }

    pub(super) fn emit(&mut self, app: AppId, event: Event) {
        if let Some(app) = self.apps.get(&app) {
            self.journal.record(&app.name, event);
        }
    }

    pub(super) fn emit_to_all(&mut self, event: &Event) {
        for app in self.apps.values() {
            self.journal.record(&app.name, event.clone());
        }
    }

    pub(super) fn emit_about(&mut self, worker: WorkerId, event: impl FnOnce(WorkerRef) -> Event) {
        if let Some(reference) = self.reference(worker) {
            self.emit(worker.app, event(reference));
        }
    }

    pub(super) fn reference(&self, id: WorkerId) -> Option<WorkerRef> {
        let worker = self.apps.get(&id.app)?.workers.get(&id)?;
        Some(WorkerRef { id, slot: worker.slot, generation: worker.generation, pid: worker.pid })
    }

    pub(super) fn worker_mut(&mut self, id: WorkerId) -> Option<&mut Worker> {
        self.apps.get_mut(&id.app)?.workers.get_mut(&id)
    }
}

impl Drop for Control {
    /// Ends the workers and the guard, and leaves no zombies of them to a process that lives on.
    fn drop(&mut self) {
        let Some(spawner) = self.spawner.take() else { return };
        let mut children: Vec<u32> = self.pids.keys().copied().collect();
        let guard = self.guard.take();
        children.extend(guard.as_ref().map(Guard::pid));
        let mut told = std::mem::replace(&mut self.told, mpsc::unbounded_channel().1);
        // On a thread of its own: it would block this one for as long as the kernel takes to end them. Without a thread
        // they are not reaped.
        let _thread = std::thread::Builder::new().name("worksong-end".to_owned()).spawn(move || {
            spawner.end();
            drop(guard);
            while let Ok(note) = told.try_recv() {
                if let Note::Spawned(Spawned { result: Ok(started), .. }) = note {
                    children.push(started.pid);
                }
            }
            children.into_iter().for_each(reaper::wait);
        });
    }
}

#[cfg(test)]
mod tests;
