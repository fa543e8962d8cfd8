//! Pause, resume and resize, by the handle of an app.

use std::collections::BTreeSet;
use std::thread;
use std::time::Duration;

use worksong_engine::engine::{Engine, EngineOptions, SteerError, Subscription};
use worksong_engine::event::{DrainCause, Event, WorkerRef};
use worksong_engine::ids::WorkerId;
use worksong_engine::spec::{AppSpec, Dialect, NodeFlavour, Policy, Spread};
use worksong_engine::supervise::{SlotState, WorkerState};
use worksong_testkit::http::{self, Connection, Response};
use worksong_testkit::{Folder, Signal, binary, eventually, fixture, node, process};

use crate::serving::{Serving, header_pid, hello_serve, last_word_pid, next_of};
use crate::{in_time, run, spec};

/// One app of two workers, and whom its answers are from.
struct Stage {
    engine: Engine,
    events: Subscription,
    serving: Serving,
    pid_of: fn(&Response) -> u32,
}

impl Stage {
    async fn of(spec: AppSpec, pid_of: fn(&Response) -> u32) -> Self {
        let engine = Engine::start(EngineOptions::default()).unwrap();
        let mut events = engine.subscribe();
        let serving = Serving::start(&engine, &mut events, spec).await;
        Self { engine, events, serving, pid_of }
    }

    async fn of_node() -> Self {
        let dialect = Dialect::Node(NodeFlavour::Node);
        Self::of(spec("web", node("24"), [fixture("node/http.js").into()], 2, dialect), Response::json_pid)
            .await
    }

    async fn of_rust() -> Self {
        let program = binary("examples/under_node");
        Self::of(spec("web", program, ["127.0.0.1:0".into()], 2, Dialect::Native), header_pid).await
    }

    /// Rust workers whose open connections can move.
    async fn of_serve() -> Self {
        Self::of(hello_serve(2), last_word_pid).await
    }

    /// Returns the workers that fill the slots, with their states.
    async fn workers(&self) -> Vec<(WorkerRef, WorkerState)> {
        let snapshot = self.serving.app.snapshot().await.expect("the app runs");
        let filled = snapshot.slots.iter().filter_map(|slot| match slot.state {
            SlotState::Filled(view) => Some((view.worker, view.state)),
            SlotState::BackingOff { .. } | SlotState::Errored => None,
        });
        filled.collect()
    }

    async fn pause(&self, worker: WorkerId) -> Result<(), SteerError> {
        let outcome = in_time("the pause", self.serving.app.pause(worker)).await;
        // Its answer comes after everything that the data plane was told before.
        self.engine.tally().await;
        outcome
    }

    async fn resume(&self, worker: WorkerId) -> Result<(), SteerError> {
        let outcome = in_time("to resume", self.serving.app.resume(worker)).await;
        self.engine.tally().await;
        outcome
    }

    /// Returns who answers ten new connections.
    async fn who_answers(&self) -> BTreeSet<u32> {
        self.engine.tally().await;
        let answers = (0..10).map(|_| http::get(self.serving.port, "/").expect("an answer"));
        answers.map(|answer| (self.pid_of)(&answer)).collect()
    }

    async fn wait<T>(&mut self, mut find: impl FnMut(Event) -> Option<T>) -> T {
        loop {
            if let Some(found) = find(next_of(&mut self.events, "web").await) {
                return found;
            }
        }
    }
}

#[test]
fn a_paused_worker_gets_no_connections_until_it_is_resumed() {
    run(async {
        for mut stage in [Stage::of_node().await, Stage::of_rust().await] {
            let both = stage.serving.pids.clone();
            let (first, _) = stage.workers().await[0];
            stage.pause(first.id).await.unwrap();
            assert_eq!(stage.workers().await[0].1, WorkerState::Paused);
            let paused = stage.wait(|event| match event {
                Event::Paused { worker, in_rotation, slots } => Some((worker, in_rotation, slots)),
                _ => None,
            });
            assert_eq!(paused.await, (first, 1, 2));
            let others: BTreeSet<u32> = both.iter().copied().filter(|pid| *pid != first.pid).collect();
            assert_eq!(stage.who_answers().await, others);

            stage.resume(first.id).await.unwrap();
            assert_eq!(stage.who_answers().await, both);
        }
    });
}

#[test]
fn a_kept_connection_of_a_paused_worker_moves_to_another() {
    run(async {
        for stage in [Stage::of_node().await, Stage::of_serve().await] {
            let mut connection = Connection::open(stage.serving.port).unwrap();
            let mut who = move || (stage.pid_of)(&connection.get("/").expect("it is open"));
            let before = who();
            let workers = stage.workers().await;
            let (worker, _) = workers.iter().find(|(worker, _)| worker.pid == before).unwrap();
            stage.pause(worker.id).await.unwrap();
            let after = eventually("the move", || Some(who()).filter(|pid| *pid != before));
            assert!(stage.serving.pids.contains(&after), "no worker was started");
            assert_eq!(stage.workers().await.len(), 2, "the paused one is there");
            assert_eq!(stage.engine.tally().await.moved, 1);
            stage.resume(worker.id).await.unwrap();
            who();
        }
    });
}

#[test]
fn connections_wait_while_all_workers_are_paused() {
    run(async {
        let stage = Stage::of_node().await;
        let workers = stage.workers().await;
        for (worker, _) in &workers {
            stage.pause(worker.id).await.unwrap();
        }
        let port = stage.serving.port;
        let clients: Vec<_> = (0..5).map(|_| thread::spawn(move || http::get(port, "/"))).collect();
        let (last, _) = workers[1];
        stage.resume(last.id).await.unwrap();
        for client in clients {
            let answer = client.join().unwrap().expect("nobody is refused");
            assert_eq!(answer.json_pid(), last.pid);
        }
    });
}

#[test]
fn connections_wait_for_paused_workers_no_longer_than_they_may() {
    run(async {
        let dialect = Dialect::Node(NodeFlavour::Node);
        for policy in [Policy::RoundRobin, Policy::Kernel(Spread::Hash)] {
            let mut app = spec("web", node("24"), [fixture("node/http.js").into()], 2, dialect);
            (app.policies, app.deadlines.hold) = (policy.clone().into(), Duration::from_secs(2));
            let mut stage = Stage::of(app, Response::json_pid).await;
            let workers = stage.workers().await;
            for (worker, _) in &workers {
                stage.pause(worker.id).await.unwrap();
            }
            let mut client = Connection::open(stage.serving.port).unwrap();
            let waited = thread::spawn(move || {
                client.send(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n").unwrap();
                client.read_to_end().unwrap()
            });
            let held = stage.wait(|event| match event {
                Event::HeldTooLong { count, .. } => Some(count),
                _ => None,
            });
            assert_eq!(held.await, 1, "{policy}");
            assert_eq!(waited.join().unwrap(), b"", "{policy}: closed, not reset");
            stage.resume(workers[1].0.id).await.unwrap();
            assert_eq!(http::get(stage.serving.port, "/").unwrap().json_pid(), workers[1].0.pid, "{policy}");
        }
    });
}

#[test]
fn a_paused_worker_that_dies_is_restarted_and_a_reload_replaces_it() {
    run(async {
        let mut stage = Stage::of_node().await;
        let (first, _) = stage.workers().await[0];
        stage.pause(first.id).await.unwrap();
        process::kill(first.pid, Signal::KILL);
        let second = stage.wait(|event| match event {
            Event::Ready { worker, .. } if worker.slot == first.slot => Some(worker),
            _ => None,
        });
        let second = second.await;
        assert!(stage.who_answers().await.contains(&second.pid), "it is not paused");

        stage.pause(second.id).await.unwrap();
        in_time("the reload", stage.serving.app.reload()).await.unwrap();
        let workers = stage.workers().await;
        assert!(workers.iter().all(|(worker, state)| *state == WorkerState::Ready && worker.id != second.id));
        assert_eq!(stage.pause(first.id).await, Err(SteerError::Gone));
    });
}

/// Listens when there is the file `argv[2]`, and asks for a successor at its first request.
const LATE: &str = "
const { existsSync } = require('node:fs');
const server = require('node:http').createServer((request, response) => {
  process.send({ cmd: 'disconnect' });
  response.end(JSON.stringify({ pid: process.pid }));
});
const listen = () => existsSync(process.argv[2]) ? server.listen(0) : setTimeout(listen, 10);
listen();
";

#[test]
fn a_recycle_ends_when_its_worker_is_paused() {
    run(async {
        let folder = Folder::new();
        let program = folder.write("late.js", LATE);
        let dialect = Dialect::Node(NodeFlavour::Node);
        let gate = folder.write("gate", "");
        let spec = spec("web", node("24"), [program.into(), gate.clone().into()], 1, dialect);
        let mut stage = Stage::of(spec, Response::json_pid).await;
        std::fs::remove_file(gate).unwrap();
        let (first, _) = stage.workers().await[0];
        assert_eq!(stage.who_answers().await, stage.serving.pids);
        let successor = stage.wait(|event| match event {
            Event::Forked { worker } => Some(worker),
            _ => None,
        });
        let successor = successor.await;
        stage.pause(first.id).await.unwrap();
        let drained = stage.wait(|event| match event {
            Event::Draining { worker, cause } => Some((worker, cause)),
            _ => None,
        });
        assert_eq!(drained.await, (successor, DrainCause::Superseded));
        assert_eq!(stage.workers().await, [(first, WorkerState::Paused)]);
    });
}

#[test]
fn a_rust_worker_that_asks_for_a_successor_drains_once_that_is_ready() {
    run(async {
        let mut stage = Stage::of_rust().await;
        let (first, _) = stage.workers().await[0];
        let request = serde_json::value::to_raw_value("recycle").unwrap();
        stage.serving.app.send(first.id, request).await.unwrap();
        let mut ready = None;
        let drained = stage.wait(|event| match event {
            Event::Ready { worker, .. } => {
                ready = Some(worker);
                None
            }
            Event::Draining { worker, cause } => Some((worker, cause)),
            _ => None,
        });
        assert_eq!(drained.await, (first, DrainCause::Recycle));
        let successor = ready.expect("its successor is ready before");
        assert_eq!((successor.slot, successor.generation), (first.slot, first.generation));
        let answering = stage.who_answers().await;
        assert!(answering.contains(&successor.pid) && !answering.contains(&first.pid), "{answering:?}");
    });
}

#[test]
fn a_busy_worker_of_a_dropped_slot_finishes_its_requests() {
    run(async {
        let mut stage = Stage::of_node().await;
        let port = stage.serving.port;
        let get = move || http::get(port, "/slow?ms=500").map(|answer| answer.json_pid());
        let clients: Vec<_> = (0..2).map(|_| thread::spawn(get)).collect();
        let both_are_busy = async {
            while stage.engine.tally().await.handed_over < 2 {
                tokio::task::yield_now().await;
            }
        };
        in_time("two busy workers", both_are_busy).await;
        stage.serving.app.resize(1).await;
        let answers = clients.into_iter().map(|client| client.join().unwrap().expect("a whole answer"));
        assert_eq!(answers.collect::<BTreeSet<_>>(), stage.serving.pids);

        let mut causes = Vec::new();
        let exit = stage.wait(|event| match event {
            Event::Draining { cause, .. } => {
                causes.push(cause);
                None
            }
            Event::Signalled { why, .. } => panic!("it was given no time: {why}"),
            Event::Exit { cause, .. } => Some(cause),
            _ => None,
        });
        assert!(exit.await.voluntary);
        assert_eq!(causes, [DrainCause::Resize]);
        assert_eq!(stage.workers().await.len(), 1);
    });
}

#[test]
fn what_a_dropped_slot_cuts_is_counted() {
    run(async {
        let dialect = Dialect::Node(NodeFlavour::Node);
        let mut spec = spec("web", node("24"), [fixture("node/http.js").into()], 2, dialect);
        spec.deadlines.drain = Duration::from_secs(2);
        let mut stage = Stage::of(spec, Response::json_pid).await;
        let mut connections =
            [(); 2].map(|()| http::Connection::open(stage.serving.port).expect("a connection"));
        for connection in &mut connections {
            let quick = "GET / HTTP/1.1\r\nhost: a\r\n\r\n";
            let slow = "GET /slow?ms=600000 HTTP/1.1\r\nhost: a\r\n\r\n";
            connection.send((quick.to_owned() + slow).as_bytes()).unwrap();
            // The second request was read with the first.
            connection.read_response(false).expect("an answer");
        }
        stage.serving.app.resize(1).await;
        let cut = stage.wait(|event| match event {
            Event::Exit { cut, .. } => Some(cut),
            _ => None,
        });
        assert_eq!(cut.await, Some(1));
    });
}
