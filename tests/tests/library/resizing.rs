//! More and fewer workers of programs that bind their port by themselves.

use std::collections::BTreeSet;
use std::time::Duration;

use worksong_engine::engine::{Engine, EngineOptions, Subscription};
use worksong_engine::event::{DrainCause, Event};
use worksong_engine::spec::{AppSpec, Dialect, Policy, Spread};
use worksong_testkit::http::{Connection, Response};
use worksong_testkit::{Load, Signal, binary, free_port, process};

use crate::serving::{Serving, next_of};
use crate::{in_time, run, spec};

fn captured(port: u16, instances: u32) -> AppSpec {
    let mut web = spec("web", binary("rust-raw"), [], instances, Dialect::Capture { channel: false });
    web.command.env = vec![("PORT".into(), port.to_string().into())];
    web.policies = Policy::Kernel(Spread::Hash).into();
    // After half of it a worker that has just answered is not given the benefit of the doubt any more.
    web.deadlines.drain = Duration::from_secs(10);
    web
}

fn pid_of(answer: &Response) -> u32 {
    answer.text().trim().parse().expect("a pid")
}

/// Waits for so many workers that become ready, and notes them.
async fn wait_ready(events: &mut Subscription, count: usize, pids: &mut BTreeSet<u32>) {
    for _ in 0..count {
        loop {
            if let Event::Ready { worker, .. } = next_of(events, "web").await {
                pids.insert(worker.pid);
                break;
            }
        }
    }
}

#[test]
fn workers_that_bind_by_themselves_come_and_go_and_no_request_fails() {
    run(async {
        let engine = Engine::start(EngineOptions::default()).unwrap();
        let mut events = engine.subscribe();
        let port = free_port();
        let mut serving = Serving::start(&engine, &mut events, captured(port, 2)).await;
        let loads = [Load::start(port, pid_of), Load::start(port, pid_of)];
        loads[0].wait_answers_of(&serving.pids);
        for size in [4_u32, 1, 3] {
            let before = serving.app.snapshot().await.unwrap().slots.len() as u32;
            serving.app.resize(size).await;
            wait_ready(&mut events, size.saturating_sub(before) as usize, &mut serving.pids).await;
            for _ in size..before {
                while !matches!(next_of(&mut events, "web").await, Event::Exit { .. }) {}
            }
            // All that are new and all that were before have served.
            loads[0].wait_answers_of(&serving.pids);
            loads[0].wait_answers(50);
        }
        for load in loads {
            load.finish_without_failure();
        }
        serving.app.stop("the test is over").await;
        in_time("its end", serving.app.finished()).await.unwrap();
    });
}

#[test]
fn what_waits_for_a_worker_of_a_dropped_slot_is_served() {
    run(async {
        let engine = Engine::start(EngineOptions::default()).unwrap();
        let mut events = engine.subscribe();
        let port = free_port();
        let serving = Serving::start(&engine, &mut events, captured(port, 2)).await;
        let slots = serving.app.snapshot().await.unwrap().slots;
        let pid_in = |slot: usize| match &slots[slot].state {
            worksong_engine::supervise::SlotState::Filled(view) => view.worker.pid,
            other => panic!("{other:?}"),
        };
        let (stays, victim) = (pid_in(0), pid_in(1));
        process::freeze(victim);
        let ask = |_| {
            let mut connection = Connection::open(port).expect("nobody is refused");
            connection.send(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n").expect("it is open");
            connection
        };
        // One of them at least is for the victim, but for one run in 10^12.
        let waiting: Vec<Connection> = (0..40).map(ask).collect();
        serving.app.resize(1).await;
        while !matches!(next_of(&mut events, "web").await, Event::Draining { cause: DrainCause::Resize, .. })
        {
        }
        // The queues of a program that binds by itself are told, too: the one has answered what it had.
        let queued = |queues: Vec<worksong_engine::engine::Queue>| {
            queues.iter().map(|queue| queue.queued).sum::<u32>()
        };
        assert!(queued(serving.app.queues().await) > 0);
        process::kill(victim, Signal::KILL);
        let orphaned = loop {
            if let Event::Orphaned { count, .. } = next_of(&mut events, "web").await {
                break count;
            }
        };
        let answered = tokio::task::spawn_blocking(move || {
            let answer =
                |mut connection: Connection| pid_of(&connection.read_response(false).expect("it is served"));
            waiting.into_iter().map(answer).collect::<Vec<u32>>()
        });
        let answered = answered.await.unwrap();
        let by_others = answered.iter().filter(|pid| **pid != stays).count();
        assert!(by_others > 0 && !answered.contains(&victim), "{answered:?}");
        assert_eq!(orphaned as usize, by_others, "{answered:?}");
        serving.app.stop("the test is over").await;
        in_time("its end", serving.app.finished()).await.unwrap();
    });
}
