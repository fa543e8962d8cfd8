//! An app of an engine, from its start until all its workers are ready.

use std::collections::BTreeSet;

use worksong_engine::engine::{App, Engine, Subscription};
use worksong_engine::event::Event;
use worksong_engine::spec::{AppSpec, Dialect};
use worksong_testkit::binary;
use worksong_testkit::http::Response;

use crate::{in_time, spec};

/// An app that serves.
pub(crate) struct Serving {
    pub(crate) app: App,
    pub(crate) pids: BTreeSet<u32>,
    pub(crate) port: u16,
}

impl Serving {
    /// Adds the app and waits until all its workers are ready.
    pub(crate) async fn start(engine: &Engine, events: &mut Subscription, spec: AppSpec) -> Self {
        let (name, instances) = (spec.name.clone(), spec.instances as usize);
        let app = engine.add(spec, None).await.unwrap();
        let (mut pids, mut tcp_port) = (BTreeSet::new(), None);
        while pids.len() < instances {
            match next_of(events, &name).await {
                Event::Ready { worker, .. } => drop(pids.insert(worker.pid)),
                Event::Listening { address, port, .. } if !address.starts_with("udp") => tcp_port = port,
                _ => {}
            }
        }
        Self { app, pids, port: tcp_port.unwrap() }
    }
}

/// Returns the next event of an app.
pub(crate) async fn next_of(events: &mut Subscription, app: &str) -> Event {
    loop {
        let record = in_time("an event", events.recv()).await.expect("the engine runs");
        if record.app == app {
            return record.event.clone();
        }
    }
}

pub(crate) fn header_pid(answer: &Response) -> u32 {
    answer.header("pid").and_then(|pid| pid.parse().ok()).expect("a Rust worker says its pid")
}

/// Rust workers whose open connections can move; each answers by its name, which [`last_word_pid`] reads.
pub(crate) fn hello_serve(instances: u32) -> AppSpec {
    spec("web", binary("examples/hello_serve"), ["127.0.0.1:0".into()], instances, Dialect::Native)
}

/// Reads `worker 1 of slot Some(0), process 9698`.
pub(crate) fn last_word_pid(answer: &Response) -> u32 {
    let word = answer.text().split_whitespace().last();
    word.and_then(|pid| pid.parse().ok()).expect("an answer names its process")
}
