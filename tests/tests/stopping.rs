//! An app that is told to stop under load: who gets in is answered, who comes too late is refused, nobody is cut.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use worksong_testkit::http::{self, Address};
use worksong_testkit::{Folder, Launch, Signal, Worksong, eventually, fixture, patience};

const CLIENTS: usize = 4;
/// How often each app is stopped: what can go wrong is a matter of microseconds.
const ROUNDS: usize = 5;

/// Opens connections without pause until one is refused; returns how the others failed.
fn connect_until_refused(address: &Address, answers: &AtomicUsize) -> Vec<String> {
    let mut failures = Vec::new();
    loop {
        match http::get(address.clone(), "/") {
            Ok(answer) if answer.status == 200 => drop(answers.fetch_add(1, Ordering::Relaxed)),
            Ok(answer) => failures.push(format!("status {}", answer.status)),
            Err(http::Error::Connect(_)) => return failures,
            Err(error) => failures.push(error.to_string()),
        }
    }
}

fn port(worksong: &Worksong) -> Address {
    worksong.listening_port().into()
}

fn bound(worksong: &Worksong) -> Address {
    let bound = worksong.wait_event("bound", |_| true);
    let address: SocketAddr =
        bound["address"].as_str().and_then(|text| text.parse().ok()).expect("an address");
    address.into()
}

#[track_caller]
fn assert_stops_without_a_cut(launch: impl Fn() -> Launch, address_of: impl Fn(&Worksong) -> Address) {
    for round in 1..=ROUNDS {
        let worksong = launch().start();
        worksong.wait_ready(2);
        let address = address_of(&worksong);
        let answers = Arc::new(AtomicUsize::new(0));
        let clients: Vec<_> = (0..CLIENTS)
            .map(|_| {
                let (address, answers) = (address.clone(), Arc::clone(&answers));
                thread::spawn(move || connect_until_refused(&address, &answers))
            })
            .collect();
        eventually(&format!("answers within {:?}", patience()), || {
            (answers.load(Ordering::Relaxed) > 100).then_some(())
        });
        worksong.signal(Signal::TERM);
        let failures: Vec<String> =
            clients.into_iter().flat_map(|client| client.join().expect("a client goes on")).collect();
        assert!(failures.is_empty(), "round {round}: {failures:?}");
        assert!(worksong.wait_exit().success(), "round {round}");
    }
}

#[test]
fn connections_that_node_workers_are_handed_are_answered() {
    let launch = || Worksong::run(["-i", "2"]).program(fixture("node/http.js"));
    assert_stops_without_a_cut(launch, port);
}

#[test]
fn connections_that_node_workers_accept_are_answered() {
    for policy in ["shared", "kernel"] {
        let launch = || Worksong::run(["-i", "2", "--policy", policy]).program(fixture("node/http.js"));
        assert_stops_without_a_cut(launch, port);
    }
}

#[test]
fn connections_of_a_unix_socket_are_answered() {
    let folder = Folder::new();
    let path = folder.join("socket");
    let launch = || Worksong::run(["-i", "2"]).env("PORT", &path).program(fixture("node/http.js"));
    assert_stops_without_a_cut(launch, |_| path.as_path().into());
}

#[test]
fn connections_of_rust_workers_are_answered() {
    let launch = || Worksong::with(["demo", "--json", "-i", "2", "--listen", "127.0.0.1:0"]);
    assert_stops_without_a_cut(launch, port);
}

#[test]
fn connections_of_inherited_sockets_are_answered() {
    let launch =
        || Worksong::run(["-i", "2", "--listen", "127.0.0.1:0"]).program(fixture("python/activation.py"));
    assert_stops_without_a_cut(launch, bound);
}

/// A server below a shell, as `npm start` and many start scripts do it; the shell ends at the first SIGTERM.
///
/// The server answers a request one second after it was told to end, and drops everything when it is told twice.
const WRAPPED: &str = r#"
import os, signal, socket, sys, time
told = []
def terminate(*_):
    if told: os._exit(1)
    told.append(True)
signal.signal(signal.SIGTERM, terminate)
connection, _ = socket.socket(fileno=3).accept()
connection.recv(4096)
print("busy", flush=True)
while not told: signal.pause()
end = time.monotonic() + 1
while time.monotonic() < end: time.sleep(0.05)
connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
"#;

/// Starts the wrapped server, and a request that it is busy with.
fn busy_wrapped(folder: &Folder, options: &[&str]) -> (Worksong, thread::JoinHandle<bool>) {
    let server = folder.write("server.py", WRAPPED);
    let script = folder.write("start.sh", format!("python3 {}\ntrue\n", server.display()));
    let options = [&["-i", "1", "--listen", "127.0.0.1:0", "--dialect", "activation"], options].concat();
    let worksong = Worksong::run(options).program(script).start();
    worksong.wait_ready(1);
    let address = bound(&worksong);
    let client = thread::spawn(move || http::get(address, "/").is_ok_and(|answer| answer.status == 200));
    worksong.wait_output("a request", |line| (line.line == "busy").then_some(()));
    (worksong, client)
}

#[test]
fn a_server_below_a_shell_answers_what_it_has_begun() {
    let folder = Folder::new();
    let (worksong, client) = busy_wrapped(&folder, &[]);
    worksong.signal(Signal::TERM);
    assert!(client.join().unwrap(), "the request was cut");
    assert_eq!(worksong.wait_exit().code(), Some(0));
    assert!(worksong.events().iter().all(|event| event.name() != "signalled"), "{:?}", worksong.events());
}

#[test]
fn a_server_below_a_shell_answers_what_it_has_begun_before_a_reload() {
    let folder = Folder::new();
    // Its request takes longer than what a worker that was not let go leaves behind may take.
    let (worksong, client) = busy_wrapped(&folder, &["--kill-timeout", "1ms"]);
    worksong.signal(Signal::HUP);
    worksong.wait_event("reload_done", |_| true);
    assert!(client.join().unwrap(), "the request was cut");
}

#[test]
fn a_server_below_a_shell_ends_at_its_deadline_or_at_once() {
    for (drain, signals, code) in
        [("500ms", &[Signal::TERM][..], 0), ("10m", &[Signal::TERM, Signal::INT][..], 130)]
    {
        let folder = Folder::new();
        let (worksong, client) = busy_wrapped(&folder, &["--drain-timeout", drain]);
        for signal in signals {
            worksong.signal(*signal);
            worksong.wait_event("draining", |_| true);
        }
        assert_eq!(worksong.wait_exit().code(), Some(code));
        assert!(!client.join().unwrap(), "it was not ended");
    }
}
