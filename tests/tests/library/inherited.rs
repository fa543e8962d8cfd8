//! More and fewer workers that inherit sockets of their own.

use std::collections::BTreeSet;

use worksong_engine::engine::{Engine, EngineOptions};
use worksong_engine::event::Event;
use worksong_engine::spec::{Dialect, Policy, Spread};
use worksong_testkit::http;
use worksong_testkit::{Load, binary, free_port};

use crate::serving::next_of;
use crate::{in_time, run, spec};

#[test]
fn workers_come_and_go_and_no_connection_is_lost() {
    run(async {
        let engine = Engine::start(EngineOptions::default()).unwrap();
        let mut events = engine.subscribe();
        let port = free_port();
        let mut web = spec("web", binary("rust-raw"), [], 2, Dialect::Activation);
        web.listen = vec![port.into()];
        web.policies = Policy::Kernel(Spread::Hash).into();
        let app = engine.add(web, None).await.unwrap();
        let pid_of = |answer: &http::Response| answer.text().trim().parse::<u32>().expect("a pid");
        let load = Load::start(port, pid_of);
        let mut pids = BTreeSet::new();
        while pids.len() < 2 {
            if let Event::Ready { worker, .. } = next_of(&mut events, "web").await {
                pids.insert(worker.pid);
            }
        }
        load.wait_answers_of(&pids);
        app.resize(4).await;
        while pids.len() < 4 {
            if let Event::Ready { worker, .. } = next_of(&mut events, "web").await {
                pids.insert(worker.pid);
            }
        }
        load.wait_answers_of(&pids);
        app.resize(1).await;
        for _ in 0..3 {
            while !matches!(next_of(&mut events, "web").await, Event::Exit { .. }) {}
        }
        load.wait_answers(20);
        load.finish_without_failure();
        app.stop("the test is over").await;
        in_time("its end", app.finished()).await.unwrap();
    });
}
