//! What signals do: drain, end at once, reload under load, refuse a broken build.

use std::collections::BTreeSet;

use worksong_testkit::http::Response;
use worksong_testkit::{Event, Folder, Load, Signal, Worksong, eventually, fixture, http, process};

/// A worker that is busy with a request until the test lets it answer.
struct Busy {
    worksong: Worksong,
    connection: http::Connection,
    port: u16,
    folder: Folder,
}

impl Busy {
    fn start(options: &[&str]) -> Self {
        let folder = Folder::new();
        let launch = Worksong::run(["-i", "1"]).args(options).env("RELEASE", folder.join("release"));
        let worksong = launch.program(fixture("node/waits.js")).start();
        let port = worksong.listening_port();
        let mut connection = http::Connection::open(port).expect("the worker listens");
        let request = b"GET /wait HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n";
        connection.send(request).expect("the connection is open");
        worksong.wait_output("the request", |line| (line.line == "waiting").then_some(()));
        Self { worksong, connection, port, folder }
    }

    fn release(&self) {
        self.folder.write("release", "");
    }
}

#[test]
fn sigterm_and_sigint_let_a_request_finish() {
    for signal in [Signal::TERM, Signal::INT] {
        let mut busy = Busy::start(&[]);
        busy.worksong.signal(signal);
        let draining = busy.worksong.wait_event("draining", |_| true);
        assert_eq!(draining["cause"], "stop");
        assert!(matches!(http::get(busy.port, "/"), Err(http::Error::Connect(_))), "its sockets are closed");
        busy.release();
        let answer = busy.connection.read_response(false).expect("the request is finished");
        assert_eq!(answer.text(), draining.pid().to_string());
        assert_eq!(busy.worksong.wait_exit().code(), Some(0));
        let exit = busy.worksong.wait_event("exit", |_| true);
        assert_eq!((exit["code"].as_u64(), exit["voluntary"].as_bool()), (Some(0), Some(true)));
        let stopping = busy.worksong.wait_event("stopping", |_| true);
        assert_eq!(stopping["reason"], if signal == Signal::TERM { "SIGTERM" } else { "SIGINT" });
        assert!(!busy.worksong.events().iter().any(|event| event.name() == "signalled"));
    }
}

#[test]
fn a_drain_ends_with_sigterm_at_its_deadline() {
    let mut busy = Busy::start(&["--drain-timeout", "300ms"]);
    busy.worksong.signal(Signal::TERM);
    let signalled = busy.worksong.wait_event("signalled", |_| true);
    assert_eq!(signalled["signal"], "SIGTERM");
    assert_ne!(signalled["why"], "");
    let exit = busy.worksong.wait_event("exit", |_| true);
    assert_eq!(exit["signal"], "SIGTERM");
    assert!(matches!(busy.connection.read_response(false), Err(http::Error::NoAnswer(_))));
    assert_eq!(busy.worksong.wait_exit().code(), Some(0));
}

#[test]
fn a_worker_that_ignores_sigterm_gets_sigkill() {
    let options = ["-i", "1", "--drain-timeout", "200ms", "--kill-timeout", "3s"];
    let worksong = Worksong::run(options).program(fixture("node/crash.js")).args(["ignore-sigterm"]).start();
    worksong.wait_ready(1);
    worksong.signal(Signal::TERM);
    worksong.wait_output("the refusal", |line| line.line.contains("SIGTERM ignored").then_some(()));
    let exit = worksong.wait_event("exit", |_| true);
    assert_eq!(exit["signal"], "SIGKILL");
    assert_eq!(exit["voluntary"], true, "it was asked to leave");
    assert_eq!(worksong.wait_exit().code(), Some(0));
    let signals: Vec<Event> =
        worksong.events().into_iter().filter(|event| event.name() == "signalled").collect();
    let names: Vec<&str> = signals.iter().filter_map(|event| event["signal"].as_str()).collect();
    assert_eq!(names, ["SIGTERM", "SIGKILL"]);
}

#[test]
fn a_second_signal_ends_everything_at_once() {
    for (first, second, code) in [(Signal::TERM, Signal::TERM, 143), (Signal::TERM, Signal::INT, 130)] {
        let busy = Busy::start(&["--drain-timeout", "10m"]);
        busy.worksong.signal(first);
        let worker = busy.worksong.wait_event("draining", |_| true).pid();
        let primary = busy.worksong.pid();
        // The same signal so soon after the first may be taken for its echo: whoever means it sends it again.
        eventually("the end of the primary", || {
            process::kill(primary, second);
            (!process::alive(primary)).then_some(())
        });
        assert_eq!(busy.worksong.wait_exit().code(), Some(code));
        assert!(!process::alive(worker));
    }
}

/// Asserts that every worker of a generation was ready before its predecessor was told to leave.
fn assert_no_gap(events: &[Event], generation: u32) {
    let mut ready: BTreeSet<u32> = BTreeSet::new();
    for event in events {
        match event.name() {
            "ready" if event.generation() == generation => drop(ready.insert(event.slot())),
            "draining" if event.generation() + 1 == generation && event["cause"] == "reload" => {
                assert!(ready.contains(&event.slot()), "slot {} was empty for a while", event.slot());
            }
            _ => {}
        }
    }
}

#[test]
fn sighup_and_sigusr2_reload_under_load_without_a_failure() {
    let worksong = Worksong::run(["-i", "2"]).program(fixture("node/http.js")).start();
    let mut pids = worksong.wait_ready(2);
    let load = Load::start(worksong.listening_port(), Response::json_pid);
    load.wait_answers_of(&pids);
    let mut served = pids.clone();
    for (signal, generation) in [(Signal::HUP, 2), (Signal::USR2, 3)] {
        worksong.signal(signal);
        worksong.wait_event("reload_done", |event| event.generation() == generation);
        let successors: BTreeSet<u32> = worksong
            .events()
            .iter()
            .filter(|event| event.name() == "ready" && event.generation() == generation)
            .map(Event::pid)
            .collect();
        assert_eq!(successors.len(), 2);
        assert!(successors.is_disjoint(&pids));
        for pid in pids {
            let exit = worksong.wait_event("exit", |event| event.pid() == pid);
            assert_eq!((exit["code"].as_u64(), exit["voluntary"].as_bool()), (Some(0), Some(true)));
        }
        load.wait_answers_of(&successors);
        assert_no_gap(&worksong.events(), generation);
        served.extend(&successors);
        pids = successors;
    }
    assert_eq!(load.finish_without_failure(), served, "all workers of all generations served");
}

#[test]
fn a_reload_lets_a_long_request_of_the_old_worker_finish() {
    let mut busy = Busy::start(&[]);
    busy.worksong.signal(Signal::HUP);
    busy.worksong.wait_event("reload_done", |event| event.generation() == 2);
    let old = busy.worksong.wait_event("draining", |_| true).pid();
    let answer = http::get(busy.port, "/").unwrap();
    assert_ne!(answer.text(), old.to_string(), "the successor serves");
    busy.release();
    assert_eq!(busy.connection.read_response(false).unwrap().text(), old.to_string());
    let exit = busy.worksong.wait_event("exit", |event| event.pid() == old);
    assert_eq!(exit["code"], 0);
}

#[test]
fn a_reload_of_a_broken_build_keeps_the_old_workers_and_says_why() {
    let folder = Folder::new();
    let bad = folder.join("bad");
    let worksong =
        Worksong::run(["-i", "2"]).program(fixture("node/crash.js")).args(["throw-if"]).args([&bad]).start();
    let pids = worksong.wait_ready(2);
    let load = Load::start(worksong.listening_port(), Response::json_pid);
    folder.write("bad", "");
    worksong.signal(Signal::HUP);
    let failed = worksong.wait_event("reload_failed", |_| true);
    assert_eq!(failed.generation(), 2);
    let reason = failed["reason"].as_str().unwrap();
    assert!(reason.contains("exit code 1"), "{reason}");
    let last_words = failed["stderr"].to_string();
    assert!(last_words.contains(&format!("crash.js found {}", bad.display())), "{last_words}");
    load.wait_answers_of(&pids);
    assert_eq!(load.finish_without_failure(), pids, "only the old workers served");
    assert_eq!(worksong.worker_pids(), pids);

    std::fs::remove_file(&bad).unwrap();
    worksong.signal(Signal::HUP);
    let done = worksong.wait_event("reload_done", |_| true);
    assert!(done.generation() > 2);
}

#[test]
fn a_reload_to_a_build_that_is_never_ready_fails_at_its_deadline() {
    let folder = Folder::new();
    let program = folder.write(
        "idle.js",
        "if (require('node:fs').existsSync(process.argv[2])) {\n\
           console.error('still loading'); setInterval(() => {}, 1 << 30);\n\
         }\n\
         else require('node:http').createServer((_, response) => response.end('old')).listen(0);\n",
    );
    let worksong = Worksong::run(["-i", "1", "--ready-timeout", "2s"])
        .program(program)
        .args([folder.join("bad")])
        .start();
    let pids = worksong.wait_ready(1);
    folder.write("bad", "");
    worksong.signal(Signal::HUP);
    let failed = worksong.wait_event("reload_failed", |_| true);
    assert!(failed["reason"].as_str().unwrap().contains("ready"), "{:?}", failed["reason"]);
    assert_eq!(failed["stderr"][0], "still loading", "a worker that lives has last words, too");
    let refused = worksong.wait_event("exit", |event| event.generation() == 2);
    assert_eq!(failed["worker"], refused["worker"]);
    assert!(!pids.contains(&refused.pid()));
    assert_eq!(http::get(worksong.listening_port(), "/").unwrap().text(), "old");
    assert_eq!(worksong.worker_pids(), pids);
}

#[test]
fn a_failed_reload_is_told_once_in_the_terminal() {
    let folder = Folder::new();
    let bad = folder.join("bad");
    let worksong = Worksong::with(["run", "-i", "1"])
        .program(fixture("node/crash.js"))
        .args(["throw-if"])
        .args([&bad])
        .start();
    let told = |text: &str| worksong.lines().iter().filter(|line| line.text.contains(text)).count();
    eventually("a ready worker", || (told("is ready") > 0).then_some(()));
    folder.write("bad", "");
    worksong.signal(Signal::HUP);
    eventually("the failure", || (told("is not reloaded") > 0).then_some(()));
    worksong.signal(Signal::TERM);
    assert_eq!(worksong.wait_exit().code(), Some(0));
    let reason = "ended before it was ready";
    assert_eq!((told("is not reloaded"), told(reason), told("reload failed")), (1, 1, 0));
    assert!(told("  | ") > 0, "its last words");
}

#[test]
fn a_reload_revives_a_slot_that_was_given_up() {
    let folder = Folder::new();
    let bad = folder.join("bad-1");
    let program = folder.write(
        "partly.js",
        "if (require('node:fs').existsSync(`${process.argv[2]}-${process.env.WORKSONG_SLOT}`)) process.exit(1);\n\
         require('node:http').createServer((_, response) => response.end('fine')).listen(0);\n",
    );
    folder.write("bad-1", "");
    let worksong = Worksong::run(["-i", "2", "--restart-delay", "1ms", "--max-restarts", "2"])
        .program(program)
        .args([folder.join("bad")])
        .start();
    worksong.wait_event("errored", |event| event.slot() == 1);
    std::fs::remove_file(bad).unwrap();
    worksong.signal(Signal::HUP);
    worksong.wait_event("reload_done", |_| true);
    worksong.wait_event("ready", |event| event.slot() == 1 && event.generation() == 2);
}

#[test]
fn a_signal_at_the_very_start_still_drains() {
    let worksong = Worksong::run(["-i", "2"]).program(fixture("node/http.js")).start();
    worksong.wait_event("forked", |_| true);
    worksong.signal(Signal::TERM);
    assert_eq!(worksong.wait_exit().code(), Some(0));
    assert!(worksong.worker_pids().is_empty());
}
