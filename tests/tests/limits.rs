//! `--max-open`, `--max-open-app` and `--overload`: no more connections are open than may be, and none is lost for it.

use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::sync::mpsc;
use std::thread;

use serde_json::json;
use worksong_testkit::http::{self, Connection};
use worksong_testkit::{
    Event, Folder, Launch, NODE_VERSIONS, Signal, Worksong, binary, eventually, patience,
};

/// A server whose answers say how many connections it has, and has had at most.
const COUNTS: &str = "\
    let open = 0, most = 0;\n\
    const answer = (request, response) => {\n\
      request.resume();\n\
      response.end(JSON.stringify({ pid: process.pid, open, most }));\n\
    };\n\
    const server = require('node:http').createServer(answer);\n\
    server.on('connection', (socket) => {\n\
      most = Math.max(most, ++open);\n\
      socket.on('close', () => open--);\n\
    });\n\
    server.listen(0);\n";

fn counting(folder: &Folder, options: &[&str]) -> Launch {
    Worksong::run(options).program(folder.write("counts.js", COUNTS))
}

/// Opens a connection and has it answered; it stays open.
fn held(port: u16) -> Connection {
    let mut client = Connection::open(port).expect("the kernel completes it");
    assert_eq!(client.get("/").expect("an answer").status, 200);
    client
}

/// Asks on a connection of its own, in a thread.
fn asking(port: u16) -> thread::JoinHandle<u32> {
    thread::spawn(move || http::get(port, "/").expect("it waits").json_pid())
}

fn number(event: &Event, field: &str) -> u64 {
    event[field].as_u64().unwrap_or_else(|| panic!("{field} in {event:?}"))
}

#[test]
fn no_worker_ever_has_more_than_it_may() {
    for (policy, version) in [("round-robin", NODE_VERSIONS[0]), ("sticky:ip", "24"), ("round-robin", "24")] {
        let folder = Folder::new();
        let options = ["-i", "2", "--max-open", "3", "--policy", policy];
        let worksong = counting(&folder, &options).node(version).start();
        worksong.wait_ready(2);
        let port = worksong.listening_port();
        let clients: Vec<_> = (0..12)
            .map(|_| {
                thread::spawn(move || {
                    (0..10)
                        .map(|_| {
                            let answer = http::get(port, "/").expect("it waits").json();
                            answer["most"].as_u64().expect("a number")
                        })
                        .max()
                })
            })
            .collect();
        let most = clients.into_iter().filter_map(|client| client.join().expect("answers")).max();
        assert!((1..=3).contains(&most.unwrap_or(0)), "{policy}, Node {version}: {most:?}");
    }
}

#[test]
fn what_is_too_much_waits_until_there_is_room() {
    for policy in ["round-robin", "least", "sticky:ip"] {
        let folder = Folder::new();
        let options = ["-i", "2", "--max-open-app", "2", "--policy", policy];
        let worksong = counting(&folder, &options).start();
        worksong.wait_ready(2);
        let port = worksong.listening_port();
        let first = held(port);
        let second = held(port);
        let waiting = [asking(port), asking(port)];
        let begun = worksong.wait_event("overloaded", |_| true);
        assert_eq!((&begun["open"], &begun["max_open_app"]), (&json!(2), &json!(2)), "{policy}");
        assert_eq!((begun.has("max_open"), &begun["overload"]), (false, &json!("wait")));
        assert!(waiting.iter().all(|client| !client.is_finished()), "{policy}");
        drop(first);
        for client in waiting {
            client.join().expect("it is answered");
        }
        let over = worksong.wait_event("overload_over", |_| true);
        assert_eq!(over["turned_away"], 0, "{policy}");
        let begins = worksong.events().iter().filter(|event| event.name() == "overloaded").count();
        assert_eq!(begins, 1, "{policy}: told once");
        drop(second);
    }
}

#[test]
fn connections_do_not_wait_for_room_longer_than_they_may() {
    let folder = Folder::new();
    let worksong = counting(&folder, &["-i", "1", "--max-open", "1", "--hold-timeout", "2s"]).start();
    let port = {
        worksong.wait_ready(1);
        worksong.listening_port()
    };
    let mut stays = held(port);
    let mut client = Connection::open(port).expect("the kernel completes it");
    client.send(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n").expect("it is open");
    assert_eq!(client.read_to_end().expect("closed, not reset"), b"");
    assert_eq!(number(&worksong.wait_event("held_too_long", |_| true), "count"), 1);
    assert_eq!(stays.get("/").expect("it goes on").status, 200);
    drop(stays);
    assert_eq!(http::get(port, "/").expect("there is room").status, 200);
}

/// Sends bytes over a connection of its own and returns what comes back, and how it ends.
fn exchange(port: u16, bytes: &[u8]) -> (Vec<u8>, Option<io::ErrorKind>) {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).expect("the kernel completes it");
    stream.set_read_timeout(Some(patience())).expect("a socket");
    // It may be reset already, which the read tells.
    let _sent = stream.write_all(bytes);
    let mut received = Vec::new();
    let end = stream.read_to_end(&mut received);
    (received, end.err().map(|error| error.kind()))
}

/// Waits until so many were turned away, and not one more.
fn wait_turned_away(worksong: &Worksong, count: u64) {
    // Clients that pause for a second, as on a busy machine, end what one event tells of.
    eventually("that all are told of", || {
        let events = worksong.events();
        let overs = events.iter().filter(|event| event.name() == "overload_over");
        let sum: u64 = overs.map(|event| number(event, "turned_away")).sum();
        assert!(sum <= count, "{sum} were turned away");
        (sum == count).then_some(())
    });
}

#[test]
fn connections_that_are_too_many_can_be_reset() {
    let folder = Folder::new();
    let worksong = counting(&folder, &["-i", "2", "--max-open", "1", "--overload", "reset"]).start();
    worksong.wait_ready(2);
    let port = worksong.listening_port();
    let mut stay = [held(port), held(port)];
    for _ in 0..20 {
        let (received, end) = exchange(port, b"");
        assert_eq!((received.len(), end), (0, Some(io::ErrorKind::ConnectionReset)));
    }
    for client in &mut stay {
        assert_eq!(client.get("/").expect("it goes on").status, 200);
    }
    wait_turned_away(&worksong, 20);
    drop(stay);
    eventually("that there is room", || http::get(port, "/").ok());
}

#[test]
fn connections_that_are_too_many_can_be_answered() {
    let folder = Folder::new();
    let worksong = counting(&folder, &["-i", "2", "--max-open", "1", "--overload", "503"]).start();
    worksong.wait_ready(2);
    let port = worksong.listening_port();
    let stay = [held(port), held(port)];
    // What follows a request does not take the answer away by a reset.
    let large = [b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 40000\r\n\r\n".to_vec(), vec![b'x'; 40_000]];
    for request in [&b"GET / HTTP/1.1\r\nhost: a\r\n\r\n"[..], &large.concat()] {
        for _ in 0..10 {
            let mut client = Connection::open(port).expect("the kernel completes it");
            client.send(request).expect("it is read");
            let answer = client.read_response(false).expect("an answer");
            assert_eq!((answer.status, answer.header("retry-after")), (503, Some("1")));
            assert_eq!((answer.header("connection"), answer.body.len()), (Some("close"), 0));
            assert_eq!(client.read_to_end().expect("the end of it"), b"");
        }
    }
    for other in [&b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"[..], b"\x16\x03\x01\x00\x05hello"] {
        let (received, end) = exchange(port, other);
        assert_eq!((received.len(), end), (0, Some(io::ErrorKind::ConnectionReset)));
    }
    // Silent clients hold nothing up, and have their time.
    let silent: Vec<_> = (0..50).map(|_| TcpStream::connect(("127.0.0.1", port)).expect("open")).collect();
    assert_eq!(http::get(port, "/").expect("an answer").status, 503);
    for mut client in silent {
        client.set_read_timeout(Some(patience())).expect("a socket");
        let end = client.read(&mut [0]).expect_err("nobody answers silence");
        assert_eq!(end.kind(), io::ErrorKind::ConnectionReset);
    }
    wait_turned_away(&worksong, 73);
    worksong.signal(Signal::HUP);
    let report = worksong.wait_event("reload_report", |_| true);
    assert_eq!(report["turned_away"], 0, "none since it began");
    drop(stay);
}

/// The workers say how many they have a moment after they have accepted, so a few more may get in before the kernel is
/// steered around them, and none afterwards.
#[test]
fn the_kernel_is_steered_around_workers_that_are_full() {
    let folder = Folder::new();
    let options = ["-i", "2", "--max-open", "2", "--policy", "kernel"];
    let worksong = counting(&folder, &options).start();
    let pids = worksong.wait_ready(2);
    let port = worksong.listening_port();
    let is_full = || worksong.events().iter().any(|event| event.name() == "overloaded");
    let (tell, told) = mpsc::channel();
    let mut asked = 0;
    let mut answered: Vec<(u32, Connection)> = Vec::new();
    while !is_full() {
        let tell = tell.clone();
        thread::spawn(move || {
            let mut client = Connection::open(port).expect("the kernel completes it");
            let pid = client.get("/").expect("an answer").json_pid();
            // After the end of the test nobody hears it.
            let _unheard = tell.send((pid, client));
        });
        asked += 1;
        assert!(asked < 100, "nobody is ever full");
        eventually("that it is answered, or waits", || {
            answered.extend(told.try_iter());
            (is_full() || answered.len() == asked).then_some(())
        });
    }
    eventually("that those are answered who got in", || {
        answered.extend(told.try_iter());
        let of = |pid: &u32| answered.iter().filter(|(by, _)| by == pid).count();
        pids.iter().all(|pid| of(pid) >= 2).then_some(())
    });
    let full = most_of_each(&mut answered);
    // What comes now goes to neither of them.
    let late: Vec<_> = (0..5)
        .map(|_| {
            let mut client = Connection::open(port).expect("the kernel completes it");
            client.send(b"GET / HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n").expect("it is open");
            client
        })
        .collect();
    assert_eq!(most_of_each(&mut answered), full);
    let waiting = asked - answered.len();
    drop(answered);
    for mut client in late {
        assert!(pids.contains(&client.read_response(false).expect("there is room now").json_pid()));
    }
    for _ in 0..waiting {
        let (pid, _client) = told.recv_timeout(patience()).expect("there is room now");
        assert!(pids.contains(&pid));
    }
}

/// Returns how many connections each worker has had at most, when it has accepted all that were queued for it by now.
fn most_of_each(clients: &mut [(u32, Connection)]) -> BTreeMap<u32, u64> {
    let ask = |(pid, client): &mut (u32, Connection)| {
        // Its event loop has looked at its listener between the two.
        client.get("/").expect("it goes on");
        let answer = client.get("/").expect("it goes on").json();
        (*pid, answer["most"].as_u64().expect("a number"))
    };
    clients.iter_mut().map(ask).collect()
}

/// Asks as one of the users whose connections belong together.
fn as_user(port: u16, user: u32) -> Result<(Connection, u32), http::Error> {
    let mut client = Connection::open(port)?;
    let answer = client.request("GET", "/", &[("x-user", &user.to_string())], b"")?;
    Ok((client, answer.json_pid()))
}

#[test]
fn those_who_belong_to_a_full_worker_stand_in_nobody_elses_way() {
    let folder = Folder::new();
    let sticky = ["-i", "2", "--policy", "sticky:header:x-user", "--max-open", "2"];
    let worksong = counting(&folder, &[&sticky[..], &["--hold-timeout", "1s"]].concat()).start();
    worksong.wait_ready(2);
    let port = worksong.listening_port();
    let home = |user| as_user(port, user).expect("an answer").1;
    let here = home(0);
    let other = (1..1000).find(|user| home(*user) != here).expect("there are two workers");
    let held = [as_user(port, 0).expect("room"), as_user(port, 0).expect("room")];
    let request = b"GET / HTTP/1.1\r\nhost: a\r\nx-user: 0\r\n\r\n";
    let mut crowd: Vec<Connection> = (0..600)
        .map(|_| {
            let mut client = Connection::open(port).expect("the kernel completes it");
            // It may be reset already: too many wait.
            let _sent = client.send(request);
            client
        })
        .collect();
    assert_ne!(home(other), here, "who belongs elsewhere is served");
    let mut waited = 0;
    worksong.wait_event("held_too_long", |event| {
        waited += number(event, "count");
        waited >= 200
    });
    for client in &mut crowd {
        assert!(client.read_response(false).is_err(), "there was no room for it");
    }
    drop(held);
    eventually("that there is room again", || (as_user(port, 0).ok()?.1 == here).then_some(()));
}

#[test]
fn idle_connections_move_to_workers_whatever_the_limit() {
    let folder = Folder::new();
    let worksong = counting(&folder, &["-i", "2", "--max-open", "2", "--max-open-app", "4"]).start();
    let old = worksong.wait_ready(2);
    let port = worksong.listening_port();
    let mut clients: Vec<Connection> = (0..4).map(|_| held(port)).collect();
    worksong.signal(Signal::HUP);
    worksong.wait_event("reload_report", |_| true);
    let waiting = asking(port);
    for client in &mut clients {
        assert!(!old.contains(&client.get("/").expect("it goes on").json_pid()));
    }
    worksong.wait_event("overloaded", |_| true);
    assert!(!waiting.is_finished());
    drop(clients);
    waiting.join().expect("there is room now");
}

#[test]
fn rust_workers_are_limited_where_they_count() {
    let launch = |example: &str| {
        let options = ["-i", "1", "--dialect", "native", "--max-open", "2"];
        Worksong::run(options).program(binary(example)).args(["127.0.0.1:0"]).start()
    };
    let worksong = launch("examples/hello_serve");
    let port = worksong.listening_port();
    let clients = [held(port), held(port)];
    let third = thread::spawn(move || http::get(port, "/").map(|answer| answer.status));
    worksong.wait_event("overloaded", |_| true);
    assert!(!third.is_finished());
    drop(clients);
    assert_eq!(third.join().expect("no panic").expect("there is room now"), 200);

    let worksong = launch("examples/under_node");
    let port = worksong.listening_port();
    let _open: Vec<TcpStream> =
        (0..8).map(|_| TcpStream::connect(("127.0.0.1", port)).expect("open")).collect();
    let told = worksong.wait_event("uncounted", |_| true);
    assert_eq!(told.worker(), 1);
    assert_eq!(http::get(port, "/").expect("its limit is not kept").status, 200);
}
