//! Messages to unmodified Node workers and from them.

use std::collections::{BTreeMap, VecDeque};

use serde_json::value::{RawValue, to_raw_value};
use serde_json::{Value, json};
use worksong_engine::engine::{App, Engine, EngineOptions, Outcome, SendError, Subscription};
use worksong_engine::event::{Event, WorkerRef};
use worksong_engine::spec::{AppSpec, Dialect, NodeFlavour};
use worksong_testkit::http::{self, Response};
use worksong_testkit::process::kill;
use worksong_testkit::{Load, NODE_VERSIONS, Signal, deno, fixture, node};

use crate::{in_time, run, spec};

/// What `node/messages.cjs` says by itself: a greeting and nine values.
const GREETINGS: usize = 10;
const FIVE_MEGABYTES: usize = 5 * 1024 * 1024;

/// A program that runs workers of `node/messages.cjs`, which send every message back as it came.
struct Program {
    app: App,
    events: Subscription,
    /// What each worker said that nobody asked for yet.
    said: BTreeMap<u32, VecDeque<Box<RawValue>>>,
}

impl Program {
    /// Starts so many workers of a Node version, and waits until each has said all that it says by itself.
    async fn start(version: &str, instances: u32) -> (Self, Vec<WorkerRef>, u16) {
        let arguments = [fixture("node/messages.cjs").into()];
        Self::of(spec("messages", node(version), arguments, instances, Dialect::Node(NodeFlavour::Node)))
            .await
    }

    async fn of(spec: AppSpec) -> (Self, Vec<WorkerRef>, u16) {
        let instances = spec.instances as usize;
        let engine = Engine::start(EngineOptions::default()).unwrap();
        let events = engine.subscribe();
        let app = engine.add(spec, None).await.unwrap();
        let mut program = Self { app, events, said: BTreeMap::new() };
        let (mut workers, mut port) = (Vec::new(), None);
        while workers.len() < instances {
            match program.next("ready workers").await {
                Event::Ready { worker, .. } => workers.push(worker),
                Event::Listening { port: bound, .. } => port = bound,
                _ => {}
            }
        }
        for worker in &workers {
            for _ in 0..GREETINGS {
                program.heard_from(worker).await;
            }
        }
        (program, workers, port.unwrap())
    }

    /// Returns the next event; messages are kept for [`heard_from`](Self::heard_from) too.
    async fn next(&mut self, what: &str) -> Event {
        let record = in_time(what, self.events.recv()).await.expect("the engine runs");
        assert_eq!(self.events.missed(), 0, "no event is missed");
        if let Event::Message { worker, body } = &record.event {
            self.said.entry(worker.pid).or_default().push_back(body.clone());
        }
        record.event.clone()
    }

    /// Returns the next message of a worker, as its very text.
    async fn heard_raw(&mut self, worker: &WorkerRef) -> Box<RawValue> {
        loop {
            if let Some(body) = self.said.entry(worker.pid).or_default().pop_front() {
                return body;
            }
            self.next("a message").await;
        }
    }

    async fn heard_from(&mut self, worker: &WorkerRef) -> Value {
        serde_json::from_str(self.heard_raw(worker).await.get()).unwrap()
    }

    async fn send_raw(&self, worker: &WorkerRef, body: Box<RawValue>) -> Result<(), SendError> {
        in_time("the message to go out", self.app.send(worker.id, body)).await
    }

    async fn send(&self, worker: &WorkerRef, body: &Value) -> Result<(), SendError> {
        self.send_raw(worker, to_raw_value(body).unwrap()).await
    }

    /// Ends the workers in good order, with nothing left unheard.
    async fn stop(self) {
        self.app.stop("the test is over").await;
        assert_eq!(in_time("the end of the app", self.app.finished()).await, Ok(Outcome::Stopped));
        assert!(self.said.values().all(VecDeque::is_empty), "unasked for: {:?}", self.said);
    }
}

/// Returns a message whose text is the same whether we write it or Node does.
fn five_megabytes(letter: &str) -> Box<RawValue> {
    let text = letter.repeat(FIVE_MEGABYTES / letter.len());
    RawValue::from_string(format!("\"{text}\"")).unwrap()
}

#[test]
fn what_is_sent_comes_back_as_it_was_from_its_worker_alone() {
    run(async {
        for version in NODE_VERSIONS {
            let (mut program, workers, _) = Program::start(version, 2).await;
            let values = [
                json!("worksong – ☃ – \u{1F3B5} – \"quoted\"\n\u{0}\u{2028}"),
                json!(-1.5e-7),
                json!(9_007_199_254_740_991_u64),
                json!(true),
                json!(null),
                json!([1, "two", [3, []], null]),
                json!({ "cmd": "node_not_internal", "nested": { "deep": {} }, "to": "" }),
                json!("x".repeat(300_000)),
            ];
            for (number, worker) in workers.iter().enumerate() {
                for value in &values {
                    program.send(worker, &json!({ "number": number, "value": value })).await.unwrap();
                    program.send(worker, value).await.unwrap();
                }
                for value in &values {
                    let heard = program.heard_from(worker).await;
                    assert_eq!(heard, json!({ "number": number, "value": value }), "Node {version}");
                    assert_eq!(program.heard_from(worker).await, *value, "Node {version}");
                }
            }
            program.stop().await;
        }
    });
}

#[test]
fn five_megabytes_go_both_ways_while_connections_are_handed_over() {
    run(async {
        for version in NODE_VERSIONS {
            let (mut program, workers, port) = Program::start(version, 2).await;
            let load = Load::start(port, Response::json_pid);
            // Of two bytes each, which reads cut in the middle; and another text each time, so that nothing that was
            // left behind passes for the answer.
            for letter in ["é", "ß"] {
                let big = five_megabytes(letter);
                for worker in &workers {
                    program.send_raw(worker, big.clone()).await.unwrap();
                }
                load.wait_answers(2);
                for worker in &workers {
                    let heard = program.heard_raw(worker).await;
                    // Not by `assert_eq`, which would print ten megabytes.
                    assert!(heard.get() == big.get(), "{letter:?} came back changed on Node {version}");
                }
            }
            load.wait_answers_of(&workers.iter().map(|worker| worker.pid).collect());
            load.finish_without_failure();
            program.stop().await;
        }
    });
}

/// Deno loses a descriptor that arrives behind unread data, and says nothing about it.
#[test]
fn no_connection_is_lost_among_messages_to_deno() {
    run(async {
        let arguments = ["run".into(), "-A".into(), fixture("node/messages.cjs").into()];
        let spec = spec("messages", deno(), arguments, 2, Dialect::Node(NodeFlavour::Deno));
        let (mut program, workers, port) = Program::of(spec).await;
        let loads = [0, 1, 2].map(|_| Load::start(port, Response::json_pid));
        let enough = loads.each_ref().map(|load| load.answers() + 100);
        let mut round = 0;
        while loads.iter().zip(enough).any(|(load, enough)| load.answers() < enough) {
            round += 1;
            let message = json!({ "round": round, "text": "x".repeat(1000) });
            for worker in &workers {
                program.send(worker, &message).await.unwrap();
            }
            for worker in &workers {
                assert_eq!(program.heard_from(worker).await, message);
            }
        }
        assert!(round >= 20, "only {round} messages were among the connections");
        for load in loads {
            load.finish_without_failure();
        }
        program.stop().await;
    });
}

#[test]
fn a_worker_that_does_not_read_is_refused_more_and_gets_what_was_taken() {
    run(async {
        let (mut program, workers, port) = Program::start("24", 2).await;
        let [stopped, _] = &workers[..] else { panic!("two workers") };
        kill(stopped.pid, Signal::STOP);
        let big = five_megabytes("b");
        let mut taken = 0;
        let refused = loop {
            match program.send_raw(stopped, big.clone()).await {
                Ok(()) => taken += 1,
                Err(refused) => break refused,
            }
            assert!(taken < 100, "there is a limit to what is kept for a worker");
        };
        assert!(matches!(refused, SendError::Overfull(_)), "{refused}");
        assert!(taken >= 3, "{taken}");
        kill(stopped.pid, Signal::CONT);
        for _ in 0..taken {
            assert!(program.heard_raw(stopped).await.get() == big.get());
        }
        // In both directions the channel is as it was.
        program.send(stopped, &json!("again")).await.unwrap();
        assert_eq!(program.heard_from(stopped).await, "again");
        for _ in 0..10 {
            assert_eq!(http::get(port, "/").unwrap().status, 200);
        }
        program.stop().await;
    });
}

#[test]
fn a_message_to_a_worker_that_is_gone_is_an_error() {
    run(async {
        let (mut program, workers, _) = Program::start("24", 1).await;
        let [gone] = &workers[..] else { panic!("one worker") };
        kill(gone.pid, Signal::KILL);
        while !matches!(program.next("its exit").await, Event::Exit { .. }) {}
        assert!(matches!(program.send(gone, &json!("hello")).await, Err(SendError::Gone)));
        // Its successor is another worker, and is heard.
        let successor = loop {
            if let Event::Ready { worker, .. } = program.next("its successor").await {
                break worker;
            }
        };
        for _ in 0..GREETINGS {
            program.heard_from(&successor).await;
        }
        program.send(&successor, &json!("hello")).await.unwrap();
        assert_eq!(program.heard_from(&successor).await, "hello");
        program.stop().await;
    });
}
