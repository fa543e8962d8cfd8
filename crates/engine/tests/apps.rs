//! Apps of an engine, by its handles.

use std::fs;
use std::path::PathBuf;
use std::pin::pin;
use std::time::Duration;

use tokio::time::timeout;
use worksong_engine::engine::{App, Engine, EngineOptions, Outcome};
use worksong_engine::event::Event;
use worksong_engine::spec::{
    AppSpec, Command, Deadlines, Dialect, OpenLimits, Policies, Ready, RecycleLimits, Replacement,
    RestartPolicy, StopSignal,
};

/// How long anything may take on a busy machine.
const PATIENCE: Duration = Duration::from_secs(30);

/// Workers that run a shell script, and are given up when they fail once.
fn shell(script: &str, instances: u32) -> AppSpec {
    AppSpec {
        name: "shell".to_owned(),
        command: Command {
            program: "/bin/sh".into(),
            args: vec!["-c".into(), script.into()],
            ..Command::default()
        },
        instances,
        dialect: Dialect::Port { base: None },
        policies: Policies::default(),
        listen: Vec::new(),
        capture: Vec::new(),
        ready: Ready::Started,
        deadlines: Deadlines::default(),
        stop_signal: StopSignal::default(),
        restart: RestartPolicy { max_failures: 1, ..RestartPolicy::default() },
        agent: true,
        replacement: Replacement::default(),
        recycle: RecycleLimits::default(),
        limits: OpenLimits::default(),
    }
}

async fn finished(app: &App) -> Outcome {
    timeout(PATIENCE, app.finished()).await.expect("the app ends").expect("the engine works")
}

#[tokio::test]
async fn every_exit_of_many_at_once_is_told_without_adopting_orphans() {
    let engine = Engine::start(EngineOptions::default()).expect("it starts");
    let mut events = engine.subscribe();
    let app = engine.add(shell("exit 3", 100), None).await.expect("it listens on nothing");
    assert_eq!(finished(&app).await, Outcome::Errored);
    let mut exits = 0;
    while let Some(record) = events.try_recv() {
        exits += usize::from(matches!(record.event, Event::Exit { .. }));
    }
    assert_eq!(exits, 100);
}

/// A file that is there from `write` on, and removed in the end.
struct Flag(PathBuf);

impl Flag {
    fn new(name: &str) -> Self {
        Self(std::env::temp_dir().join(format!("worksong-apps-{}-{name}", std::process::id())))
    }

    fn write(&self) {
        fs::write(&self.0, "").expect("a folder for temporary files");
    }
}

impl Drop for Flag {
    fn drop(&mut self) {
        // A test that failed early has not written it.
        let _absent = fs::remove_file(&self.0);
    }
}

#[tokio::test]
async fn a_reload_revives_an_app_that_was_given_up() {
    let engine = Engine::start(EngineOptions::default()).expect("it starts");
    let mended = Flag::new("mended");
    let script = format!("test -e {} && exec sleep 1000", mended.0.display());
    let app = engine.add(shell(&script, 1), None).await.expect("it listens on nothing");
    assert_eq!(finished(&app).await, Outcome::Errored);

    mended.write();
    app.reload().await.expect("the new worker lives");
    let mut end = pin!(app.finished());
    tokio::select! {
        biased;
        outcome = &mut end => panic!("it runs and has finished as {outcome:?}"),
        () = std::future::ready(()) => {}
    }
    app.stop("the test").await;
    assert_eq!(timeout(PATIENCE, end).await.expect("the app ends"), Ok(Outcome::Stopped));
}

/// Returns the state of a process, `Z` of a zombie, and the name of what it executes.
fn state_of(process: u32) -> Option<(String, String)> {
    let stat = fs::read_to_string(format!("/proc/{process}/stat")).ok()?;
    let (name, fields) = stat.rsplit_once(") ")?;
    let (_pid, name) = name.split_once('(')?;
    Some((fields.split(' ').next()?.to_owned(), name.to_owned()))
}

/// Returns the guards that this process has started: they are executed by the name of a link.
fn guards() -> Vec<u32> {
    let tasks = fs::read_dir("/proc/self/task").expect("this process").flatten();
    let lists: Vec<String> =
        tasks.filter_map(|task| fs::read_to_string(task.path().join("children")).ok()).collect();
    let children = lists.iter().flat_map(|list| list.split_whitespace()).filter_map(|pid| pid.parse().ok());
    children.filter(|child| state_of(*child).is_some_and(|(_, name)| name == "exe")).collect()
}

#[tokio::test]
async fn an_engine_that_is_dropped_leaves_no_process_and_no_zombie() {
    // This program is no guard, whatever it is asked; it ends at once then, and has to be reaped all the same.
    let guard = Some(vec!["guard".into(), "--list".into()]);
    let engine = Engine::start(EngineOptions { guard, ..EngineOptions::default() }).expect("it starts");
    let mut events = engine.subscribe();
    let app = engine.add(shell("exec sleep 1000", 3), None).await.expect("it listens on nothing");
    let mut workers = Vec::new();
    while workers.len() < 3 {
        let record = timeout(PATIENCE, events.recv()).await.expect("three workers").expect("it runs");
        if let Event::Ready { worker, .. } = &record.event {
            workers.push(worker.pid);
        }
    }
    assert_eq!(guards().len(), 1);
    drop((app, engine));
    let gone = async {
        while workers.iter().any(|worker| state_of(*worker).is_some()) || !guards().is_empty() {
            tokio::task::yield_now().await;
        }
    };
    timeout(PATIENCE, gone).await.expect("they are reaped");
}
