//! What waits for a worker that dies as it leaves is served at once.

use std::collections::BTreeSet;

use worksong_testkit::http::Connection;
use worksong_testkit::{Load, Signal, free_port, process};

use super::{python, text_pid};

/// Opens connections with a request on each.
fn ask(port: u16, count: usize) -> Vec<Connection> {
    let ask = |_| {
        let mut connection = Connection::open(port).expect("nobody is refused");
        connection.send(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n").expect("it is open");
        connection
    };
    (0..count).map(ask).collect()
}

#[test]
fn what_waits_for_a_worker_that_dies_as_it_leaves_is_served_by_one_more() {
    let port = free_port();
    let worksong = python("1", port, &[]).start();
    let victim = *worksong.wait_ready(1).first().expect("one worker");
    // It accepts nothing more, so what it gets is in its queue when it dies.
    process::freeze(victim);
    let waiting = ask(port, 20);
    worksong.signal(Signal::HUP);
    // Every slot has its new worker, and no other one is about to start.
    worksong.wait_event("reload_done", |_| true);
    let load = Load::start(port, text_pid);
    load.wait_answers(5);
    process::kill(victim, Signal::KILL);
    let orphaned = worksong.wait_event("orphaned", |_| true);
    assert_eq!(orphaned["count"], 20);
    let answer =
        |mut connection: Connection| text_pid(&connection.read_response(false).expect("it is served"));
    let answered: BTreeSet<u32> = waiting.into_iter().map(answer).collect();
    let rescuer = worksong.wait_event("draining", |event| event["cause"] == "rescued").pid();
    assert_eq!(answered, BTreeSet::from([rescuer]));
    let end = worksong.wait_event("exit", |event| event.pid() == rescuer);
    assert_eq!(end["voluntary"], true, "it ends by itself, when nothing waits any more");
    worksong.wait_event("reload_report", |_| true);
    load.wait_answers(20);
    let served = load.finish_without_failure();
    assert!(!served.contains(&rescuer), "it gets nothing new: {served:?}");
}
