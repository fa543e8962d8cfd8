//! axum on every core: the example that the front page shows.
#![cfg(feature = "axum")]

use rustix::process::Signal;
use worksong_testkit::http::{Connection, Response, get};
use worksong_testkit::{Load, Program, eventually, free_port};

/// The example prints nothing: its port is chosen here.
fn start() -> (Program, u16) {
    let port = free_port();
    let mut command = std::process::Command::new(worksong_testkit::binary("examples/hello_axum"));
    let program = Program::start(command.arg(format!("127.0.0.1:{port}")));
    eventually("the first answer", || get(port, "/").ok());
    (program, port)
}

/// Reads `worker 1 of slot Some(0), process 9698`.
fn pid(answer: &Response) -> u32 {
    answer
        .text()
        .split_whitespace()
        .last()
        .and_then(|pid| pid.parse().ok())
        .expect("an answer names its process")
}

#[test]
fn reloads_lose_no_request() {
    let (program, port) = start();
    let load = Load::start(port, pid);
    let who = || get(port, "/").expect("an answer").text().to_owned();
    for _ in 0..5 {
        let before = [who(), who(), who(), who()];
        program.signal(Signal::HUP);
        eventually("the next generation", || (!before.contains(&who())).then_some(()));
    }
    load.finish_without_failure();
    program.signal(Signal::TERM);
    assert!(program.wait_exit().success());
}

#[test]
fn an_idle_connection_does_not_hold_the_end_up() {
    let (program, port) = start();
    let mut kept = Connection::open(port).expect("a connection");
    kept.get("/").expect("an answer");
    program.signal(Signal::TERM);
    assert!(program.wait_exit().success());
}
