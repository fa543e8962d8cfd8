//! axum on every core: the example that the front page shows.
#![cfg(feature = "axum")]

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use rustix::process::Signal;
use worksong_testkit::http::{Connection, get};
use worksong_testkit::{Program, eventually};

/// The example prints nothing: its port is chosen here.
fn start() -> (Program, u16) {
    let free = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = free.local_addr().expect("bound").port();
    drop(free);
    let mut command = std::process::Command::new(worksong_testkit::binary("examples/hello_axum"));
    let program = Program::start(command.arg(format!("127.0.0.1:{port}")));
    eventually("the first answer", || get(port, "/").ok());
    (program, port)
}

#[test]
fn reloads_lose_no_request() {
    let (program, port) = start();
    let done = Arc::new(AtomicBool::new(false));
    let client = thread::spawn({
        let done = Arc::clone(&done);
        move || {
            while !done.load(Ordering::Relaxed) {
                get(port, "/").expect("an answer, in the midst of a reload too");
            }
        }
    });
    let who = || get(port, "/").expect("an answer").text().to_owned();
    for _ in 0..5 {
        let before = [who(), who(), who(), who()];
        program.signal(Signal::HUP);
        eventually("the next generation", || (!before.contains(&who())).then_some(()));
    }
    done.store(true, Ordering::Relaxed);
    client.join().expect("no request failed");
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
