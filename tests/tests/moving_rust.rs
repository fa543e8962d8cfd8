//! Rust workers whose open connections survive a reload: what `worksong::serve` is for.

use std::collections::BTreeSet;
use std::process::Command;

use serde_json::json;
use worksong_testkit::http::{Connection, Response, get};
use worksong_testkit::{Load, Program, Signal, Worksong, binary, eventually, free_port};

/// Clients with a connection each; every worker has some.
const CLIENTS: usize = 12;
const RELOADS: u32 = 20;

/// Reads `worker 1 of slot Some(0), process 9698`.
fn pid(answer: &Response) -> u32 {
    let name = answer.text().split_whitespace().last();
    name.and_then(|pid| pid.parse().ok()).expect("an answer names its process")
}

fn start(workers: &str, policy: &str) -> Worksong {
    let options = ["-i", workers, "--dialect", "native", "--policy", policy];
    let worksong = Worksong::run(options).program(binary("examples/hello_serve"));
    worksong.args(["127.0.0.1:0"]).start()
}

#[test]
fn twenty_reloads_end_no_connection() {
    for policy in ["round-robin", "shared", "kernel"] {
        let worksong = start("2", policy);
        let mut workers = worksong.wait_ready(2);
        let clients = Load::keep_alive(worksong.listening_port(), CLIENTS, pid);
        for reload in 1..=RELOADS {
            clients.wait_answers(4 * CLIENTS);
            worksong.signal(Signal::HUP);
            worksong.wait_event("reload_done", |event| event.generation() == reload + 1);
            workers.extend(worksong.worker_pids());
        }
        clients.wait_answers(4 * CLIENTS);
        let report = worksong.wait_event("reload_report", |event| event.generation() == RELOADS + 1);
        assert!(
            report["moved"].as_u64() >= Some(CLIENTS as u64) && report["cut"] == 0,
            "{policy}: {report:?}"
        );
        let answered = clients.finish_without_failure();
        assert!(answered.is_subset(&workers), "{policy}: {answered:?} of {workers:?}");
        assert!(answered.len() > RELOADS as usize, "{policy}: only {answered:?} of {workers:?} had clients");
        worksong.signal(Signal::TERM);
        assert_eq!(worksong.wait_exit().code(), Some(0));
        for exit in worksong.events().iter().filter(|event| event.name() == "exit") {
            assert_eq!((&exit["code"], &exit["voluntary"]), (&json!(0), &json!(true)), "{policy}: {exit:?}");
        }
    }
}

#[test]
fn a_connection_without_a_request_moves() {
    let worksong = start("1", "round-robin");
    let mut connection = Connection::open(worksong.listening_port()).unwrap();
    let old = worksong.wait_ready(1);
    worksong.signal(Signal::HUP);
    worksong.wait_event("exit", |event| old.contains(&event.pid()));
    let successor = worksong.wait_event("ready", |event| event.generation() == 2).pid();
    assert_eq!(pid(&connection.get("/").unwrap()), successor);
}

#[test]
fn half_a_request_keeps_its_connection_until_it_is_cut_and_counted() {
    let options = ["-i", "1", "--dialect", "native", "--drain-timeout", "3s"];
    let worksong =
        Worksong::run(options).program(binary("examples/hello_serve")).args(["127.0.0.1:0"]).start();
    let port = worksong.listening_port();
    let old = worksong.wait_ready(1);
    let mut halves = [Connection::open(port).unwrap(), Connection::open(port).unwrap()];
    let mut whole = Connection::open(port).unwrap();
    for half in &mut halves {
        half.send(b"GET / HTTP/1.1\r\nho").unwrap();
    }
    // Behind them on the only worker: they were read before.
    assert!(old.contains(&pid(&whole.get("/").unwrap())));
    worksong.signal(Signal::HUP);
    let successor = worksong.wait_event("ready", |event| event.generation() == 2).pid();
    eventually("the move of the idle connection", || {
        (pid(&whole.get("/").unwrap()) == successor).then_some(())
    });
    halves[0].send(b"st: a\r\n\r\n").unwrap();
    assert!(old.contains(&pid(&halves[0].read_response(false).unwrap())));
    eventually("its move after the answer", || {
        (pid(&halves[0].get("/").unwrap()) == successor).then_some(())
    });
    let report = worksong.wait_event("reload_report", |event| event.generation() == 2);
    assert_eq!((&report["moved"], &report["cut"]), (&json!(2), &json!(1)), "{report:?}");
}

#[test]
fn a_panic_costs_no_connection_but_its_own() {
    let worksong = start("2", "round-robin");
    let before = worksong.wait_ready(2);
    let port = worksong.listening_port();
    let clients = Load::keep_alive(port, CLIENTS, pid);
    clients.wait_answers(4 * CLIENTS);
    get(port, "/panic").expect_err("the handler is gone");
    let gone = worksong.wait_event("exit", |_| true).pid();
    worksong.wait_event("ready", |event| !before.contains(&event.pid()));
    clients.wait_answers(4 * CLIENTS);
    assert!(clients.finish_without_failure().contains(&gone), "it had clients");
}

#[test]
fn a_cluster_of_its_own_moves_connections_too() {
    // The example prints nothing: its port is chosen here.
    let port = free_port();
    let program =
        Program::start(Command::new(binary("examples/hello_serve")).arg(format!("127.0.0.1:{port}")));
    eventually("the first answer", || get(port, "/").ok());
    let clients = Load::keep_alive(port, CLIENTS, pid);
    let who = || pid(&get(port, "/").unwrap());
    for _ in 0..3 {
        let before: BTreeSet<u32> = (0..8).map(|_| who()).collect();
        program.signal(Signal::HUP);
        eventually("the next generation", || (!before.contains(&who())).then_some(()));
        clients.wait_answers(4 * CLIENTS);
    }
    clients.finish_without_failure();
    program.signal(Signal::TERM);
    assert!(program.wait_exit().success());
}
