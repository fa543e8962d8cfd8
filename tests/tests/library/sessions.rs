//! Sessions of Socket.IO while their app gets another size.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use worksong_engine::engine::{Engine, EngineOptions, Outcome};
use worksong_engine::event::Event;
use worksong_engine::spec::{AppSpec, Deadlines, Dialect, NodeFlavour, Policy};
use worksong_testkit::socket_io::{Clients, Kind};
use worksong_testkit::{fixture, node};

use crate::serving::{Serving, next_of};
use crate::{in_time, run, spec};

fn sessions() -> AppSpec {
    let program = [fixture("node/socket-io/commonjs.cjs").into()];
    let deadlines = Deadlines { drain: Duration::from_secs(1), ..Deadlines::default() };
    let policy: Policy = "sticky:socket.io".parse().unwrap();
    AppSpec {
        policies: policy.into(),
        deadlines,
        ..spec("web", node("22"), program, 4, Dialect::Node(NodeFlavour::Node))
    }
}

/// Waits for all clients while the engine, which has the same thread, goes on.
async fn wait_answers(clients: &Arc<Clients>, by: Option<BTreeSet<u32>>, of: u32) -> BTreeSet<u64> {
    let clients = Arc::clone(clients);
    let places = tokio::task::spawn_blocking(move || clients.wait_answers(by.as_ref())).await.unwrap();
    places.into_iter().filter(|(_, at)| at.pid == of).map(|(client, _)| client).collect()
}

#[test]
fn a_slot_more_ends_no_session_and_a_slot_less_only_its_own() {
    run(async {
        let engine = Engine::start(EngineOptions::default()).unwrap();
        let mut events = engine.subscribe();
        let web = Serving::start(&engine, &mut events, sessions()).await;
        let early = Arc::new(Clients::start(web.port, Kind::Polling, 16, 1000));
        wait_answers(&early, None, 0).await;

        web.app.resize(5).await;
        let fifth = loop {
            if let Event::Ready { worker, .. } = next_of(&mut events, "web").await {
                break worker.pid;
            }
        };
        // Whom they meet is chance, which leaves one worker of five out once in ten times.
        let mut tries = 0;
        let (late, on_fifth) = loop {
            let late = Arc::new(Clients::start(web.port, Kind::Proxied, 10, 1000));
            let on_fifth = wait_answers(&late, None, fifth).await;
            if !on_fifth.is_empty() {
                break (late, on_fifth);
            }
            tries += 1;
            assert!(tries < 10, "nobody of {} came to the fifth worker", 10 * tries);
        };
        early.assert_unharmed();
        late.assert_unharmed();

        web.app.resize(4).await;
        while !matches!(next_of(&mut events, "web").await, Event::Exit { worker, .. } if worker.pid == fifth)
        {
        }
        wait_answers(&late, Some(web.pids.clone()), fifth).await;
        assert_eq!(late.interrupted(), on_fifth);
        early.assert_unharmed();
        late.assert_nothing_failed();
        drop((early, late));
        web.app.stop("the test is over").await;
        assert_eq!(in_time("its end", web.app.finished()).await, Ok(Outcome::Stopped));
    });
}
