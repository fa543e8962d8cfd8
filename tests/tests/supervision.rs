//! How workers end and come back: causes, back-off, the crash-loop limit, voluntary ends, hung workers.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::ExitStatusExt;
use std::thread;

use worksong_testkit::{Event, Folder, Launch, Signal, Worksong, fixture, http, process};

fn crash(options: &[&str], arguments: &[&str]) -> Launch {
    Worksong::run(["-i", "1", "--restart-delay", "20ms"])
        .args(options)
        .program(fixture("node/crash.js"))
        .args(arguments)
}

fn first_exit(arguments: &[&str]) -> Event {
    let worksong = crash(&["--max-restarts", "2"], arguments).start();
    worksong.wait_event("exit", |_| true)
}

fn stderr(exit: &Event) -> Vec<&str> {
    let lines = exit["stderr"].as_array().map(Vec::as_slice).unwrap_or_default();
    lines.iter().filter_map(|line| line.as_str()).collect()
}

#[test]
fn an_exit_code_is_reported_with_the_last_words() {
    let exit = first_exit(&["exit", "7"]);
    assert_eq!(exit["code"], 7);
    assert!(!exit.has("signal"));
    assert_eq!(exit["voluntary"], false);
    assert_eq!(stderr(&exit), ["crash.js exits with 7"]);
    assert!(exit["uptime_ms"].is_u64());
}

#[test]
fn an_exception_is_reported_with_its_trace() {
    let exit = first_exit(&["throw"]);
    assert_eq!(exit["code"], 1);
    let lines = stderr(&exit);
    assert!(lines.contains(&"Error: crash.js was told to throw"), "{lines:?}");
    assert!(lines.iter().any(|line| line.trim_start().starts_with("at ")), "{lines:?}");
}

#[test]
fn an_end_by_signal_is_reported_by_name() {
    let exit = first_exit(&["signal", "SIGSEGV"]);
    assert_eq!(exit["signal"], "SIGSEGV");
    assert!(!exit.has("code"));
    assert_eq!(exit["voluntary"], false);
    assert_eq!(first_exit(&["abort"])["signal"], "SIGABRT");
}

#[test]
fn an_exit_with_code_0_that_nobody_asked_for_is_a_failure() {
    let worksong = crash(&["--max-restarts", "2"], &["exit", "0"]).start();
    let exit = worksong.wait_event("exit", |_| true);
    assert_eq!((exit["code"].as_u64(), exit["voluntary"].as_bool()), (Some(0), Some(false)));
    assert_eq!(worksong.wait_exit().code(), Some(1));
}

#[test]
fn only_the_last_lines_are_kept() {
    let folder = Folder::new();
    let script = folder.write("talks.sh", "for n in $(seq 500); do echo line $n >&2; done; exit 1\n");
    let worksong =
        Worksong::run(["-i", "1", "--max-restarts", "1", "--ready", "started"]).program(script).start();
    let exit = worksong.wait_event("exit", |_| true);
    let lines = stderr(&exit);
    assert_eq!(lines.last(), Some(&"line 500"));
    assert_eq!(lines.len(), 40);
    assert_eq!(lines[0], "line 461");
}

#[test]
fn restarts_are_delayed_more_and_more_until_the_slot_is_given_up() {
    let worksong = crash(&["--max-restarts", "6"], &["exit", "3"]).start();
    assert_eq!(worksong.wait_exit().code(), Some(1));

    let events = worksong.events();
    let restarts: Vec<&Event> = events.iter().filter(|event| event.name() == "restart").collect();
    assert_eq!(restarts.len(), 5);
    for (index, restart) in restarts.iter().enumerate() {
        assert_eq!(restart["failures"], index + 1);
        assert_eq!(restart.slot(), 0);
        let exact = 20_u64 << index;
        let delay = restart["delay_ms"].as_u64().unwrap();
        // A quarter of jitter, and whole milliseconds.
        assert!(
            delay + 1 >= exact * 3 / 4 && delay <= exact * 5 / 4,
            "delay {delay}, about {exact} expected"
        );
    }
    let errored = events.last().unwrap();
    assert_eq!((errored.name(), errored.slot()), ("errored", 0));
    assert_eq!(errored["failures"], 6);
    assert_eq!(events.iter().filter(|event| event.name() == "forked").count(), 6);
}

#[test]
fn a_slot_that_was_given_up_leaves_the_others_alone() {
    let folder = Folder::new();
    let program = folder.write(
        "half.js",
        "if (process.env.WORKSONG_SLOT === '1') process.exit(9);\n\
         require('node:http').createServer((_, response) => response.end('fine')).listen(0);\n",
    );
    let options = ["-i", "2", "--restart-delay", "5ms", "--max-restarts", "3"];
    let worksong = Worksong::run(options).program(program).start();
    let port = worksong.listening_port();
    worksong.wait_event("errored", |event| event.slot() == 1);
    for _ in 0..5 {
        assert_eq!(http::get(port, "/").unwrap().text(), "fine");
    }
    worksong.signal(Signal::TERM);
    assert_eq!(worksong.wait_exit().code(), Some(0));
}

#[test]
fn a_program_that_vanishes_is_a_failure() {
    let folder = Folder::new();
    let program = folder.write("server.sh", "#!/bin/sh\necho up\nexec sleep 1000\n");
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
    let options = ["-i", "1", "--restart-delay", "5ms", "--max-restarts", "3"];
    let worksong = Worksong::run(options).program(&program).start();
    worksong.wait_output("its start", |output| (output.line == "up").then_some(()));
    fs::remove_file(&program).unwrap();
    process::kill(worksong.wait_event("ready", |_| true).pid(), Signal::KILL);
    assert_eq!(worksong.wait_exit().code(), Some(1));
    let errored = worksong.wait_event("errored", |_| true);
    assert_eq!(errored["failures"], 3);
}

/// Leaves after it has answered to `/leave`, when it is at least `$AGE` seconds old.
const LEAVES: &str = "
const cluster = require('node:cluster');
require('node:http').createServer((request, response) => {
  response.end(String(process.pid));
  if (request.url !== '/leave') return;
  const leave = () => process.uptime() < process.env.AGE ? setTimeout(leave, 10) : cluster.worker.kill();
  response.on('close', leave);
}).listen(0);
";

#[test]
fn a_worker_that_leaves_by_itself_is_replaced_at_once() {
    let folder = Folder::new();
    let program = folder.write("leaves.js", LEAVES);
    // With a delay its replacement would come long after the test's patience.
    let options = ["-i", "1", "--restart-delay", "10m", "--env", "AGE=1.5"];
    let worksong = Worksong::run(options).program(program).start();
    let port = worksong.listening_port();
    let first = http::get(port, "/leave").unwrap().text().to_owned();
    let exit = worksong.wait_event("exit", |_| true);
    assert_eq!(exit["voluntary"], true);
    assert_eq!(exit["code"], 0);
    assert_eq!(exit.pid().to_string(), first);
    worksong.wait_event("ready", |event| event.pid() != exit.pid() && event.slot() == exit.slot());
    assert_ne!(http::get(port, "/").unwrap().text(), first);
    assert!(!worksong.events().iter().any(|event| event.has("failures")), "leaving is no failure");
}

#[test]
fn a_worker_that_leaves_in_its_first_second_backs_off_like_a_crash() {
    let folder = Folder::new();
    let program = folder.write("leaves.js", "require('node:cluster').worker.kill();");
    let options = ["-i", "1", "--restart-delay", "1ms", "--max-restarts", "3"];
    let worksong = Worksong::run(options).program(program).start();
    assert_eq!(worksong.wait_exit().code(), Some(1));
    let errored = worksong.wait_event("errored", |_| true);
    assert_eq!(errored["failures"], 3);
}

#[test]
fn a_killed_worker_comes_back_on_the_same_port() {
    let worksong = Worksong::run(["-i", "2"]).program(fixture("node/http.js")).start();
    let pids = worksong.wait_ready(2);
    let port = worksong.listening_port();
    let victim = *pids.first().unwrap();
    process::kill(victim, Signal::KILL);
    let exit = worksong.wait_event("exit", |event| event.pid() == victim);
    assert_eq!(exit["signal"], "SIGKILL");
    assert_eq!(exit["voluntary"], false);
    let successor =
        worksong.wait_event("ready", |event| event.slot() == exit.slot() && event.pid() != victim);
    let listening = worksong.wait_event("listening", |event| event.pid() == successor.pid());
    assert_eq!(listening["port"], port);
    assert_eq!(successor.generation(), 1);
}

#[test]
fn a_hung_worker_is_killed_and_its_connections_are_served_by_others() {
    let folder = Folder::new();
    let program = folder.write(
        "hangs.js",
        "require('node:http').createServer((request, response) => {\n\
           if (request.url === '/hang') { console.log('hangs'); for (;;); }\n\
           response.end(String(process.pid));\n\
         }).listen(0);\n",
    );
    let worksong = Worksong::run(["-i", "2", "--hung-timeout", "3s"]).program(program).start();
    let pids = worksong.wait_ready(2);
    let port = worksong.listening_port();
    let mut hanging = http::Connection::open(port).unwrap();
    hanging.send(b"GET /hang HTTP/1.1\r\nhost: a\r\n\r\n").unwrap();
    let slot =
        worksong.wait_output("the worker that hangs", |line| (line.line == "hangs").then_some(line.slot));

    let clients: Vec<_> = (0..20)
        .map(|_| thread::spawn(move || http::get(port, "/").map(|answer| answer.text().to_owned())))
        .collect();
    let answers: Vec<String> =
        clients.into_iter().map(|client| client.join().unwrap().expect("no connection is lost")).collect();

    let exit = worksong.wait_event("exit", |event| event.slot() == slot);
    assert_eq!(exit["signal"], "SIGKILL");
    assert!(pids.contains(&exit.pid()));
    assert!(!answers.contains(&exit.pid().to_string()));
    let unresponsive = worksong.wait_event("unresponsive", |_| true);
    assert_eq!(unresponsive.pid(), exit.pid());
    worksong.wait_event("ready", |event| event.slot() == slot && event.pid() != exit.pid());
    assert!(hanging.read_response(false).is_err(), "what it was busy with ends with it");
}

#[test]
fn a_stopped_worker_is_taken_for_hung() {
    let worksong =
        Worksong::run(["-i", "2", "--hung-timeout", "3s"]).program(fixture("node/http.js")).start();
    let victim = *worksong.wait_ready(2).first().unwrap();
    let port = worksong.listening_port();
    process::kill(victim, Signal::STOP);
    for _ in 0..10 {
        let answer = http::get(port, "/").expect("no connection is lost").json();
        assert_ne!(answer["pid"], victim);
    }
    let exit = worksong.wait_event("exit", |event| event.pid() == victim);
    assert_eq!(exit["signal"], "SIGKILL");
    worksong.wait_event("ready", |event| event.slot() == exit.slot() && event.pid() != victim);
}

#[test]
fn the_primary_reports_its_own_end_only_by_its_code() {
    let worksong = Worksong::run(["-i", "1"]).program(fixture("node/http.js")).start();
    worksong.wait_ready(1);
    worksong.signal(Signal::TERM);
    let status = worksong.wait_exit();
    assert_eq!((status.code(), status.signal()), (Some(0), None));
    assert_eq!(worksong.events().last().unwrap().name(), "stopped");
}
