//! Several apps of one engine, which have nothing to do with each other.

use worksong_engine::engine::{Engine, EngineOptions, Outcome};
use worksong_engine::event::Event;
use worksong_engine::spec::{AppSpec, Dialect, NodeFlavour};
use worksong_testkit::http::{self, Response};
use worksong_testkit::process::alive;
use worksong_testkit::{Load, binary, fixture, node};

use crate::serving::{Serving, header_pid, hello_serve, last_word_pid, next_of};
use crate::{in_time, run, spec};

/// Clients with a connection each.
const CLIENTS: usize = 16;

#[test]
fn what_happens_to_one_app_does_not_touch_another() {
    run(async {
        let engine = Engine::start(EngineOptions::default()).unwrap();
        let mut events = engine.subscribe();
        let dialect = Dialect::Node(NodeFlavour::Node);
        let web = spec("web", node("24"), [fixture("node/http.js").into()], 2, dialect);
        let web = Serving::start(&engine, &mut events, web).await;
        let api = spec("api", binary("examples/under_node"), ["127.0.0.1:0".into()], 2, Dialect::Native);
        let api = Serving::start(&engine, &mut events, api).await;
        assert_ne!(web.port, api.port);

        let load = Load::start(api.port, header_pid);
        load.wait_answers(10);
        in_time("the reload", web.app.reload()).await.unwrap();
        web.app.stop("the test wants it").await;
        assert_eq!(in_time("its end", web.app.finished()).await, Ok(Outcome::Stopped));
        load.wait_answers_of(&api.pids);
        assert!(matches!(http::get(web.port, "/"), Err(http::Error::Connect(_))), "its sockets are closed");
        assert!(!web.pids.iter().any(|pid| alive(*pid)));
        assert_eq!(load.finish_without_failure(), api.pids, "the other is served by who served it before");

        api.app.stop("the test is over").await;
        assert_eq!(in_time("its end", api.app.finished()).await, Ok(Outcome::Stopped));
    });
}

#[test]
fn an_app_cannot_listen_where_another_does() {
    run(async {
        let engine = Engine::start(EngineOptions::default()).unwrap();
        let mut events = engine.subscribe();
        let program = binary("examples/under_node");
        let first = spec("first", program.clone(), ["127.0.0.1:0".into()], 1, Dialect::Native);
        let first = Serving::start(&engine, &mut events, first).await;
        let address = format!("127.0.0.1:{}", first.port);
        let second = spec("second", program, [address.into()], 1, Dialect::Native);
        let second = engine.add(second, None).await.unwrap();
        let reason = loop {
            if let Event::ListenFailed { reason, .. } = next_of(&mut events, "second").await {
                break reason;
            }
        };
        assert!(reason.contains(&format!("pid {}", std::process::id())), "{reason}");
        let answer = http::get(first.port, "/").unwrap();
        assert!(first.pids.contains(&header_pid(&answer)), "the first one serves on");
        for app in [first.app, second] {
            app.stop("the test is over").await;
            assert_eq!(in_time("its end", app.finished()).await, Ok(Outcome::Stopped));
        }
    });
}

#[test]
fn new_workers_get_a_share_of_the_open_connections() {
    let dialect = Dialect::Node(NodeFlavour::Node);
    let node = spec("web", node("22"), [fixture("node/http.js").into()], 2, dialect);
    assert_shared_out(node, Response::json_pid);
    assert_shared_out(hello_serve(2), last_word_pid);
}

/// Scales an app of two workers up to four under clients that keep their connections.
fn assert_shared_out(web: AppSpec, pid_of: fn(&Response) -> u32) {
    run(async {
        let engine = Engine::start(EngineOptions::default()).unwrap();
        let mut events = engine.subscribe();
        let mut web = Serving::start(&engine, &mut events, web).await;
        let clients = Load::keep_alive(web.port, CLIENTS, pid_of);
        let all_are_open = async {
            while engine.tally().await.handed_over < CLIENTS as u64 {
                tokio::task::yield_now().await;
            }
        };
        in_time("open connections of all", all_are_open).await;

        web.app.resize(4).await;
        while web.pids.len() < 4 {
            if let Event::Ready { worker, .. } = next_of(&mut events, "web").await {
                web.pids.insert(worker.pid);
            }
        }
        // They answer nobody else: no connection is new.
        clients.wait_answers_of(&web.pids);
        let tally = engine.tally().await;
        assert_eq!(tally.accepted, CLIENTS as u64, "{tally:?}");
        // Of 16 connections each of 4 workers has 4 in the end; the two old ones give as many to each new one, or more
        // when they have got some of each other's.
        assert!((2..=12).contains(&tally.moved), "{tally:?}");
        assert_eq!(clients.finish_without_failure(), web.pids);
        web.app.stop("the test is over").await;
        assert_eq!(in_time("its end", web.app.finished()).await, Ok(Outcome::Stopped));
    });
}
