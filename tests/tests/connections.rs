//! What Node programs do with connections beside answering them: not writing, refusing, passing them on.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking, also in its helpers")]

use std::collections::BTreeSet;
use std::thread;

use serde_json::json;
use worksong_testkit::http::Connection;
use worksong_testkit::{Folder, NODE_VERSIONS, Signal, Worksong, fixture, http, process};

/// A descriptor that blocks would stop the whole program at the first client that does not read.
#[test]
fn a_client_that_does_not_read_stops_nobody_else() {
    for version in NODE_VERSIONS {
        let worksong = Worksong::run(["-i", "1"]).node(version).program(fixture("node/http.js")).start();
        let port = worksong.listening_port();
        let mut stuck = Connection::open(port).unwrap();
        stuck.send(b"GET /big?bytes=50000000 HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n").unwrap();
        for _ in 0..3 {
            assert_eq!(http::get(port, "/").unwrap().status, 200, "Node {version}");
        }
        let answer = stuck.read_response(false).unwrap();
        assert_eq!(answer.body.len(), 50_000_000, "Node {version}");
    }
}

#[test]
fn what_all_workers_refuse_waits_until_one_has_room() {
    let folder = Folder::new();
    let program = folder.write(
        "full.js",
        "const server = require('node:http').createServer((request, response) => {\n\
           response.end(JSON.stringify({ pid: process.pid }));\n\
         });\n\
         server.maxConnections = 1;\n\
         server.listen(0);\n",
    );
    for version in NODE_VERSIONS {
        let worksong = Worksong::run(["-i", "2"]).node(version).program(&program).start();
        let pids = worksong.wait_ready(2);
        let port = worksong.listening_port();
        let mut held = [0, 1].map(|_| Connection::open(port).unwrap());
        let holders = held.each_mut().map(|connection| connection.get("/").unwrap().json_pid());
        assert_eq!(BTreeSet::from(holders), pids, "Node {version}");
        // More than the two are at once, in no order.
        let waiting: Vec<_> =
            (0..5).map(|_| thread::spawn(move || http::get(port, "/").unwrap().json_pid())).collect();
        // Who has a place goes on, and who has none is refused again and again meanwhile.
        for _ in 0..50 {
            let again = held.each_mut().map(|connection| connection.get("/").unwrap().json_pid());
            assert_eq!(again, holders, "Node {version}");
        }
        drop(held);
        for client in waiting {
            assert!(pids.contains(&client.join().unwrap()), "Node {version}");
        }
        assert_eq!(worksong.worker_pids(), pids, "nobody had to be replaced under Node {version}");
    }
}

/// The primary has no use for it, but who passes it on waits: for the acknowledgement before the next message, and
/// for the end of the socket before it can leave.
#[test]
fn a_socket_that_is_passed_to_the_primary_holds_nothing_up() {
    let folder = Folder::new();
    let program = folder.write(
        "gives.js",
        "require('node:net').createServer({ pauseOnConnect: true }, (socket) => {\n\
           process.send('take this', socket);\n\
           process.send('and that');\n\
         }).listen(0);\n",
    );
    for version in NODE_VERSIONS {
        // A worker that waits for the primary would stay until this deadline.
        let options = ["-i", "1", "--drain-timeout", "10m"];
        let worksong = Worksong::run(options).node(version).program(&program).start();
        let port = worksong.listening_port();
        for count in 1..=3 {
            let mut client = Connection::open(port).unwrap();
            for body in ["take this", "and that"] {
                let mut heard = 0;
                worksong.wait_event("message", |event| {
                    heard += usize::from(event["body"] == body);
                    heard == count
                });
            }
            assert_eq!(client.read_to_end().unwrap(), b"", "it is closed on Node {version}");
        }
        worksong.signal(Signal::TERM);
        assert_eq!(worksong.wait_exit().code(), Some(0), "Node {version}");
        let exit = worksong.wait_event("exit", |_| true);
        assert_eq!((&exit["code"], &exit["voluntary"]), (&json!(0), &json!(true)), "Node {version}");
        assert!(!process::alive(exit.pid()));
    }
}

#[test]
fn connections_wait_for_a_worker_no_longer_than_they_may() {
    thread::scope(|scope| {
        for policy in ["round-robin", "kernel", "shared"] {
            scope.spawn(move || assert_hold_has_a_limit(policy));
        }
    });
}

fn assert_hold_has_a_limit(policy: &str) {
    let folder = Folder::new();
    let program = folder.write(
        "later.cjs",
        "if (!require('node:fs').existsSync(process.argv[2])) process.exit(1);\n\
         require('node:http').createServer((_, response) => response.end('at last')).listen({ fd: 3 });\n",
    );
    let mended = folder.join("mended");
    let options = ["-i", "1", "--listen", "127.0.0.1:0", "--hold-timeout", "2s", "--policy", policy];
    let backoff = ["--max-restarts", "100000", "--restart-delay", "20ms", "--max-restart-delay", "20ms"];
    let worksong = Worksong::run(options).args(backoff).program(program).args([&mended]).start();
    let bound = worksong.wait_event("bound", |_| true);
    let port = bound["port"].as_u64().and_then(|port| u16::try_from(port).ok()).unwrap();
    let mut clients = [(); 3].map(|()| Connection::open(port).unwrap());
    for client in &mut clients {
        client.send(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n").unwrap();
    }
    for client in &mut clients {
        assert_eq!(client.read_to_end().unwrap(), b"", "{policy}: closed, not refused and not reset");
    }
    let mut counted = 0;
    let held = worksong.wait_event("held_too_long", |event| {
        counted += event["count"].as_u64().unwrap();
        counted == 3
    });
    assert_eq!((&held["address"], &held["hold_ms"]), (&bound["address"], &json!(2000)));

    folder.write("mended", "");
    worksong.wait_ready(1);
    assert_eq!(http::get(port, "/").unwrap().text(), "at last");
}
