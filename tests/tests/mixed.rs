//! One app of Node and Rust workers: they speak the same protocol, so they share its ports.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::json;
use worksong_testkit::http::{self, Connection, Response};
use worksong_testkit::{Event, Folder, Launch, Load, Signal, Worksong, binary, fixture, process};

/// A script that becomes a Node worker in even slots and a Rust worker in odd ones.
fn launch(folder: &Folder, workers: u32) -> Launch {
    let script = format!(
        "case $WORKSONG_SLOT in\n*[02468]) exec node {} ;;\n*) exec {} 127.0.0.1:0 ;;\nesac\n",
        fixture("node/http.js").display(),
        binary("examples/under_node").display(),
    );
    Worksong::run(["--dialect", "node", "--env", "HOST=127.0.0.1", "-i", &workers.to_string()])
        .program(folder.write("either.sh", script))
}

fn pid(answer: &Response) -> u32 {
    match answer.header("pid") {
        Some(pid) => pid.parse().expect("a Rust worker says its pid"),
        None => answer.json_pid(),
    }
}

/// Returns the one TCP port of the app.
fn shared_port(worksong: &Worksong, workers: u32) -> u16 {
    let is_tcp = |event: &Event| event["address"].as_str().is_some_and(|text| text.starts_with("127."));
    for slot in 0..workers {
        worksong.wait_event("listening", |event| is_tcp(event) && event.slot() == slot);
    }
    let ports: BTreeSet<u64> = worksong
        .events()
        .iter()
        .filter(|event| event.name() == "listening" && is_tcp(event))
        .filter_map(|event| event["port"].as_u64())
        .collect();
    assert_eq!(ports.len(), 1, "all listen on the same port");
    ports.first().and_then(|port| u16::try_from(*port).ok()).expect("a port is a u16")
}

/// Returns the slot of each worker that was started.
fn slots(worksong: &Worksong) -> BTreeMap<u32, u32> {
    let events = worksong.events();
    events.iter().filter(|event| event.name() == "forked").map(|event| (event.pid(), event.slot())).collect()
}

#[test]
fn both_kinds_answer_on_one_port() {
    let folder = Folder::new();
    let worksong = launch(&folder, 4).start();
    let workers = worksong.wait_ready(4);
    let port = shared_port(&worksong, 4);
    let slots = slots(&worksong);
    let mut served: BTreeMap<u32, u32> = BTreeMap::new();
    for _ in 0..80 {
        let answer = http::get(port, "/").expect("an answer");
        let pid = pid(&answer);
        assert_eq!(answer.header("pid").is_some(), slots[&pid] % 2 == 1, "odd slots are Rust's");
        *served.entry(pid).or_default() += 1;
    }
    assert_eq!(served.keys().copied().collect::<BTreeSet<_>>(), workers);
    assert!(served.values().all(|count| *count >= 10), "{served:?}");
    worksong.signal(Signal::TERM);
    assert_eq!(worksong.wait_exit().code(), Some(0));
}

#[test]
fn connections_of_a_killed_worker_go_to_the_other_kind() {
    for stopped_slot in [0, 1] {
        let folder = Folder::new();
        let worksong = launch(&folder, 2).start();
        worksong.wait_ready(2);
        let port = shared_port(&worksong, 2);
        let slots = slots(&worksong);
        let (stopped, _) = slots.iter().find(|(_, slot)| **slot == stopped_slot).expect("both run");
        // It gets connections and never says that it took them.
        process::kill(*stopped, Signal::STOP);
        let mut connections: Vec<Connection> = (0..10)
            .map(|_| {
                let mut connection = Connection::open(port).expect("a connection");
                let request = b"GET / HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n";
                connection.send(request).expect("sent");
                connection
            })
            .collect();
        process::kill(*stopped, Signal::KILL);
        for connection in &mut connections {
            let answer = connection.read_response(false).expect("another worker answers");
            assert_ne!(pid(&answer), *stopped);
        }
    }
}

#[test]
fn a_reload_replaces_both_kinds_and_loses_nothing() {
    let folder = Folder::new();
    let worksong = launch(&folder, 2).start();
    let before = worksong.wait_ready(2);
    let port = shared_port(&worksong, 2);
    let load = Load::start(port, pid);
    load.wait_answers(20);
    worksong.signal(Signal::HUP);
    worksong.wait_event("reload_done", |event| event.generation() == 2);
    let after = worksong.wait_ready(2);
    assert!(after.is_disjoint(&before));
    load.wait_answers_of(&after);
    load.finish_without_failure();
    for pid in &before {
        let exit = worksong.wait_event("exit", |event| event.pid() == *pid);
        assert_eq!((&exit["code"], &exit["voluntary"]), (&json!(0), &json!(true)), "{exit:?}");
    }
}
