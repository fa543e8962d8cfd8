use rustix::process::{WaitId, WaitIdOptions, waitid};
use tokio::sync::broadcast;

use super::*;
use crate::spec::{self, Dialect, Policy, RestartPolicy};

/// One worker that ends at once and is not started again.
fn ends_at_once() -> AppSpec {
    AppSpec {
        name: "short".to_owned(),
        command: spec::Command { program: "/bin/true".into(), ..spec::Command::default() },
        instances: 1,
        dialect: Dialect::Port { base: None },
        policy: Policy::default(),
        listen: Vec::new(),
        ready: Ready::Started,
        deadlines: spec::Deadlines::default(),
        restart: RestartPolicy { max_failures: 1, ..RestartPolicy::default() },
    }
}

#[tokio::test]
async fn an_exit_that_was_signalled_before_the_process_id_was_known_is_told() {
    let source = Source::new(broadcast::Sender::new(64));
    let mut events = source.subscribe();
    let (requests, _inbox) = mpsc::channel(1);
    let (notes, mut told) = mpsc::unbounded_channel();
    let journal = source.journal().expect("it is taken once");
    let (mut control, _facts) =
        Control::new(EngineOptions::default(), requests.downgrade(), journal, notes).expect("it starts");
    let _app = control.add(ends_at_once(), None).expect("it listens on nothing");
    control.work_off();
    let spawned = told.recv().await.expect("the spawner runs");
    let Note::Spawned(Spawned { result: Ok(pid), .. }) = &spawned else { panic!("{spawned:?}") };
    let pid = rustix::process::Pid::from_raw(i32::try_from(*pid).expect("small"));
    let ended = WaitIdOptions::EXITED | WaitIdOptions::NOWAIT;
    waitid(WaitId::Pid(pid.expect("not 0")), ended).expect("our child");

    control.on_children();
    control.on_note(spawned);
    control.work_off();

    let told = std::iter::from_fn(|| events.try_recv());
    let exits = told.filter(|record| matches!(record.event, Event::Exit { .. })).count();
    assert_eq!(exits, 1);
}
