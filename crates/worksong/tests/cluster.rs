//! Whole clusters: the same binary as primary and as workers.

use std::collections::BTreeSet;

use rustix::process::Signal;
use worksong_testkit::http::{Connection, Response, get};
use worksong_testkit::process::Process;
use worksong_testkit::{Event, Launch, Load, Worksong, binary, eventually};

fn cluster(workers: usize) -> Launch {
    Worksong::with([workers.to_string()]).binary(binary("examples/cluster_test_program"))
}

fn text_pid(answer: &Response) -> u32 {
    answer.text().parse().expect("the answer is a pid")
}

fn pid_at(port: u16) -> u32 {
    text_pid(&get(port, "/").expect("an answer"))
}

#[test]
fn every_worker_serves_the_same_port() {
    let cluster = cluster(3).start();
    let ready = cluster.wait_ready(3);
    let port = cluster.listening_port();
    let served: BTreeSet<u32> = (0..30).map(|_| pid_at(port)).collect();
    assert_eq!(served, ready);
    assert!(!served.contains(&cluster.pid()), "the primary serves nothing itself");
    cluster.signal(Signal::TERM);
    assert_eq!(cluster.wait_exit().code(), Some(0));
    let printed: BTreeSet<String> = cluster.lines().iter().map(|line| line.text.clone()).collect();
    for worker in 1..=3 {
        assert!(printed.contains(&format!("worker {worker} prints")), "{printed:?}");
    }
}

#[test]
fn a_reload_replaces_every_worker_and_loses_no_request() {
    let cluster = cluster(2).start();
    let before = cluster.wait_ready(2);
    let port = cluster.listening_port();
    let load = Load::start(port, text_pid);
    load.wait_answers_of(&before);
    cluster.signal(Signal::HUP);
    cluster.wait_event("reload_done", |event| event.generation() == 2);
    for pid in &before {
        let exit = cluster.wait_event("exit", |event| event.pid() == *pid);
        assert_eq!((&exit["code"], &exit["voluntary"]), (&0.into(), &true.into()), "{exit:?}");
    }
    load.wait_answers_of(&cluster.wait_ready(2));
    load.finish_without_failure();
}

#[test]
fn a_panic_costs_its_own_request_only() {
    let cluster = cluster(1).start();
    let first = cluster.wait_ready(1);
    let port = cluster.listening_port();
    let mut slow = Connection::open(port).expect("a worker");
    slow.send(b"GET /slow HTTP/1.1\r\n\r\n").expect("sent");
    // The answer's head: the request is in progress on the only worker.
    get(port, "/").expect("an answer");
    get(port, "/panic").expect_err("the handler is gone");
    let pid = eventually("the successor", || Some(pid_at(port)).filter(|pid| !first.contains(pid)));
    slow.send(b"\n").expect("sent");
    let rest = slow.read_to_end().expect("the old worker finishes");
    assert!(rest.ends_with(b"slow and whole"), "{}", String::from_utf8_lossy(&rest));
    let exit = cluster.wait_event("exit", |event| first.contains(&event.pid()));
    assert_eq!((&exit["code"], &exit["voluntary"]), (&0.into(), &true.into()), "{exit:?}");
    assert_ne!(pid, exit.pid());
}

#[test]
fn a_worker_that_leaves_is_replaced_without_counting_a_crash() {
    let cluster = cluster(1).start();
    let first = cluster.wait_ready(1);
    let port = cluster.listening_port();
    get(port, "/leave").expect("an answer");
    let exit = cluster.wait_event("exit", |event| first.contains(&event.pid()));
    assert_eq!((&exit["code"], &exit["voluntary"]), (&0.into(), &true.into()), "{exit:?}");
    assert!(!first.contains(&pid_at(port)));
}

#[test]
fn an_error_is_the_recorded_cause_of_the_exit() {
    let cluster = cluster(1).start();
    let first = cluster.wait_ready(1);
    get(cluster.listening_port(), "/error").ok();
    let exit = cluster.wait_event("exit", |event| first.contains(&event.pid()));
    assert_eq!((&exit["code"], &exit["voluntary"]), (&1.into(), &false.into()), "{exit:?}");
    assert!(exit["stderr"].to_string().contains("the disk is full"), "{exit:?}");
}

#[test]
fn a_program_that_cannot_start_ends_the_cluster_with_its_cause() {
    let (status, lines) =
        Worksong::with(["1", "fails"]).binary(binary("examples/cluster_test_program")).finish();
    assert_eq!(status.code(), Some(1));
    let text: Vec<&str> = lines.iter().map(|line| line.text.as_str()).collect();
    assert!(text.contains(&"Error: the database is not there"), "{text:?}");
    let last = text.iter().rev().find(|line| line.starts_with("Error: ")).expect("an error");
    assert_eq!(
        *last,
        "Error: the workers of tested failed too often in a row; the last ended with exit code 1"
    );
}

#[test]
fn the_program_pauses_resumes_and_resizes_its_cluster() {
    let cluster = cluster(2).start();
    let both = cluster.wait_ready(2);
    let port = cluster.listening_port();
    let ask = |path| text_pid(&get(port, path).expect("an answer"));
    let who_answers = || (0..10).map(|_| pid_at(port)).collect::<BTreeSet<u32>>();

    let victim = ask("/pause");
    let paused = cluster.wait_event("paused", |_| true);
    assert_eq!((paused.pid(), &paused["in_rotation"]), (victim, &1.into()), "{paused:?}");
    eventually("connections for the other one alone", || (!who_answers().contains(&victim)).then_some(()));
    assert_eq!(who_answers(), both.iter().copied().filter(|pid| *pid != victim).collect());

    ask("/resume");
    assert_eq!(cluster.wait_event("resumed", |_| true).pid(), victim);
    eventually("connections for both", || (who_answers() == both).then_some(()));

    ask("/resize");
    let draining = cluster.wait_event("draining", |_| true);
    assert_eq!((draining.slot(), &draining["cause"]), (1, &"resize".into()), "{draining:?}");
    let exit = cluster.wait_event("exit", |event| event.pid() == draining.pid());
    assert_eq!((&exit["code"], &exit["voluntary"]), (&0.into(), &true.into()), "{exit:?}");
    assert!(!who_answers().contains(&draining.pid()));
}

#[test]
fn a_worker_is_ready_when_it_says_so() {
    let cluster = cluster(1).args(["message"]).start();
    assert_eq!(cluster.wait_ready(1), BTreeSet::from([pid_at(cluster.listening_port())]));
    let names: Vec<String> = cluster.events().iter().map(|event| event.name().to_owned()).collect();
    assert_eq!(names, ["forked", "online", "listening", "message", "ready"], "not when it listens");
}

#[test]
fn messages_reach_the_program_and_come_back() {
    let cluster = cluster(1).start();
    cluster.wait_ready(1);
    let answer = get(cluster.listening_port(), "/messages").expect("an answer");
    assert_eq!(answer.text(), "\"1 said \\\"hello\\\"\" \"to all\"");
}

#[test]
fn a_large_message_goes_both_ways_while_connections_are_handed_over() {
    let cluster = cluster(1).start();
    cluster.wait_ready(1);
    let port = cluster.listening_port();
    let load = Load::start(port, text_pid);
    load.wait_answers(1);
    let answer = get(port, "/large").expect("an answer");
    assert_eq!(answer.text(), "true true");
    load.wait_answers(1);
    load.finish_without_failure();
}

#[test]
fn no_message_of_a_flood_is_lost() {
    let cluster = cluster(1).start();
    cluster.wait_ready(1);
    let answer = get(cluster.listening_port(), "/flood").expect("an answer");
    assert_eq!(answer.text(), "20000");
}

#[test]
fn events_tell_the_life_of_a_worker() {
    let cluster = cluster(1).start();
    cluster.wait_ready(1);
    let port = cluster.listening_port();
    get(port, "/messages").expect("an answer");
    get(port, "/error").ok();
    cluster.wait_event("ready", |event| event.worker() == 2);
    let events = cluster.events();
    let numbers: Vec<u32> = events.iter().map(Event::seq).collect();
    assert_eq!(numbers, (1..).take(events.len()).collect::<Vec<_>>(), "no event is missed");
    let of_first = |event: &&Event| event.name() != "restart" && event.worker() == 1;
    let life: Vec<&Event> = events.iter().filter(of_first).collect();
    let names: Vec<&str> = life.iter().map(|event| event.name()).collect();
    assert_eq!(names, ["forked", "online", "listening", "ready", "message", "disconnect", "exit"]);
    for event in &life {
        assert_eq!((event.pid(), event.slot(), event.generation()), (life[0].pid(), 0, 1));
        assert_eq!(event["app"], "tested");
    }
    assert_eq!(life[2]["address"], format!("127.0.0.1:{port}"));
    assert!(life[3]["after_ms"].is_u64());
    assert_eq!(life[4]["body"], "hello");
    assert_eq!((&life[6]["code"], &life[6]["voluntary"]), (&1.into(), &false.into()));
    assert!(life[6]["uptime_ms"].is_u64());
    let restart = cluster.wait_event("restart", |_| true);
    assert_eq!((restart.slot(), &restart["failures"]), (0, &1.into()));
    assert!(restart["delay_ms"].is_u64());
}

#[cfg(feature = "multi-thread")]
#[test]
fn a_blocked_thread_leaves_the_worker_another() {
    let cluster = cluster(1).args(["threads"]).start();
    cluster.wait_ready(1);
    let port = cluster.listening_port();
    let mut blocking = Connection::open(port).expect("a worker");
    blocking.send(b"GET /block HTTP/1.1\r\n\r\n").expect("sent");
    for _ in 0..10 {
        get(port, "/").expect("an answer of the other thread");
    }
}

#[test]
fn sigterm_lets_requests_finish() {
    let cluster = cluster(1).start();
    cluster.wait_ready(1);
    let port = cluster.listening_port();
    let mut slow = Connection::open(port).expect("a worker");
    slow.send(b"GET /slow HTTP/1.1\r\n\r\n").expect("sent");
    get(port, "/").expect("an answer: the one before is in progress");
    cluster.signal(Signal::TERM);
    cluster.wait_event("draining", |_| true);
    slow.send(b"\n").expect("sent");
    let rest = slow.read_to_end().expect("the worker finishes");
    assert!(rest.ends_with(b"slow and whole"), "{}", String::from_utf8_lossy(&rest));
    assert_eq!(cluster.wait_exit().code(), Some(0));
}

#[test]
fn a_second_signal_ends_at_once() {
    let cluster = cluster(1).start();
    cluster.wait_ready(1);
    let port = cluster.listening_port();
    let mut slow = Connection::open(port).expect("a worker");
    slow.send(b"GET /slow HTTP/1.1\r\n\r\n").expect("sent");
    get(port, "/").expect("an answer: the one before is in progress");
    cluster.signal(Signal::INT);
    cluster.wait_event("draining", |_| true);
    // Another one than the first: the same so soon after it would be taken for its echo.
    cluster.signal(Signal::TERM);
    assert_eq!(cluster.wait_exit().code(), Some(1));
    assert!(
        cluster.lines().iter().any(|line| line.text == "Error: ended at once by a second signal, SIGTERM")
    );
}

#[test]
fn children_of_the_program_itself_are_its_own() {
    for mode in ["children", "children-apart"] {
        let cluster = cluster(1).args([mode]).start();
        cluster.wait_ready(1);
        // A second life of the slot: by then the engine has looked at ended children.
        get(cluster.listening_port(), "/error").ok();
        cluster.wait_event("ready", |event| event.worker() == 2);
        cluster.signal(Signal::TERM);
        assert_eq!(cluster.wait_exit().code(), Some(0));
        let lines = cluster.lines();
        let own: Vec<&str> = lines.iter().filter_map(|line| line.text.strip_prefix("own child: ")).collect();
        assert_eq!(own, ["exit status: 3", "runs"], "{mode}");
    }
}

#[test]
fn workers_end_with_their_killed_primary() {
    let cluster = cluster(2).start();
    let workers: Vec<Process> =
        cluster.wait_ready(2).into_iter().map(|pid| Process::find(pid).expect("it runs")).collect();
    cluster.signal(Signal::KILL);
    eventually("the end of all workers", || workers.iter().all(|worker| !worker.is_alive()).then_some(()));
}
