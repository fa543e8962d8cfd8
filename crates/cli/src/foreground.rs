//! An app in the foreground: started here, steered by signals, printed as it goes.

use std::io;
use std::time::Duration;

use tokio::sync::mpsc;
use worksong_control::{BindError, Bound};
use worksong_engine::engine::{
    App, Engine, EngineFailed, EngineOptions, Orphans, Outcome, ReloadError, StartError, Subscription,
};
use worksong_engine::output::OutputLine;
use worksong_engine::signals::{Signal, Signals, Wish};
use worksong_engine::spec::{AppSpec, Dialect, NodeFlavour};

use crate::args::OutputArgs;
use crate::plan::Plan;
use crate::printer::{Item, Printer};

/// How many lines of workers wait for the printer; each has up to 1 MiB.
const LINES: usize = 64;

/// How long the last output may take when whoever reads it stands still.
const LAST_OUTPUT: Duration = Duration::from_secs(2);

/// How a foreground run ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// All workers were drained and are gone.
    Stopped,
    /// The app could not be started, or all of its slots were given up.
    Failed,
    /// A second signal ended what was left.
    Forced(Signal),
}

impl End {
    /// Returns the exit code: 0, 1, or 128 + the number of the signal.
    pub(crate) fn code(self) -> u8 {
        match self {
            Self::Stopped => 0,
            Self::Failed => 1,
            Self::Forced(signal) => {
                u8::try_from(128 + signal.number()).expect("invariant: signals have small numbers")
            }
        }
    }
}

/// Why a foreground run could not begin.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ForegroundError {
    #[error(
        "could not start the runtime or the printer: {0}; check the limits of open files and threads (ulimit -a)"
    )]
    Runtime(#[from] io::Error),
    #[error(transparent)]
    Engine(#[from] StartError),
    #[error(transparent)]
    Control(#[from] BindError),
}

/// Runs an app until it ends by itself or by a signal.
pub(crate) fn run(plan: Plan, output: &OutputArgs) -> Result<End, ForegroundError> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let end = runtime.block_on(run_async(plan, output));
    // A writer that stands still must not hold the end up.
    runtime.shutdown_background();
    end
}

async fn run_async(plan: Plan, output: &OutputArgs) -> Result<End, ForegroundError> {
    // Before anything is started, so that no early signal ends only the primary.
    let signals = Signals::listen()?;
    let control = plan.control.as_ref().map(Bound::open).transpose()?;
    let printer = Printer::start(output)?;
    let queue = printer.queue();
    let guard = Some(vec!["worksong-guard".into()]);
    let engine = Engine::start(EngineOptions { orphans: Orphans::AdoptAndReapAll, guard })?;
    let events = engine.subscribe();
    for note in plan.notes {
        say(&queue, note.to_string()).await;
    }
    let (lines, received) = mpsc::channel(LINES);
    let added = engine.add(plan.spec.clone(), Some(lines)).await;
    if let Ok(app) = &added {
        // Before anything that the app does: its addresses were open before its first worker was started.
        say(&queue, opening(&plan.spec, app.addresses())).await;
    }
    let output = tokio::spawn({
        let queue = queue.clone();
        async move { tokio::join!(print_lines(received, queue.clone()), print_events(events, queue)) }
    });
    let end = match added {
        Ok(app) => {
            if let Some(control) = &control {
                say(&queue, format!("GET /assign is answered at {}", control.address())).await;
            }
            // Until the app has ended.
            let _control = control.map(|control| control.serve(vec![app.clone()]));
            attend(app, signals, &queue).await
        }
        Err(error) => {
            say(&queue, format!("error: {error}")).await;
            End::Failed
        }
    };
    drop((engine, queue));
    // A task that failed has nothing more to print.
    let _in_time = tokio::time::timeout(LAST_OUTPUT, output).await;
    printer.finish(LAST_OUTPUT).await;
    Ok(end)
}

/// Lets signals steer the app until it ends.
async fn attend(app: App, mut signals: Signals, queue: &mpsc::Sender<Item>) -> End {
    let mut forced = None;
    let watched = app.clone();
    let mut finished = std::pin::pin!(watched.finished());
    loop {
        let wish = tokio::select! {
            outcome = &mut finished => return end(outcome, forced),
            wish = signals.next() => wish,
        };
        let app = app.clone();
        match wish {
            Wish::Stop { reason } => drop(tokio::spawn(async move { app.stop(reason).await })),
            Wish::StopNow { signal } => {
                forced.get_or_insert(signal);
                drop(tokio::spawn(async move { app.stop_now().await }));
            }
            Wish::Reload => {
                let queue = queue.clone();
                drop(tokio::spawn(async move {
                    // Every other end of a reload is an event.
                    if let Err(error @ ReloadError::Superseded) = app.reload().await {
                        say(&queue, format!("a reload is left out: {error}")).await;
                    }
                }));
            }
        }
    }
}

fn end(outcome: Result<Outcome, EngineFailed>, forced: Option<Signal>) -> End {
    match (outcome, forced) {
        (_, Some(signal)) => End::Forced(signal),
        (Ok(Outcome::Stopped), None) => End::Stopped,
        (Ok(Outcome::Errored) | Err(EngineFailed), None) => End::Failed,
    }
}

async fn print_lines(mut lines: mpsc::Receiver<OutputLine>, queue: mpsc::Sender<Item>) {
    while let Some(line) = lines.recv().await {
        if queue.send(Item::Line(line)).await.is_err() {
            return;
        }
    }
}

async fn print_events(mut events: Subscription, queue: mpsc::Sender<Item>) {
    while let Some(record) = events.recv().await {
        if queue.send(Item::Event(record)).await.is_err() {
            return;
        }
    }
}

/// Prints a note; without a printer there is nobody to tell.
async fn say(queue: &mpsc::Sender<Item>, text: String) {
    let _unheard = queue.send(Item::Note(text)).await;
}

/// What is run, in one line: the first thing to look at when it is not what was meant.
fn opening(spec: &AppSpec, addresses: &[String]) -> String {
    let workers = match spec.instances {
        1 => "1 worker".to_owned(),
        count => format!("{count} workers"),
    };
    let mut words = vec![spec.command.program.display().to_string()];
    words.extend(spec.command.args.iter().map(|argument| argument.display().to_string()));
    let mut how = vec![format!("dialect {}", dialect_name(spec.dialect))];
    if spec.dialect.has_channel() || spec.dialect.captures() || spec.has_own_sockets() {
        how.push(format!("policy {}", spec.policies));
    }
    if spec.dialect == (Dialect::Capture { channel: true }) {
        how.push("kernel where it binds by itself".to_owned());
    }
    how.extend(addresses.iter().map(|address| format!("listening on {address}")));
    format!("{} runs {} in {workers} ({})", spec.name, words.join(" "), how.join(", "))
}

fn dialect_name(dialect: Dialect) -> String {
    match dialect {
        Dialect::Node(NodeFlavour::Node) => "node".to_owned(),
        Dialect::Node(NodeFlavour::Deno) => "node, as Deno speaks it".to_owned(),
        Dialect::Node(NodeFlavour::Bun) => "node, as Bun speaks it".to_owned(),
        Dialect::Native => "native".to_owned(),
        Dialect::Activation => "activation".to_owned(),
        Dialect::Capture { channel: false } => "capture".to_owned(),
        Dialect::Capture { channel: true } => "capture or native".to_owned(),
        Dialect::Port { base: Some(base) } => format!("port, from {base} on"),
        Dialect::Port { base: None } => "port, PORT is left alone".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use worksong_engine::spec::{
        Command, Deadlines, OpenLimits, Policies, Policy, Ready, RecycleLimits, Replacement, RestartPolicy,
    };

    use super::*;

    #[test]
    fn exit_codes_say_how_it_ended() {
        assert_eq!(End::Stopped.code(), 0);
        assert_eq!(End::Failed.code(), 1);
        assert_eq!(End::Forced(Signal::Interrupt).code(), 130);
        assert_eq!(end(Ok(Outcome::Stopped), Some(Signal::Terminate)).code(), 143);
        assert_eq!(end(Ok(Outcome::Errored), None), End::Failed);
    }

    #[test]
    fn the_opening_says_what_is_run_and_how() {
        let mut spec = AppSpec {
            name: "api".to_owned(),
            command: Command {
                program: "/usr/bin/node".into(),
                args: vec!["server.js".into(), "-v".into()],
                ..Command::default()
            },
            instances: 2,
            dialect: Dialect::Node(NodeFlavour::Node),
            policies: Policies::default().with(8080, Policy::Least),
            listen: Vec::new(),
            capture: Vec::new(),
            ready: Ready::Auto,
            deadlines: Deadlines::default(),
            stop_signal: worksong_engine::spec::StopSignal::default(),
            restart: RestartPolicy::default(),
            agent: true,
            replacement: Replacement::default(),
            recycle: RecycleLimits::default(),
            limits: OpenLimits::default(),
        };
        assert_eq!(
            opening(&spec, &[]),
            "api runs /usr/bin/node server.js -v in 2 workers (dialect node, policy round-robin, least at port 8080)"
        );
        spec.dialect = Dialect::Activation;
        spec.instances = 1;
        assert_eq!(
            opening(&spec, &["*:8080".to_owned()]),
            "api runs /usr/bin/node server.js -v in 1 worker (dialect activation, listening on *:8080)"
        );
    }
}
