//! A system without descriptors: the kernel keeps connections, then they are shed and counted.

use std::collections::BTreeSet;
use std::fs;
use std::io;

use rustix::process::{Pid, Resource, Rlimit, getrlimit, prlimit};
use worksong_testkit::{Folder, Signal, Worksong, eventually, fixture, free_port, http, process};

use crate::{assert_both_serve, stop, ticks};

/// How many connections were shed until now.
fn shed(worksong: &Worksong) -> u64 {
    let events = worksong.events();
    let counts = events.iter().filter(|event| event.name() == "shed").map(|event| event["count"].as_u64());
    counts.map(|count| count.expect("a shed event has its count")).sum()
}

/// Opens a hundred connections, each with its request, so that none holds a descriptor for longer than its answer takes.
fn ask_all(port: u16) -> Vec<http::Connection> {
    let ask = |_| {
        let mut client = http::Connection::open(port).expect("the kernel completes it");
        // It may be closed already; that shows when it is read.
        let _sent = client.send(b"GET / HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n");
        client
    };
    (0..100).map(ask).collect()
}

/// Returns how many are answered, and how many were closed before an answer began; nothing else may happen to them.
#[track_caller]
fn answered_and_closed(clients: Vec<http::Connection>) -> (u64, u64) {
    let (mut answered, mut closed) = (0, 0);
    for mut client in clients {
        match client.read_response(false) {
            Ok(answer) if answer.status == 200 => answered += 1,
            Err(http::Error::NoAnswer(error)) if error.kind() != io::ErrorKind::WouldBlock => closed += 1,
            outcome => panic!("{outcome:?} after {answered} were answered and {closed} closed"),
        }
    }
    (answered, closed)
}

/// The kernel holds what the primary has no descriptors for; only what is counted as shed may be lost.
#[test]
fn a_primary_without_descriptors_keeps_connections_and_recovers() {
    const LIMIT: u32 = 36;
    let launch = Worksong::run(["-i", "2"]).program(fixture("node/http.js"));
    let worksong = launch.after(&format!("ulimit -n {LIMIT}")).start();
    let pids = worksong.wait_ready(2);
    let port = worksong.listening_port();
    for pid in &pids {
        process::freeze(*pid);
    }
    let before = ticks(worksong.pid());
    let clients = ask_all(port);
    eventually("that no descriptor is left", || {
        (process::open_descriptors(worksong.pid())? >= LIMIT as usize).then_some(())
    });
    for pid in &pids {
        worksong.wait_event("unresponsive", |event| event.pid() == *pid);
    }
    let spent = ticks(worksong.pid()) - before;
    assert!(spent < 50, "{spent} ticks in a second of waiting: that is a busy loop");
    for pid in &pids {
        process::kill(*pid, Signal::CONT);
    }
    let (answered, closed) = answered_and_closed(clients);
    eventually("that every closed one is counted", || (shed(&worksong) == closed).then_some(()));
    assert!(answered > 0);
    assert_both_serve(&worksong, &pids);
    stop(&worksong);
}

fn descriptors_of(pid: u32) -> BTreeSet<u64> {
    let entries = fs::read_dir(format!("/proc/{pid}/fd")).unwrap();
    entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect()
}

/// Lets a running process open only so many descriptors more.
fn leave_free(pid: u32, count: u64) {
    let taken = descriptors_of(pid);
    let free = (0..).filter(|number| !taken.contains(number));
    let limit = free.take(usize::try_from(count).unwrap()).last().unwrap() + 1;
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw);
    let limit = Rlimit { current: Some(limit), maximum: Some(limit) };
    prlimit(pid, Resource::Nofile, limit).expect("everybody may lower the limits of a child");
}

/// A worker that takes nothing keeps all descriptors, so there is none for what the other could take.
#[test]
fn a_primary_that_stays_without_descriptors_sheds_counts_and_recovers() {
    // Without pings: one that owes an answer to a ping is passed by, and would keep nothing.
    let worksong = Worksong::run(["-i", "2", "--no-agent"]).program(fixture("node/http.js")).start();
    let pids = worksong.wait_ready(2);
    let port = worksong.listening_port();
    let stopped = *pids.first().unwrap();
    process::freeze(stopped);
    // The one that it gets: while it is late, others are not given to it.
    leave_free(worksong.pid(), 1);
    let before = ticks(worksong.pid());
    let clients = ask_all(port);
    worksong.wait_event("shed", |_| true);
    process::kill(stopped, Signal::CONT);
    let (answered, closed) = answered_and_closed(clients);
    let spent = ticks(worksong.pid()) - before;
    assert!(spent < 50, "{spent} ticks in a second of waiting: that is a busy loop");
    eventually("that every closed one is counted", || (shed(&worksong) == closed).then_some(()));
    assert!(closed > 0 && answered > 0, "{answered} answered, {closed} shed");
    assert_both_serve(&worksong, &pids);
    assert_eq!(shed(&worksong), closed, "with descriptors nothing is shed any more");
    stop(&worksong);
}

/// Lets a running process open nothing more; returns how much it might.
fn leave_nothing(pid: u32) -> Rlimit {
    let taken = descriptors_of(pid);
    let limit = (0..=taken.len() as u64).find(|number| !taken.contains(number)).unwrap();
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw);
    // Only the soft limit, because it is raised again; the other one is everybody's.
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    let before = prlimit(pid, Resource::Nofile, Rlimit { current: Some(limit), maximum });
    before.expect("everybody may change the limits of a child")
}

fn give_back(pid: u32, limit: Rlimit) {
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw);
    prlimit(pid, Resource::Nofile, limit).expect("it was this before");
}

/// Nobody else misses anything then: only the control address can tell.
#[test]
fn a_control_address_without_descriptors_tells_and_answers_later() {
    let folder = Folder::new();
    let control = folder.join("control.sock");
    let worksong = Worksong::run(["-i", "1", "--control"]).args([&control]).program(fixture("node/http.js"));
    let worksong = worksong.start();
    worksong.wait_ready(1);
    let limit = leave_nothing(worksong.pid());
    let mut client = http::Connection::open(control.as_path()).expect("the kernel completes it");
    client.send(b"GET /assign HTTP/1.1\r\nhost: a\r\n\r\n").expect("it is open");
    assert_eq!(worksong.wait_event("shortage", |_| true)["of"], "descriptors");
    give_back(worksong.pid(), limit);
    let answer = client.read_response(false).expect("an answer");
    assert_eq!(answer.status, 200, "its only worker has the port for itself");
    worksong.wait_event("shortage_over", |_| true);
    stop(&worksong);
}

/// What is open goes on, what cannot be opened is told with its cause and tried again, and nothing else happens.
#[test]
fn a_primary_that_can_open_nothing_fails_a_reload_and_refills_its_slots_later() {
    const TICKING: &str = "
        require('node:http').createServer((_, response) => response.end('ok')).listen(0);
        let ticks = 0;
        setInterval(() => console.log(`tick ${process.pid} ${++ticks}`), 50).unref();";
    let folder = Folder::new();
    let program = folder.write("ticking.js", TICKING);
    // Twice is too often for a program that fails, and not for a system.
    let worksong = Worksong::run(["-i", "2", "--max-restarts", "2"]).program(program).start();
    let pids = worksong.wait_ready(2);
    let port = worksong.listening_port();
    let limit = leave_nothing(worksong.pid());
    let clients = ask_all(port);
    worksong.wait_event("shortage", |event| event["of"] == "descriptors" && event.has("limit"));

    worksong.signal(Signal::HUP);
    let failed = worksong.wait_event("reload_failed", |_| true);
    assert!(failed["reason"].as_str().unwrap().contains("Too many open files"), "{failed}");
    assert_eq!(worksong.worker_pids(), pids, "the old workers go on");

    let [killed, other] = [pids.first().unwrap(), pids.last().unwrap()];
    process::kill(*killed, Signal::KILL);
    let slot = worksong.wait_event("exit", |event| event.pid() == *killed).slot();
    let failures = || {
        let events = worksong.events();
        let failures =
            events.iter().filter(|event| event.name() == "spawn_failed" && event.generation() == 1);
        failures.inspect(|event| assert!(event["reason"].as_str().unwrap().contains("open files"))).count()
    };
    eventually("more tries than a program has", || (failures() > 3).then_some(()));
    let ticks_of = |pid: u32| {
        let (lines, tick) = (worksong.output(), format!("tick {pid} "));
        lines.iter().filter(|output| output.line.starts_with(&tick)).count()
    };
    let ticks = ticks_of(*other);
    eventually("that its lines go on", || (ticks_of(*other) > ticks + 2).then_some(()));

    give_back(worksong.pid(), limit);
    worksong.wait_event("shortage_over", |event| event["of"] == "descriptors");
    worksong.wait_event("ready", |event| event.slot() == slot && event.pid() != *killed);
    let (_answered, closed) = answered_and_closed(clients);
    eventually("that every closed one is counted", || (shed(&worksong) == closed).then_some(()));
    assert_eq!(http::get(port, "/").unwrap().text(), "ok");
    let events = worksong.events();
    let count = |name: &str| events.iter().filter(|event| event.name() == name).count();
    assert_eq!(["shortage", "shortage_over", "errored"].map(count), [1, 1, 0]);
    stop(&worksong);
}

/// Whether a program that binds by itself is at work for a client is seen by looking at its sockets.
#[test]
fn a_primary_that_cannot_look_whether_a_worker_is_idle_takes_it_for_busy() {
    const SLOW: &str = "
import http.server, sys, time
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        print('begun', flush=True)
        time.sleep(3)
        self.send_response(204)
        self.end_headers()
http.server.HTTPServer(('127.0.0.1', int(sys.argv[1])), Handler).serve_forever()";
    let port = free_port();
    let options = ["-i", "1", "--dialect", "capture", "python3", "-c", SLOW, &port.to_string()];
    let worksong = Worksong::run(options).start();
    worksong.wait_ready(1);
    let mut client = http::Connection::open(port).unwrap();
    client.send(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n").unwrap();
    worksong.wait_output("that it is at work", |output| (output.line == "begun").then_some(()));
    worksong.signal(Signal::HUP);
    worksong.wait_event("draining", |_| true);
    let limit = leave_nothing(worksong.pid());
    // An idle one would be told to end after a second.
    assert_eq!(client.read_response(false).expect("it may finish").status, 204);
    give_back(worksong.pid(), limit);
    worksong.wait_event("reload_report", |_| true);
    stop(&worksong);
}

/// What a program binds by itself is asked of the primary, which has to open a few things for its answer.
#[test]
fn who_binds_while_the_primary_can_open_nothing_waits_for_it() {
    const LATE: &str = "
import http.server, signal, sys
signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1})
print('waits', flush=True)
signal.sigwait({signal.SIGUSR1})
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(204)
        self.end_headers()
http.server.HTTPServer(('127.0.0.1', int(sys.argv[1])), Handler).serve_forever()";
    let port = free_port();
    let options = ["-i", "1", "--dialect", "capture", "--ready", "started", "python3", "-c", LATE];
    let worksong = Worksong::run(options).args([port.to_string()]).start();
    let pid = *worksong.wait_ready(1).first().unwrap();
    worksong.wait_output("its beginning", |output| (output.line == "waits").then_some(()));
    let limit = leave_nothing(worksong.pid());
    process::kill(pid, Signal::USR1);
    worksong.wait_event("shortage", |event| event["of"] == "descriptors");
    give_back(worksong.pid(), limit);
    assert_eq!(worksong.wait_event("listening", |_| true)["port"], port);
    assert_eq!(http::get(port, "/").expect("an answer").status, 204);
    worksong.wait_event("shortage_over", |event| event["of"] == "descriptors");
    assert!(worksong.events().iter().all(|event| event.name() != "exit"), "nothing failed");
    stop(&worksong);
}

/// A shortage does not keep anybody from leaving.
#[test]
fn a_primary_that_can_open_nothing_stops() {
    let worksong = Worksong::run(["-i", "2"]).program(fixture("node/http.js")).start();
    worksong.wait_ready(2);
    leave_nothing(worksong.pid());
    stop(&worksong);
}

#[test]
fn connections_of_a_worker_without_descriptors_go_to_the_other() {
    let script =
        format!("[ $WORKSONG_SLOT = 0 ] && ulimit -n 40; exec node {}", fixture("node/http.js").display());
    let worksong =
        Worksong::run(["-i", "2", "--dialect", "node"]).program("sh").args(["-c", &script]).start();
    worksong.wait_ready(2);
    let port = worksong.listening_port();
    let mut answering = BTreeSet::new();
    // Each is kept open, far beyond what the first worker can have.
    let clients: Vec<http::Connection> = (0..100)
        .map(|_| {
            let mut client = http::Connection::open(port).unwrap();
            answering.insert(client.get("/").expect("an answer").json()["slot"].as_str().unwrap().to_owned());
            client
        })
        .collect();
    assert_eq!(answering.len(), 2, "the first worker took what it could");
    drop(clients);
}
