//! Apps of an engine, by its handles.

use std::time::Duration;

use tokio::time::timeout;
use worksong_engine::engine::{App, Engine, EngineOptions, Outcome};
use worksong_engine::event::Event;
use worksong_engine::spec::{AppSpec, Command, Deadlines, Dialect, Policy, Ready, RestartPolicy};

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
        policy: Policy::default(),
        listen: Vec::new(),
        ready: Ready::Started,
        deadlines: Deadlines::default(),
        restart: RestartPolicy { max_failures: 1, ..RestartPolicy::default() },
    }
}

async fn finished(app: &App) -> Outcome {
    timeout(PATIENCE, app.finished()).await.expect("the app ends")
}

#[tokio::test]
async fn every_exit_of_many_at_once_is_told_without_adopting_orphans() {
    let engine = Engine::start(EngineOptions { reap_orphans: false, guard: None }).expect("it starts");
    let mut events = engine.subscribe();
    let app = engine.add(shell("exit 3", 100), None).await.expect("it listens on nothing");
    assert_eq!(finished(&app).await, Outcome::Errored);
    let mut exits = 0;
    while let Some(record) = events.try_recv() {
        exits += usize::from(matches!(record.event, Event::Exit { .. }));
    }
    assert_eq!(exits, 100);
}
