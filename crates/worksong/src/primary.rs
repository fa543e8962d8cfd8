//! The primary's half of [`Builder::run`](crate::Builder::run): the engine, the signals, the program's hooks.

use std::collections::BTreeSet;
use std::pin::pin;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::timeout;
use worksong_engine::engine::{App, Engine, EngineFailed, EngineOptions, Orphans, Outcome, Subscription};
use worksong_engine::event::{Event, Record};
use worksong_engine::ids::WorkerId;
use worksong_engine::output::OutputLine;
use worksong_engine::signals::{Signals, Wish};
use worksong_engine::spec::AppSpec;
use worksong_worker::BoxError;

use crate::builder::Hooks;
use crate::cluster::{Cluster, FromWorker, Request};
use crate::error::{Error, Result};
use crate::output;

/// How long the end of the cluster waits for the last events.
const LAST_EVENTS: Duration = Duration::from_secs(1);

/// Runs the cluster until all its workers are gone.
pub(crate) fn run(spec: AppSpec, hooks: Hooks, orphans: Orphans) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(failed)?;
    let (lines, writer) = output::start().map_err(failed)?;
    let result = runtime.block_on(supervise(spec, hooks, orphans, lines));
    // Ends what is left on this runtime, and with it the last sender of lines.
    runtime.shutdown_background();
    writer.finish();
    result
}

async fn supervise(
    spec: AppSpec,
    hooks: Hooks,
    orphans: Orphans,
    lines: mpsc::Sender<OutputLine>,
) -> Result<()> {
    // Before the first worker, so that no early signal finds its default action.
    let signals = Signals::listen().map_err(failed)?;
    let guard = Some(std::env::args_os().collect());
    let engine = Engine::start(EngineOptions { orphans, guard }).map_err(failed)?;
    let mut events = engine.subscribe();
    let name = spec.name.clone();
    let app = engine.add(spec, Some(lines)).await.map_err(failed)?;
    let (cluster, requests) = Cluster::new();
    let audience = Audience { cluster, hooks, workers: BTreeSet::new(), last_exit: None };
    let mut primary = Primary { app, audience, stopping: None };
    let outcome = primary.attend(signals, &mut events, requests).await;
    let Primary { app, mut audience, stopping } = primary;
    // The last handles: the events end with the engine. What happened before the end is told before the end.
    drop((engine, app));
    let rest = async {
        while let Some(record) = events.recv().await {
            audience.on_event(&record);
        }
    };
    let _in_time = timeout(LAST_EVENTS, rest).await;
    match (outcome, stopping) {
        (_, Some(Stopping::AtOnce { signal })) => Err(Error::Interrupted { signal }),
        (Ok(Outcome::Stopped), Some(Stopping::Drain) | None) => Ok(()),
        (Ok(Outcome::Errored), Some(Stopping::Drain) | None) => {
            Err(Error::Errored { name, last: audience.last_exit })
        }
        (Err(EngineFailed), Some(Stopping::Drain) | None) => Err(Error::EngineFailed { name }),
    }
}

fn failed(error: impl Into<BoxError>) -> Error {
    Error::Primary(error.into())
}

/// How the cluster was asked to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stopping {
    Drain,
    AtOnce { signal: &'static str },
}

/// What steers the cluster.
struct Primary {
    app: App,
    audience: Audience,
    stopping: Option<Stopping>,
}

/// What is told to the program, and what is known from events.
struct Audience {
    cluster: Cluster,
    hooks: Hooks,
    /// Those that have said `online` and not closed their channel.
    workers: BTreeSet<WorkerId>,
    last_exit: Option<String>,
}

impl Primary {
    /// Does what signals and the program ask for until the cluster has ended.
    async fn attend(
        &mut self,
        mut signals: Signals,
        events: &mut Subscription,
        mut requests: mpsc::Receiver<Request>,
    ) -> std::result::Result<Outcome, EngineFailed> {
        self.audience.on_start();
        let app = self.app.clone();
        let mut finished = pin!(app.finished());
        loop {
            tokio::select! {
                wish = signals.next() => self.on_signal(wish),
                Some(record) = events.recv() => self.audience.on_event(&record),
                Some(request) = requests.recv() => self.on_request(request).await,
                outcome = &mut finished => return outcome,
            }
        }
    }

    fn on_signal(&mut self, wish: Wish) {
        match wish {
            Wish::Stop { reason } if self.stopping.is_none() => self.stop(reason),
            // The program asked for it before.
            Wish::Stop { .. } => {}
            Wish::StopNow { signal } => {
                self.stopping = Some(Stopping::AtOnce { signal: signal.name() });
                let app = self.app.clone();
                tokio::spawn(async move { app.stop_now().await });
            }
            Wish::Reload => self.reload(),
        }
    }

    async fn on_request(&mut self, request: Request) {
        match request {
            // A worker that is gone or does not read loses its message: nobody waits for it here.
            Request::Send { worker, body } => {
                let _gone = self.app.send(worker, body).await;
            }
            Request::Broadcast { body } => {
                for worker in &self.audience.workers {
                    let _gone = self.app.send(*worker, body.clone()).await;
                }
            }
            Request::Resize { workers } => self.app.resize(workers).await,
            // One that cannot be paused or resumed is left as it is; events tell what happened.
            Request::Pause { worker } => drop(self.app.pause(worker).await),
            Request::Resume { worker } => drop(self.app.resume(worker).await),
            Request::Reload if self.stopping.is_none() => self.reload(),
            Request::Stop if self.stopping.is_none() => self.stop("the program"),
            // It ends already.
            Request::Reload | Request::Stop => {}
        }
    }

    fn stop(&mut self, reason: &'static str) {
        self.stopping = Some(Stopping::Drain);
        let app = self.app.clone();
        tokio::spawn(async move { app.stop(reason).await });
    }

    fn reload(&self) {
        let app = self.app.clone();
        // Its outcome is an event.
        tokio::spawn(async move { drop(app.reload().await) });
    }
}

impl Audience {
    fn on_start(&mut self) {
        if let Some(hook) = self.hooks.start.take() {
            hook(&self.cluster);
        }
    }

    fn on_event(&mut self, record: &Record) {
        match &record.event {
            Event::Online { worker } => {
                self.workers.insert(worker.id);
            }
            Event::Disconnect { worker } => {
                self.workers.remove(&worker.id);
            }
            Event::Exit { worker, cause, .. } => {
                self.workers.remove(&worker.id);
                self.last_exit = Some(cause.status.to_string());
            }
            Event::Message { worker, body } => {
                if let Some(hook) = &mut self.hooks.message {
                    hook(FromWorker::new(*worker, body.clone(), self.cluster.clone()));
                }
            }
            _ => {}
        }
        if let Some(hook) = &mut self.hooks.event {
            hook(&self.cluster, record);
        }
    }
}
