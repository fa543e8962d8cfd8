use std::io::Read;
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rustix::process::{WaitId, WaitIdOptions, waitid};
use tokio::sync::broadcast;
use tokio::time::timeout;

use super::super::{AddError, EngineFailed};
use super::*;
use crate::process::mark::{MARK, Mark};
use crate::process::tree;
use crate::spec::{
    self, AppSpec, Dialect, OpenLimits, Policies, Ready, RecycleLimits, Replacement, RestartPolicy,
};

/// One worker that ends at once and is not started again.
fn ends_at_once() -> AppSpec {
    AppSpec {
        name: "short".to_owned(),
        command: spec::Command { program: "/bin/true".into(), ..spec::Command::default() },
        instances: 1,
        dialect: Dialect::Port { base: None },
        policies: Policies::default(),
        listen: Vec::new(),
        capture: Vec::new(),
        ready: Ready::Started,
        deadlines: spec::Deadlines::default(),
        stop_signal: spec::StopSignal::default(),
        restart: RestartPolicy { max_failures: 1, ..RestartPolicy::default() },
        agent: true,
        replacement: Replacement::default(),
        recycle: RecycleLimits::default(),
        limits: OpenLimits::default(),
    }
}

fn control(source: &Source, requests: &mpsc::Sender<Request>) -> Control {
    let journal = source.journal().expect("it is taken once");
    let (control, _facts) =
        Control::new(EngineOptions::default(), requests.downgrade(), journal).expect("it starts");
    control
}

/// Starts the one worker of an app, of which the control task is not told yet.
async fn start(control: &mut Control) -> (Note, u32) {
    control.work_off();
    let spawned = control.told.recv().await.expect("the spawner runs");
    let Note::Spawned(Spawned { result: Ok(started), .. }) = &spawned else { panic!("{spawned:?}") };
    let pid = started.pid;
    (spawned, pid)
}

/// Waits for the end of a child without reaping it.
fn wait_end(pid: u32) {
    let pid = rustix::process::Pid::from_raw(i32::try_from(pid).expect("small"));
    let ended = WaitIdOptions::EXITED | WaitIdOptions::NOWAIT;
    waitid(WaitId::Pid(pid.expect("not 0")), ended).expect("our child");
}

#[tokio::test]
async fn an_exit_that_was_signalled_before_the_process_id_was_known_is_told() {
    let source = Source::new(broadcast::Sender::new(64));
    let mut events = source.subscribe();
    let (requests, _inbox) = mpsc::channel(1);
    let mut control = control(&source, &requests);
    let _app = control.add(ends_at_once(), None).expect("it listens on nothing");
    let (spawned, pid) = start(&mut control).await;
    wait_end(pid);

    control.on_children(&mut mpsc::unbounded_channel().1);
    control.on_note(spawned);
    control.work_off();

    let told = std::iter::from_fn(|| events.try_recv());
    let exits = told.filter(|record| matches!(record.event, Event::Exit { .. })).count();
    assert_eq!(exits, 1);
}

/// Starts a process with a mark; it has its whole environment when this returns.
fn left_behind(mark: &Mark) -> Child {
    let mut command = Command::new("/bin/sh");
    command.args(["-c", "echo; exec sleep 1000"]).env(MARK, mark.value()).stdout(Stdio::piped());
    let mut child = command.spawn().expect("a shell");
    child.stdout.as_mut().expect("a pipe").read_exact(&mut [0]).expect("a line");
    child
}

#[tokio::test]
async fn what_each_worker_left_behind_has_its_own_time() {
    let source = Source::new(broadcast::Sender::new(64));
    let (requests, _inbox) = mpsc::channel(1);
    let mut control = control(&source, &requests);
    let app = control.add(ends_at_once(), None).expect("it listens on nothing").id();
    let [mut first, mut second] = [1, 2].map(|number| {
        let worker = WorkerId { app, number };
        let mark = control.stamp.mark(worker);
        let child = left_behind(&mark);
        control.apps.get_mut(&app).expect("it was added").leftovers.insert(worker, (child.id(), mark));
        child
    });

    control.on_note(Note::LeftoversOverdue { worker: WorkerId { app, number: 1 } });

    // One that got SIGKILL before ends of that.
    tree::signal(second.id(), &control.stamp.mark(WorkerId { app, number: 2 }), libc::SIGTERM);
    assert_eq!(first.wait().expect("its status").signal(), Some(libc::SIGKILL));
    assert_eq!(second.wait().expect("its status").signal(), Some(libc::SIGTERM));
}

#[tokio::test]
async fn what_a_worker_had_said_is_taken_before_its_end() {
    let source = Source::new(broadcast::Sender::new(64));
    let mut events = source.subscribe();
    let (requests, _inbox) = mpsc::channel(1);
    let mut control = control(&source, &requests);
    let mut spec = ends_at_once();
    spec.command =
        spec::Command { program: "/bin/sleep".into(), args: vec!["1000".into()], ..spec::Command::default() };
    let app = control.add(spec, None).expect("it listens on nothing").id();
    let (spawned, pid) = start(&mut control).await;
    control.on_note(spawned);
    control.work_off();
    let (plane, mut facts) = mpsc::unbounded_channel();
    plane.send(Fact::Leaving { worker: WorkerId { app, number: 1 } }).expect("somebody listens");
    tree::signal(pid, &control.stamp.mark(WorkerId { app, number: 1 }), libc::SIGKILL);
    wait_end(pid);

    control.on_children(&mut facts);
    control.work_off();

    let mut told = std::iter::from_fn(|| events.try_recv());
    let voluntary = told.find_map(|record| match &record.event {
        Event::Exit { cause, .. } => Some(cause.voluntary),
        _ => None,
    });
    assert_eq!(voluntary, Some(true));
}

#[tokio::test]
async fn an_engine_without_its_data_plane_ends_loudly() {
    let source = Source::new(broadcast::Sender::new(64));
    let mut events = source.subscribe();
    let (requests, inbox) = mpsc::channel(1);
    let mut control = control(&source, &requests);
    let app = control.add(ends_at_once(), None).expect("it listens on nothing");
    let children = signal(SignalKind::child()).expect("a signal");

    let (_, facts) = mpsc::unbounded_channel();
    timeout(Duration::from_secs(20), control.run(inbox, facts, children)).await.expect("it ends");

    let mut told = std::iter::from_fn(|| events.try_recv());
    assert!(told.any(|record| matches!(record.event, Event::EngineFailed { .. })));
    assert_eq!(app.finished().await, Err(EngineFailed));
}

#[tokio::test]
async fn who_holds_an_address_is_looked_for_beside_the_control_task() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    let source = Source::new(broadcast::Sender::new(64));
    let (requests, _inbox) = mpsc::channel(1);
    let mut control = control(&source, &requests);
    let mut spec = ends_at_once();
    spec.listen = vec![spec::ListenAddress::Tcp(taken.local_addr().expect("its address"))];
    let (added, mut answer) = oneshot::channel();

    control.on_request(Request::Add { spec: Box::new(spec), lines: None, added });

    assert!(answer.try_recv().is_err(), "it was waited for");
    let answer = timeout(Duration::from_secs(20), answer).await.expect("an answer").expect("it is sent");
    let error = answer.expect_err("the address is taken");
    assert!(matches!(error, AddError::Listen { holder: Some(_), .. }), "{error}");
}
