//! Rust workers, made with worksong-worker, under the worksong binary.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, Permissions};
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::thread;

use serde_json::json;
use worksong_testkit::http::{self, Response};
use worksong_testkit::{Event, Folder, Launch, Load, Signal, Worksong, binary, patience, process};

const POLICIES: [&str; 3] = ["round-robin", "shared", "kernel"];

/// Workers that tell by `listening` that they are ready, so that a reload waits for it.
fn launch(workers: usize, policy: &str) -> Launch {
    Worksong::run(["--dialect", "native", "--policy", policy, "-i", &workers.to_string()])
        .program(binary("examples/under_node"))
}

/// Returns the port of the first listener whose address begins so.
fn port_of(worksong: &Worksong, address: &str) -> u16 {
    let is_it = |event: &Event| event["address"].as_str().is_some_and(|text| text.starts_with(address));
    let event = worksong.wait_event("listening", is_it);
    event["port"].as_u64().and_then(|port| u16::try_from(port).ok()).expect("a port")
}

fn tcp_port(worksong: &Worksong) -> u16 {
    port_of(worksong, "127.0.0.1:")
}

fn pid(answer: &Response) -> u32 {
    answer.header("pid").and_then(|pid| pid.parse().ok()).expect("every answer has a pid")
}

/// A request that a worker has begun to answer; it waits for [`finish`](Slow::finish).
struct Slow {
    stream: TcpStream,
    pid: u32,
}

impl Slow {
    fn begin(port: u16) -> Self {
        let mut stream = TcpStream::connect(("127.0.0.1", port)).expect("a connection");
        stream.set_read_timeout(Some(patience())).expect("a timeout");
        stream.write_all(b"GET /slow HTTP/1.1\r\n\r\n").expect("sent");
        let mut head = Vec::new();
        while !head.ends_with(b"slow ") {
            let mut byte = [0];
            stream.read_exact(&mut byte).expect("the first part of the answer");
            head.extend(byte);
        }
        let head = String::from_utf8(head).expect("text");
        let pid = head.lines().find_map(|line| line.strip_prefix("pid: ")?.parse().ok());
        Self { stream, pid: pid.expect("a pid") }
    }

    /// Lets the worker go on, and asserts that the answer is whole.
    #[track_caller]
    fn finish(mut self) {
        self.stream.write_all(b"\n").expect("the worker still reads");
        let mut rest = String::new();
        self.stream.read_to_string(&mut rest).expect("the worker finishes");
        assert!(rest.starts_with("worker "), "{rest:?}");
    }
}

#[track_caller]
fn assert_left_in_good_order(exit: &Event) {
    assert_eq!((&exit["code"], &exit["voluntary"]), (&json!(0), &json!(true)), "{exit:?}");
}

#[test]
fn every_worker_answers() {
    for policy in POLICIES {
        let worksong = launch(3, policy).start();
        let workers = worksong.wait_ready(3);
        let port = tcp_port(&worksong);
        let mut served: BTreeMap<u32, usize> = BTreeMap::new();
        for _ in 0..60 {
            *served.entry(pid(&http::get(port, "/").unwrap())).or_default() += 1;
        }
        if policy == "round-robin" {
            assert_eq!(served.keys().copied().collect::<BTreeSet<_>>(), workers);
            assert!(served.values().all(|count| *count >= 15), "{served:?}");
        } else {
            assert!(served.keys().all(|pid| workers.contains(pid)), "{served:?}");
        }
    }
}

#[test]
fn an_executable_is_recognised_without_an_option() {
    let worksong = Worksong::run(["-i", "2"]).program(binary("examples/under_node")).start();
    let workers = worksong.wait_ready(2);
    assert!(workers.contains(&pid(&http::get(tcp_port(&worksong), "/").unwrap())));
}

/// Nothing is known of an executable before it has listened; from then on a reload expects that of it.
#[test]
fn a_reload_of_a_recognised_executable_waits_until_it_listens() {
    let folder = Folder::new();
    let program = folder.join("server");
    let deploy = |build: &Path| {
        let new = folder.join("new");
        symlink(build, &new).expect("a fresh name");
        fs::rename(new, &program).expect("a folder of our own");
    };
    deploy(&binary("examples/under_node"));
    let options = ["-i", "1", "--ready-timeout", "3s"];
    let worksong = Worksong::run(options).program(&program).args(["127.0.0.1:0"]).start();
    let old = worksong.wait_ready(1);
    let port = tcp_port(&worksong);

    // It speaks the protocol and hangs before it listens.
    let online = r#"{"cmd":"NODE_CLUSTER","act":"online","seq":1}"#;
    let script = format!("#!/bin/sh\necho '{online}' >&$NODE_CHANNEL_FD\nexec sleep 1000\n");
    let hanging = folder.write("hanging", &script);
    fs::set_permissions(&hanging, Permissions::from_mode(0o755)).expect("a file of our own");
    deploy(&hanging);
    worksong.signal(Signal::HUP);
    worksong.wait_event("online", |event| event.generation() == 2);
    let failed = worksong.wait_event("reload_failed", |_| true);
    assert!(
        failed["reason"].as_str().is_some_and(|reason| reason.contains("not ready within 3s")),
        "{failed:?}"
    );
    assert!(old.contains(&pid(&http::get(port, "/").unwrap())));

    deploy(&binary("examples/under_node"));
    worksong.signal(Signal::HUP);
    worksong.wait_event("reload_done", |event| event.generation() == 3);
    assert!(!old.contains(&pid(&http::get(port, "/").unwrap())));
}

#[test]
fn datagrams_are_answered() {
    let worksong = launch(2, "round-robin").start();
    let port = port_of(&worksong, "udp ");
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.set_read_timeout(Some(patience())).unwrap();
    socket.send_to(b"hello", ("127.0.0.1", port)).unwrap();
    let mut answer = [0; 16];
    let (length, _peer) = socket.recv_from(&mut answer).unwrap();
    assert_eq!(&answer[..length], b"hello");
}

#[test]
fn a_message_is_an_event() {
    let worksong = launch(1, "round-robin").start();
    http::get(tcp_port(&worksong), "/send").unwrap();
    let message = worksong.wait_event("message", |_| true);
    assert_eq!(message["body"], json!(["asked", 1]));
    assert_eq!(message.worker(), 1);
}

#[test]
fn sigterm_lets_requests_finish() {
    for policy in POLICIES {
        let worksong = launch(2, policy).start();
        worksong.wait_ready(2);
        let slow = Slow::begin(tcp_port(&worksong));
        worksong.signal(Signal::TERM);
        worksong.wait_event("draining", |event| event.pid() == slow.pid);
        slow.finish();
        assert_eq!(worksong.wait_exit().code(), Some(0));
        for exit in worksong.events().iter().filter(|event| event.name() == "exit") {
            assert_left_in_good_order(exit);
        }
    }
}

#[test]
fn a_reload_finishes_what_has_begun_and_loses_nothing() {
    for policy in POLICIES {
        let worksong = launch(2, policy).start();
        let before = worksong.wait_ready(2);
        let port = tcp_port(&worksong);
        let slow = Slow::begin(port);
        let load = Load::start(port, pid);
        load.wait_answers(20);
        worksong.signal(Signal::HUP);
        worksong.wait_event("draining", |event| event.pid() == slow.pid);
        load.wait_answers(20);
        slow.finish();
        worksong.wait_event("reload_done", |event| event.generation() == 2);
        load.wait_answers(20);
        load.finish_without_failure();
        for pid in &before {
            assert_left_in_good_order(&worksong.wait_event("exit", |event| event.pid() == *pid));
        }
        assert!(!before.contains(&pid(&http::get(port, "/").unwrap())));
    }
}

#[test]
fn a_panic_costs_its_own_request_only() {
    for policy in POLICIES {
        let worksong = launch(2, policy).start();
        let before = worksong.wait_ready(2);
        let port = tcp_port(&worksong);
        // On both workers something is in progress: the one that panics has to finish it as well.
        let mut slow = vec![Slow::begin(port)];
        while slow.iter().map(|slow| slow.pid).collect::<BTreeSet<_>>() != before {
            slow.push(Slow::begin(port));
        }
        let load = Load::start(port, pid);
        load.wait_answers(20);
        http::get(port, "/panic").expect_err("the handler is gone");
        let leaves = worksong.wait_event("draining", |_| true);
        assert_eq!(leaves["cause"], "asked");
        let successor = worksong.wait_event("ready", |event| !before.contains(&event.pid()));
        assert_eq!(successor.slot(), leaves.slot());
        load.wait_answers(20);
        slow.into_iter().for_each(Slow::finish);
        let exit = worksong.wait_event("exit", |_| true);
        assert_eq!(exit.pid(), leaves.pid());
        assert_left_in_good_order(&exit);
        assert!(exit["stderr"].to_string().contains("a handler fails"), "{exit:?}");
        load.finish_without_failure();
        let stays = before.iter().find(|pid| **pid != exit.pid()).expect("there were two");
        assert!(process::alive(*stays));
    }
}

#[test]
fn a_killed_worker_is_replaced_and_others_go_on() {
    let worksong = launch(2, "round-robin").start();
    let before = worksong.wait_ready(2);
    let slow = Slow::begin(tcp_port(&worksong));
    let other = *before.iter().find(|pid| **pid != slow.pid).expect("there are two");
    process::kill(other, Signal::KILL);
    let exit = worksong.wait_event("exit", |_| true);
    assert_eq!((exit.pid(), &exit["signal"], &exit["voluntary"]), (other, &json!("SIGKILL"), &json!(false)));
    let successor = worksong.wait_event("ready", |event| !before.contains(&event.pid()));
    assert_eq!(successor.slot(), exit.slot());
    slow.finish();
}

#[test]
fn a_port_in_use_is_reported_with_its_holder() {
    let holder = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = holder.local_addr().unwrap().to_string();
    let worksong = Worksong::run(["-i", "1", "--dialect", "native", "--max-restarts", "1"])
        .program(binary("examples/under_node"))
        .args([&address])
        .start();
    let failed = worksong.wait_event("listen_failed", |_| true);
    assert_eq!(failed["address"], address);
    let reason = failed["reason"].as_str().expect("a reason");
    assert!(reason.contains(&std::process::id().to_string()), "{reason:?} does not name the holder");
    let exit = worksong.wait_event("exit", |_| true);
    assert_eq!((&exit["code"], &exit["voluntary"]), (&json!(1), &json!(false)));
    assert!(exit["stderr"].to_string().contains(&address), "{exit:?}");
    assert!(failed.seq() < exit.seq(), "the cause is told before the end");
    assert_eq!(worksong.wait_exit().code(), Some(1));
}

/// Each of many connections is answered with its own answer, and no worker has seen more than there were.
#[test]
fn twenty_thousand_connections_are_answered_exactly_once() {
    const CLIENTS: usize = 8;
    const EACH: usize = 2_500;
    let worksong = launch(4, "round-robin").start();
    worksong.wait_ready(4);
    let port = tcp_port(&worksong);
    let clients: Vec<_> = (0..CLIENTS)
        .map(|client| {
            thread::spawn(move || {
                for number in 0..EACH {
                    let path = format!("/{client}/{number}");
                    let answer = http::get(port, &path).unwrap_or_else(|error| panic!("{path}: {error}"));
                    assert_eq!(answer.header("path"), Some(path.as_str()));
                }
            })
        })
        .collect();
    for client in clients {
        client.join().expect("every request was answered");
    }
    worksong.signal(Signal::TERM);
    assert_eq!(worksong.wait_exit().code(), Some(0));
    let answered: Vec<usize> = worksong
        .output()
        .iter()
        .filter_map(|output| output.line.strip_prefix("answered ")?.parse().ok())
        .collect();
    assert_eq!(answered.len(), 4, "every worker says how many it answered");
    assert_eq!(answered.iter().sum::<usize>(), CLIENTS * EACH, "{answered:?}");
    assert!(answered.iter().all(|count| *count > CLIENTS * EACH / 8), "uneven: {answered:?}");
}
