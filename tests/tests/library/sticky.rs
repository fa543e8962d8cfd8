//! Users of a sticky app while it grows, shrinks and reloads.

use std::collections::BTreeSet;

use worksong_engine::engine::{Engine, EngineOptions, Outcome};
use worksong_engine::event::{DrainCause, Event};
use worksong_engine::spec::{AppSpec, Policy};
use worksong_testkit::http::Connection;

use crate::serving::{Serving, hello_serve, next_of};
use crate::{in_time, run};

const USERS: usize = 200;

/// Returns the slot of each user, asked over a new connection.
fn slots(port: u16) -> Vec<u32> {
    let slot_of = |user: usize| {
        let cookie = format!("session=user-{user}");
        let headers = [("cookie", cookie.as_str()), ("connection", "close")];
        let answer = Connection::open(port).unwrap().request("GET", "/", &headers, b"").unwrap();
        // As in `worker 1 of slot Some(0), process 9698`.
        let slot = answer.text().split(['(', ')']).nth(1).and_then(|slot| slot.parse().ok());
        slot.expect("an answer names its slot")
    };
    (0..USERS).map(slot_of).collect()
}

#[test]
fn users_move_only_to_new_slots_and_from_those_that_are_no_more() {
    run(async {
        let engine = Engine::start(EngineOptions::default()).unwrap();
        let mut events = engine.subscribe();
        let policies = "sticky:cookie:session".parse::<Policy>().unwrap().into();
        let web = Serving::start(&engine, &mut events, AppSpec { policies, ..hello_serve(2) }).await;
        let two = slots(web.port);

        web.app.resize(8).await;
        for _ in 2..8 {
            while !matches!(next_of(&mut events, "web").await, Event::Ready { .. }) {}
        }
        let eight = slots(web.port);
        let moved: Vec<_> = two.iter().zip(&eight).filter(|(before, now)| before != now).collect();
        assert!(moved.iter().all(|(_, now)| **now >= 2), "{moved:?}");
        assert!((USERS * 6 / 10..USERS * 9 / 10).contains(&moved.len()), "about 6 of 8: {}", moved.len());

        in_time("the reload", web.app.reload()).await.unwrap();
        assert_eq!(slots(web.port), eight, "a reload moves nobody");

        web.app.resize(4).await;
        let (mut leaving, mut gone) = (BTreeSet::new(), 0);
        while gone < 4 {
            match next_of(&mut events, "web").await {
                Event::Draining { worker, cause: DrainCause::Resize, .. } => drop(leaving.insert(worker.pid)),
                Event::Exit { worker, .. } if leaving.contains(&worker.pid) => gone += 1,
                _ => {}
            }
        }
        let four = slots(web.port);
        assert!(four.iter().all(|slot| *slot < 4), "{four:?}");
        for (before, now) in eight.iter().zip(&four) {
            assert!(before == now || *before >= 4, "moved from {before} to {now}");
        }
        web.app.stop("the test is over").await;
        assert_eq!(in_time("its end", web.app.finished()).await, Ok(Outcome::Stopped));
    });
}
