//! What the primary says of a reload when the last worker that it replaced is gone.

use std::fs;
use std::thread;

use serde_json::json;
use worksong_testkit::http::{self, Connection};
use worksong_testkit::{Event, Folder, Signal, Worksong, eventually, fixture, process};

/// A server that listens when there is the file `argv[2]`, so that much can happen in a reload.
const GATED: &str = "
const { existsSync } = require('node:fs');
const { createServer } = require('node:http');
const server = createServer((_, response) => response.end(JSON.stringify({ pid: process.pid })));
const listen = () => existsSync(process.argv[2]) ? server.listen(0) : setTimeout(listen, 10);
listen();
";

/// Starts two workers of it, and keeps those that come later from listening until there is a file `gate`.
fn start_gated(folder: &Folder, options: &[&str]) -> Worksong {
    let gate = folder.write("gate", "");
    let launch = Worksong::run(["-i", "2"]).args(options).program(folder.write("gated.js", GATED));
    let worksong = launch.args([&gate]).start();
    worksong.wait_ready(2);
    fs::remove_file(gate).expect("it was written");
    worksong
}

fn named<'a>(events: &'a [Event], name: &'a str) -> impl Iterator<Item = &'a Event> {
    events.iter().filter(move |event| event.name() == name)
}

#[test]
fn connections_of_a_worker_that_does_not_take_them_are_redispatched_and_counted() {
    let folder = Folder::new();
    // Without pings: one that owes an answer to a ping is passed by.
    let options = ["--drain-timeout", "1s", "--kill-timeout", "1s", "--no-agent"];
    let worksong = start_gated(&folder, &options);
    let port = worksong.listening_port();
    // The slot that comes second: its worker is in rotation while the first successor starts.
    let victim = worksong.wait_event("ready", |event| event.slot() == 1).pid();
    process::freeze(victim);
    worksong.signal(Signal::HUP);
    // The data plane has counted what was before when it reads what it was told of after that.
    worksong.wait_event("online", |event| event.generation() == 2);
    let clients: Vec<_> = (0..4).map(|_| thread::spawn(move || http::get(port, "/"))).collect();
    // Turn by turn two of four are the victim's; it is passed by where the second one comes so late that the first is overdue.
    eventually("two answers", || (clients.iter().filter(|one| one.is_finished()).count() >= 2).then_some(()));
    folder.write("gate", "");
    for client in clients {
        let answer = client.join().expect("no panic").expect("another worker answers");
        assert_ne!(answer.json_pid(), victim);
    }
    let report = worksong.wait_event("reload_report", |_| true);
    assert!((1..=2).contains(&report["redispatched"].as_u64().expect("a number")), "{report:?}");
    // Those may still be on their way to the one that answers them.
    assert!((2..=4).contains(&report["handed_over"].as_u64().expect("a number")), "{report:?}");
    assert_eq!((&report["moved"], &report["workers"]), (&json!(0), &json!(2)), "{report:?}");
}

#[test]
fn a_reload_ends_with_one_line_in_the_terminal() {
    let folder = Folder::new();
    let launch = Worksong::with(["run", "-i", "1"]).program(fixture("node/waits.js"));
    let worksong = launch.env("RELEASE", folder.join("release")).start();
    let told = |text: &str| {
        let lines = worksong.lines().into_iter().map(|line| line.text);
        lines.filter(|line| line.contains(text)).collect::<Vec<String>>()
    };
    eventually("a ready worker", || told("is ready").pop());
    let listens = told("listens on").remove(0);
    let port = listens.rsplit(':').next().and_then(|port| port.parse::<u16>().ok()).expect("a port");
    let [mut kept, mut busy] = [(); 2].map(|()| Connection::open(port).expect("it listens"));
    let old = kept.get("/").expect("an answer").text().to_owned();
    busy.send(b"GET /wait HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n").expect("it is open");
    eventually("the request", || told("waiting").pop());
    worksong.signal(Signal::HUP);
    eventually("the move", || (kept.get("/").expect("an answer").text() != old).then_some(()));
    assert!(told("reload 1 of waits: ").is_empty(), "the old worker is still there");
    folder.write("release", "");
    assert_eq!(busy.read_response(false).expect("it is finished").text(), old);
    let line = eventually("the report", || told("reload 1 of waits: ").pop());
    let (_, report) = line.split_once("reload 1 of waits: 1 worker in ").expect("one worker");
    let (took, counts) = report.split_once(" · ").expect("a duration");
    assert!(took.ends_with('s'), "{line}");
    assert_eq!(counts, "handed over 1 · moved 1 · re-dispatched 0 · cut 0", "{line}");
}

#[test]
fn reloads_in_a_row_are_two_and_each_has_its_report() {
    let folder = Folder::new();
    let worksong = start_gated(&folder, &[]);
    let old = worksong.worker_pids();
    worksong.signal(Signal::HUP);
    worksong.wait_event("reload_started", |_| true);
    // One waits for the end of the first, and another one takes its place.
    worksong.signal(Signal::HUP);
    worksong.signal(Signal::USR2);
    folder.write("gate", "");
    let second = worksong.wait_event("reload_done", |event| event.generation() > 2).generation();
    for generation in [2, second] {
        let report = worksong.wait_event("reload_report", |event| event.generation() == generation);
        assert_eq!((&report["workers"], &report["cut"]), (&json!(2), &json!(0)), "{report:?}");
    }
    worksong.signal(Signal::TERM);
    assert_eq!(worksong.wait_exit().code(), Some(0));
    let events = worksong.events();
    for name in ["reload_started", "reload_done", "reload_report"] {
        let generations: Vec<u32> = named(&events, name).map(Event::generation).collect();
        assert_eq!(generations, [2, second], "{name}");
    }
    let workers = named(&events, "forked").map(Event::pid);
    assert_eq!(workers.filter(|pid| !old.contains(pid)).count(), 4, "two reloads of two workers");
    let ended = |generation| move |event: &&Event| event.name() == "exit" && event.generation() == generation;
    assert_eq!(events.iter().filter(ended(2)).count(), 2, "the second reload has replaced the first one's");
}
