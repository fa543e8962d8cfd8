//! `--policy kernel`: each worker accepts from a socket of its own.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{Ipv4Addr, SocketAddrV4, TcpStream};
use std::time::Duration;

use rustix::net::sockopt::{set_socket_linger, set_socket_reuseaddr};
use rustix::net::{AddressFamily, SocketType, bind, connect, socket};
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
use worksong_testkit::http::{self, Connection, Response};
use worksong_testkit::{Folder, Load, NODE_VERSIONS, Signal, Worksong, binary, eventually, fixture, process};

fn node(workers: &str, version: &str) -> Worksong {
    let launch = Worksong::run(["-i", workers, "--policy", "kernel"]).node(version);
    launch.program(fixture("node/http.js")).start()
}

/// Opens so many connections, one after the other, and counts who answered.
fn shares(port: u16, connections: usize, pid_of: fn(&Response) -> u32) -> BTreeMap<u32, usize> {
    let mut shares = BTreeMap::new();
    for _ in 0..connections {
        *shares.entry(pid_of(&http::get(port, "/").expect("an answer"))).or_default() += 1;
    }
    shares
}

#[test]
fn every_worker_gets_its_share() {
    let rust = Worksong::run(["-i", "4", "--policy", "kernel", "--dialect", "native"]);
    let rust = rust.program(binary("examples/under_node")).start();
    let rust_pid: fn(&Response) -> u32 =
        |answer| answer.header("pid").and_then(|pid| pid.parse().ok()).expect("a pid");
    let nodes = NODE_VERSIONS.map(|version| (node("4", version), Response::json_pid as fn(&Response) -> u32));
    for (worksong, pid_of) in nodes.into_iter().chain([(rust, rust_pid)]) {
        let pids = worksong.wait_ready(4);
        // A worker that a busy machine leaves waiting is steered around meanwhile: it was seen to get 27 of 400.
        eventually(&format!("even shares of {pids:?}"), || {
            let shares = shares(worksong.listening_port(), 400, pid_of);
            assert!(shares.keys().all(|pid| pids.contains(pid)), "{shares:?} of {pids:?}");
            let is_even = shares.len() == 4 && shares.values().all(|share| (50..=150).contains(share));
            is_even.then_some(())
        });
    }
}

/// Starts two Node workers with a policy.
fn two(policy: &str) -> Worksong {
    let worksong = Worksong::run(["-i", "2", "--policy", policy]).program(fixture("node/http.js")).start();
    worksong.wait_ready(2);
    worksong
}

#[test]
fn a_client_s_processor_says_its_worker_with_kernel_cpu() {
    let worksong = two("kernel:cpu");
    let port = worksong.listening_port();
    let all = sched_getaffinity(None).expect("this thread's processors");
    let processors: Vec<usize> = (0..CpuSet::MAX_CPU).filter(|processor| all.is_set(*processor)).collect();
    // A worker that a busy machine leaves waiting is steered around meanwhile. By hash all connections of a processor would
    // go to one worker once in 2^39 times.
    eventually("a worker for each processor", || {
        let mut workers = BTreeMap::new();
        for processor in &processors {
            let mut one = CpuSet::new();
            one.set(*processor);
            sched_setaffinity(None, &one).expect("one of this thread's");
            let mut shares = shares(port, 40, Response::json_pid);
            let (pid, _) = shares.pop_first().filter(|(_, count)| *count == 40)?;
            // Of two workers each has every second processor.
            let known = *workers.entry(processor % 2).or_insert(pid);
            (known == pid).then_some(())?;
        }
        let pids: BTreeSet<&u32> = workers.values().collect();
        (pids.len() == workers.len()).then_some(())
    });
}

#[test]
fn chance_says_the_worker_with_kernel_random() {
    let worksong = two("kernel:random");
    let port = worksong.listening_port();
    // No other test has this address, so one port of it can be used again and again.
    let [_, first, second, third] = std::process::id().to_be_bytes();
    let client = SocketAddrV4::new(Ipv4Addr::new(127, 100 + first % 100, second, third), 40_000);
    // By address and port all of them would be one worker's, and another's once that one is steered around.
    eventually("answers of both workers, in turns, to one address and port", || {
        let pids: Vec<u32> = (0..40).map(|_| pid_for(client, port)).collect();
        let changes = pids.windows(2).filter(|pair| pair[0] != pair[1]).count();
        (changes >= 8).then_some(())
    });
}

/// Asks from an address and port, which are free again after the answer.
fn pid_for(client: SocketAddrV4, port: u16) -> u32 {
    let socket = socket(AddressFamily::INET, SocketType::STREAM, None).expect("a socket");
    set_socket_reuseaddr(&socket, true).expect("an option");
    // Its end resets the connection, and nothing lingers.
    set_socket_linger(&socket, Some(Duration::ZERO)).expect("an option");
    bind(&socket, &client).expect("an address of loopback");
    connect(&socket, &SocketAddrV4::new(Ipv4Addr::LOCALHOST, port)).expect("it listens");
    let mut connection = Connection::over(TcpStream::from(socket)).expect("it is connected");
    connection.get("/").expect("an answer").json_pid()
}

#[test]
fn reloads_lose_nothing() {
    for version in NODE_VERSIONS {
        let worksong = node("2", version);
        worksong.wait_ready(2);
        let new = Load::start(worksong.listening_port(), Response::json_pid);
        let kept = Load::keep_alive(worksong.listening_port(), 8, Response::json_pid);
        for generation in 2..5 {
            new.wait_answers_of(&worksong.wait_ready(2));
            worksong.signal(Signal::HUP);
            worksong.wait_event("reload_done", |event| event.generation() == generation);
        }
        new.wait_answers_of(&worksong.wait_ready(2));
        kept.wait_answers(50);
        new.finish_without_failure();
        // They move to the successor of their worker; perhaps they were all of one.
        assert!(kept.finish_without_failure().len() >= 4, "Node {version}");
    }
}

#[test]
fn a_worker_that_is_not_ready_gets_no_connection() {
    let folder = Folder::new();
    let program = folder.write(
        "never.js",
        "const { worker } = require('node:cluster');\n\
         const answer = (_, response) => response.end(JSON.stringify({ pid: process.pid }));\n\
         require('node:http').createServer(answer).listen(0, () => worker.id <= 2 && process.send('ready'));\n",
    );
    let options = ["-i", "2", "--policy", "kernel", "--ready", "message", "--ready-timeout", "2s"];
    let worksong = Worksong::run(options).program(program).start();
    let old = worksong.wait_ready(2);
    let load = Load::start(worksong.listening_port(), Response::json_pid);
    worksong.signal(Signal::HUP);
    worksong.wait_event("listening", |event| event.worker() == 3);
    load.wait_answers(200);
    worksong.wait_event("reload_failed", |_| true);
    load.wait_answers_of(&old);
    assert_eq!(load.finish_without_failure(), old);
}

#[test]
fn connections_wait_for_a_worker_no_longer_than_they_may() {
    let folder = Folder::new();
    let broken = folder.join("broken");
    let program = folder.write(
        "server.cjs",
        "if (require('node:fs').existsSync(process.argv[2])) process.exit(1);\n\
         const answer = (_, response) => response.end(JSON.stringify({ pid: process.pid }));\n\
         require('node:http').createServer(answer).listen(0);\n",
    );
    let options = ["-i", "2", "--policy", "kernel", "--hold-timeout", "2s"];
    let backoff = ["--max-restarts", "100000", "--restart-delay", "20ms", "--max-restart-delay", "20ms"];
    let worksong = Worksong::run(options).args(backoff).program(program).args([&broken]).start();
    let pids = worksong.wait_ready(2);
    let port = worksong.listening_port();
    assert!(pids.contains(&http::get(port, "/").expect("an answer").json_pid()));
    folder.write("broken", "");
    for pid in &pids {
        process::kill(*pid, Signal::KILL);
        worksong.wait_event("exit", |event| event.pid() == *pid);
    }
    let mut clients = [(); 3].map(|()| Connection::open(port).expect("nobody is refused"));
    for client in &mut clients {
        client.send(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n").expect("it waits");
    }
    for client in &mut clients {
        assert_eq!(client.read_to_end().expect("it is closed, not reset"), b"");
    }
    let mut counted = 0;
    worksong.wait_event("held_too_long", |event| {
        counted += event["count"].as_u64().expect("a number");
        counted == 3
    });
    std::fs::remove_file(broken).expect("it is there");
    // Before that whoever comes may be closed at once.
    worksong.wait_event("ready", |event| !pids.contains(&event.pid()));
    assert!(!pids.contains(&http::get(port, "/").expect("a successor answers").json_pid()));
}

#[test]
fn connections_wait_while_all_workers_are_dead() {
    let soon = ["--max-restarts", "100000", "--restart-delay", "20ms", "--max-restart-delay", "20ms"];
    let worksong =
        Worksong::run(["-i", "2", "--policy", "kernel"]).args(soon).program(fixture("node/http.js")).start();
    worksong.wait_ready(2);
    let port = worksong.listening_port();
    for round in 0..10 {
        let mut killed = Vec::new();
        for pid in worksong.worker_pids() {
            process::kill(pid, Signal::KILL);
            killed.push(pid);
        }
        let waiting: Vec<_> = (0..20)
            .map(|_| {
                let mut connection = Connection::open(port).expect("nobody is refused");
                connection.send(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n").expect("it is open");
                connection
            })
            .collect();
        for mut connection in waiting {
            let answer = connection.read_response(false).unwrap_or_else(|error| panic!("{round}: {error}"));
            assert!(!killed.contains(&answer.json_pid()));
        }
        eventually("two workers", || (worksong.worker_pids().len() == 2).then_some(()));
    }
}

#[test]
fn a_port_of_another_primary_is_in_use() {
    let first = node("2", "24");
    first.wait_ready(2);
    let port = first.listening_port();
    let launch = Worksong::run(["-i", "1", "--policy", "kernel"]).env("PORT", port.to_string());
    let second = launch.program(fixture("node/http.js")).start();
    let failed = second.wait_event("listen_failed", |_| true);
    assert!(
        failed["reason"]
            .as_str()
            .is_some_and(|reason| reason.contains("in use") && reason.contains(&first.pid().to_string())),
        "{failed:?}"
    );
    eventually("answers of both", || (shares(port, 20, Response::json_pid).len() == 2).then_some(()));
}
