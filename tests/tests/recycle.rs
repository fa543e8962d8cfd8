//! Workers that serve are replaced: by age, memory, connections and at their own request, and nothing is lost.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;

use worksong_testkit::http::{self, Response};
use worksong_testkit::{Event, Folder, Load, NODE_VERSIONS, Signal, Worksong, binary, fixture};

/// The numbers of the workers that were recycled: their successors have taken their slots.
fn recycled(worksong: &Worksong) -> BTreeSet<u32> {
    let events = worksong.events();
    let drained = events.iter().filter(|event| event.name() == "draining" && event["cause"] == "recycle");
    drained.map(Event::worker).collect()
}

#[track_caller]
fn wait_recycled(worksong: &Worksong, count: usize) {
    let mut seen = BTreeSet::new();
    worksong.wait_event("draining", |event| {
        if event["cause"] == "recycle" {
            seen.insert(event.worker());
        }
        seen.len() >= count
    });
}

/// Checks that no replacement has taken a worker out of rotation before its slot had another one.
fn assert_capacity_was_kept(worksong: &Worksong) {
    let mut in_rotation: BTreeMap<u32, BTreeSet<u32>> = BTreeMap::new();
    for event in worksong.events() {
        match event.name() {
            "ready" => drop(in_rotation.entry(event.slot()).or_default().insert(event.worker())),
            "draining" => {
                let slot = in_rotation.entry(event.slot()).or_default();
                slot.remove(&event.worker());
                assert!(!slot.is_empty(), "its slot was empty: {event:?}");
            }
            _ => {}
        }
    }
}

#[test]
fn workers_of_one_age_do_not_go_together() {
    let options = ["-i", "3", "--max-age", "2s"];
    let worksong = Worksong::run(options).program(fixture("node/http.js")).start();
    worksong.wait_ready(3);
    let load = Load::start(worksong.listening_port(), Response::json_pid);
    wait_recycled(&worksong, 4);
    load.finish_without_failure();
    assert_capacity_was_kept(&worksong);

    let events = worksong.events();
    let mut limits = BTreeSet::new();
    for event in events.iter().filter(|event| event.name() == "recycling") {
        assert_eq!(event["reason"], "age");
        let limit = event["limit_ms"].as_u64().expect("a limit");
        assert!((1_800..=2_200).contains(&limit) && event["age_ms"].as_u64() >= Some(limit), "{event:?}");
        limits.insert(limit);
    }
    assert!(limits.len() > 1, "each worker has a limit of its own: {limits:?}");
    let mut starting = BTreeSet::new();
    for event in &events {
        match event.name() {
            "forked" if event.worker() > 3 => drop(starting.insert(event.worker())),
            "ready" => drop(starting.remove(&event.worker())),
            _ => {}
        }
        assert!(starting.len() <= 1, "one successor starts at a time: {event:?}");
    }
}

/// Keeps 200 MB more for ever at `/leak`.
const LEAKS: &str = "
const kept = [];
require('node:http').createServer((request, response) => {
  if (request.url === '/leak') kept.push(Buffer.alloc(200 << 20, 1));
  response.end(JSON.stringify({ pid: process.pid, kept: kept.length }));
}).listen(0);
";

#[test]
fn a_worker_that_leaks_is_replaced_and_the_others_stay() {
    let folder = Folder::new();
    let program = folder.write("leaks.js", LEAKS);
    let worksong = Worksong::run(["-i", "2", "--max-memory-restart", "180M"]).program(program).start();
    worksong.wait_ready(2);
    let port = worksong.listening_port();
    let leaking = http::get(port, "/leak").expect("an answer").json_pid();
    let load = Load::start(port, Response::json_pid);

    let recycling = worksong.wait_event("recycling", |_| true);
    assert_eq!((recycling.pid(), &recycling["reason"]), (leaking, &"memory".into()));
    let limit = recycling["limit_bytes"].as_u64().expect("a limit");
    assert!((162 << 20..=198 << 20).contains(&limit), "{limit}");
    assert!(recycling["resident_bytes"].as_u64() > Some(200 << 20), "{recycling:?}");

    let exit = worksong.wait_event("exit", |_| true);
    assert_eq!((exit.pid(), &exit["voluntary"]), (leaking, &true.into()));
    load.finish_without_failure();
    assert_eq!(recycled(&worksong).len(), 1, "the other one has not leaked");
    assert_capacity_was_kept(&worksong);
}

/// Asks for a successor with `argv[2]` at its hundredth request.
const ASKS: &str = "
let requests = 0;
require('node:http').createServer((request, response) => {
  requests += 1;
  if (requests === 100) process.send(JSON.parse(process.argv[2]));
  response.end(JSON.stringify({ pid: process.pid }));
}).listen(0);
";

#[test]
fn a_worker_that_asks_for_a_successor_gets_one_and_no_connection_is_lost() {
    let folder = Folder::new();
    let program = folder.write("asks.js", ASKS);
    let sayings = [r#"{"cmd":"disconnect"}"#, r#"{"type":"suicide","cause":"old"}"#];
    for (version, saying) in NODE_VERSIONS.into_iter().zip(sayings.into_iter().cycle()) {
        let launch = Worksong::run(["-i", "2"]).node(version).program(&program).args([saying]);
        let worksong = launch.start();
        worksong.wait_ready(2);
        let port = worksong.listening_port();
        let loads = [(); 2].map(|()| Load::start(port, Response::json_pid));
        wait_recycled(&worksong, 3);
        for load in loads {
            load.finish_without_failure();
        }
        assert_capacity_was_kept(&worksong);
        assert_eq!(worksong.wait_event("recycling", |_| true)["reason"], "asked", "Node {version}");
        worksong.signal(Signal::TERM);
        assert_eq!(worksong.wait_exit().code(), Some(0));
    }
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
fn a_reload_takes_the_place_of_a_recycle_and_knows_what_it_cut() {
    let folder = Folder::new();
    let gate = folder.write("gate", "");
    let launch = Worksong::run(["-i", "1"]).program(folder.write("late.js", LATE));
    let worksong = launch.args([&gate]).start();
    worksong.wait_ready(1);
    fs::remove_file(&gate).expect("it was written");
    let port = worksong.listening_port();
    assert!(http::get(port, "/").is_ok());
    worksong.wait_event("forked", |event| event.worker() == 2);
    worksong.signal(Signal::HUP);
    let superseded = worksong.wait_event("draining", |_| true);
    assert_eq!((superseded.worker(), &superseded["cause"]), (2, &"superseded".into()));
    folder.write("gate", "");
    let report = worksong.wait_event("reload_report", |_| true);
    assert_eq!(report["cut"], 0, "the one that never served has cut nothing: {report:?}");
    assert!(http::get(port, "/").is_ok());
}

#[track_caller]
fn assert_recycled_by_connections(worksong: &Worksong, load: Load) {
    wait_recycled(worksong, 3);
    load.finish_without_failure();
    assert_capacity_was_kept(worksong);
    for event in worksong.events().iter().filter(|event| event.name() == "recycling") {
        let (taken, limit) = (event["connections"].as_u64(), event["limit"].as_u64());
        assert!(taken == limit && limit >= Some(90) && limit <= Some(110), "{event:?}");
    }
}

#[test]
fn workers_are_replaced_after_so_many_connections() {
    let options = ["-i", "2", "--max-connections", "100"];
    let worksong = Worksong::run(options).program(fixture("node/http.js")).start();
    worksong.wait_ready(2);
    let load = Load::start(worksong.listening_port(), Response::json_pid);
    assert_recycled_by_connections(&worksong, load);

    let options = ["-i", "2", "--max-connections", "100", "--dialect", "native"];
    let worksong = Worksong::run(options).program(binary("examples/under_node")).start();
    worksong.wait_ready(2);
    let is_tcp = |event: &Event| event["address"].as_str().is_some_and(|text| text.starts_with("127.0.0.1:"));
    let port = worksong.wait_event("listening", is_tcp)["port"].as_u64().expect("a port");
    let pid = |answer: &Response| answer.header("pid").and_then(|pid| pid.parse().ok()).expect("a pid");
    let load = Load::start(u16::try_from(port).expect("a port"), pid);
    assert_recycled_by_connections(&worksong, load);
}

#[test]
fn a_successor_that_fails_leaves_the_old_worker_in_place_and_is_tried_again() {
    let folder = Folder::new();
    let broken = folder.write("broken", "");
    let options = ["-i", "1", "--max-age", "1s", "--restart-delay", "20ms"];
    fs::remove_file(&broken).expect("it was written");
    let launch = Worksong::run(options).program(fixture("node/crash.js")).args(["throw-if"]).args([&broken]);
    let worksong = launch.start();
    let first = worksong.wait_event("ready", |_| true);
    fs::write(&broken, "").expect("a folder of its own");
    let load = Load::start(worksong.listening_port(), Response::json_pid);

    let mut failures = 0;
    let failed = worksong.wait_event("recycle_failed", |_| {
        failures += 1;
        failures == 3
    });
    assert_eq!(failed.slot(), 0);
    assert!(failed["retry_ms"].as_u64() > Some(0), "{failed:?}");
    assert!(failed["reason"].as_str().is_some_and(|text| text.contains("ended before it was ready")));
    let stderr = failed["stderr"].as_array().expect("its last words");
    assert!(stderr.iter().any(|line| line.as_str().is_some_and(|line| line.contains("crash.js found"))));
    let recycled_before = recycled(&worksong);

    fs::remove_file(&broken).expect("it was written");
    let drained = worksong.wait_event("draining", |event| !recycled_before.contains(&event.worker()));
    assert_eq!(drained["cause"], "recycle");
    let pids = load.finish_without_failure();
    assert!(!pids.is_empty());
    assert!(recycled_before.is_empty() || first.worker() != drained.worker(), "{recycled_before:?}");
    assert!(!worksong.events().iter().any(|event| event.has("failures")), "no slot has failed");
}

#[test]
fn with_parallel_1_each_old_worker_is_gone_before_the_next_one_is_replaced() {
    let options = ["-i", "3", "--parallel", "1", "--surge", "2"];
    let worksong = Worksong::run(options).program(fixture("node/http.js")).start();
    worksong.wait_ready(3);
    let load = Load::start(worksong.listening_port(), Response::json_pid);
    worksong.signal(Signal::HUP);
    worksong.wait_event("reload_done", |_| true);
    load.finish_without_failure();
    assert_capacity_was_kept(&worksong);
    let is_late = |event: &Event| event.name() == "forked" && event.generation() == 2;
    let mut draining = BTreeSet::new();
    for event in worksong.events() {
        match event.name() {
            "draining" => drop(draining.insert(event.worker())),
            "exit" => drop(draining.remove(&event.worker())),
            _ => {}
        }
        assert!(!is_late(&event) || draining.is_empty(), "{event:?} while {draining:?} finish");
    }
}
