//! What a worker that leaves still has at its deadline is cut, and counted, whatever it leaves for.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking, also in its helpers")]

use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, TcpStream};

use serde_json::json;
use worksong_testkit::http::Connection;
use worksong_testkit::{
    Event, Folder, Launch, NODE_VERSIONS, Signal, Worksong, binary, eventually, fixture, patience,
};

/// A server for this test: `/wait` is never answered.
fn waits() -> Launch {
    Worksong::run(["-i", "1", "--drain-timeout", "2s"]).env("RELEASE", "/nonexistent")
}

/// Opens connections that a worker does not end by itself.
fn open_busy(worksong: &Worksong, count: usize) -> Vec<Connection> {
    let port = worksong.listening_port();
    let mut connections: Vec<Connection> = (0..count).map(|_| Connection::open(port).unwrap()).collect();
    for connection in &mut connections {
        connection.send(b"GET /wait HTTP/1.1\r\nhost: a\r\n\r\n").unwrap();
    }
    let mut seen = 0;
    worksong.wait_output("the requests", |line| {
        seen += usize::from(line.line == "waiting");
        (seen == count).then_some(())
    });
    connections
}

/// Waits for the end of what was told to end, and returns what it says of that.
#[track_caller]
fn ended(worksong: &Worksong) -> (Event, Event) {
    assert_eq!(worksong.wait_exit().code(), Some(0));
    (worksong.wait_event("exit", |_| true), worksong.wait_event("stopped", |_| true))
}

#[test]
fn a_stop_counts_what_it_cuts() {
    let stop = |version| {
        let worksong = waits().node(version).program(fixture("node/waits.js")).start();
        let connections = open_busy(&worksong, 2);
        worksong.signal(Signal::TERM);
        (version, worksong, connections)
    };
    for (version, worksong, mut connections) in NODE_VERSIONS.map(stop) {
        let (exit, stopped) = ended(&worksong);
        assert_eq!(
            (&exit["signal"], &exit["cut"]),
            (&json!("SIGTERM"), &json!(2)),
            "Node {version}: {exit:?}"
        );
        assert_eq!(stopped["cut"], 2, "Node {version}: {stopped:?}");
        for connection in &mut connections {
            connection.read_response(false).expect_err("its worker was ended");
        }
    }
}

#[test]
fn a_worker_that_has_finished_has_cut_nothing() {
    let rust = |launch: Launch| {
        let launch = launch.args(["--dialect", "native"]).program(binary("examples/hello_serve"));
        launch.args(["127.0.0.1:0"])
    };
    let node = |version| move |launch: Launch| launch.node(version).program(fixture("node/waits.js"));
    // Node 18 would keep the connection until its client has been silent for 5 s.
    let versions = NODE_VERSIONS.into_iter().filter(|version| *version != "18");
    let mut started: Vec<Worksong> = versions.map(|version| node(version)(waits()).start()).collect();
    started.push(rust(waits()).start());
    for worksong in started {
        let mut connection = Connection::open(worksong.listening_port()).unwrap();
        connection.get("/").unwrap();
        worksong.signal(Signal::TERM);
        let (exit, stopped) = ended(&worksong);
        assert_eq!((&exit["cut"], &stopped["cut"]), (&json!(0), &json!(0)), "{exit:?} {stopped:?}");
    }
}

#[test]
fn a_recycle_counts_what_it_cuts() {
    let launch = waits().args(["--max-connections", "1"]).node("22");
    let worksong = launch.program(fixture("node/waits.js")).start();
    let _connections = open_busy(&worksong, 1);
    let exit = worksong.wait_event("exit", |event| event.worker() == 1);
    let drained = worksong.wait_event("draining", |event| event.worker() == 1);
    assert_eq!((&drained["cause"], &exit["cut"]), (&json!("recycle"), &json!(1)), "{exit:?}");
}

/// Begins an upload, which the program then waits for.
fn begin_upload(port: u16) -> TcpStream {
    const GO_ON: &[u8] = b"HTTP/1.1 100 Continue\r\n\r\n";
    let mut client = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).unwrap();
    client.set_read_timeout(Some(patience())).unwrap();
    let head = "PUT /upload HTTP/1.1\r\nhost: a\r\nexpect: 100-continue\r\ncontent-length: 100000000\r\n\r\n";
    client.write_all(head.as_bytes()).unwrap();
    let mut said = vec![0; GO_ON.len()];
    client.read_exact(&mut said).unwrap();
    assert_eq!(said, GO_ON);
    client
}

#[test]
fn a_reload_counts_an_upload_that_outlives_its_deadline() {
    let folder = Folder::new();
    let program = folder.write(
        "upload.js",
        "require('node:http').createServer((request, response) => {
           request.on('end', () => response.end('all of it')).resume();
         }).listen(0);",
    );
    let node = |version| waits().node(version).program(&program).start();
    let mut started: Vec<Worksong> = NODE_VERSIONS.into_iter().map(node).collect();
    let rust = waits().args(["--dialect", "native"]);
    started.push(rust.program(binary("worksong-torture-server")).start());
    let reload = |worksong: Worksong| {
        let client = begin_upload(worksong.listening_port());
        worksong.signal(Signal::HUP);
        (worksong, client)
    };
    let reloading: Vec<_> = started.into_iter().map(reload).collect();
    for (worksong, mut client) in reloading {
        let end = eventually("the end of the upload", || client.write_all(&[0; 1000]).err());
        assert!([ErrorKind::BrokenPipe, ErrorKind::ConnectionReset].contains(&end.kind()), "{end}");
        let exit = worksong.wait_event("exit", |event| event.worker() == 1);
        assert_eq!((&exit["signal"], &exit["cut"]), (&json!("SIGTERM"), &json!(1)), "{exit:?}");
        let report = worksong.wait_event("reload_report", |_| true);
        assert_eq!(report["cut"], 1, "{report:?}");
    }
}

#[test]
fn a_rust_worker_that_leaves_by_itself_counts_what_it_cuts() {
    let launch = waits().args(["--dialect", "native"]).program(binary("examples/hello_serve"));
    let worksong = launch.args(["127.0.0.1:0"]).start();
    let port = worksong.listening_port();
    let mut half = Connection::open(port).unwrap();
    half.send(b"GET / HTTP/1.1\r\nho").unwrap();
    // Behind it on the only worker: it was read before.
    Connection::open(port).unwrap().get("/panic").expect_err("the worker leaves for that");
    let exit = worksong.wait_event("exit", |event| event.worker() == 1);
    let drained = worksong.wait_event("draining", |event| event.worker() == 1);
    assert_eq!((&drained["cause"], &exit["cut"]), (&json!("asked"), &json!(1)), "{exit:?}");
}

#[test]
fn a_node_worker_that_leaves_by_itself_has_finished() {
    let folder = Folder::new();
    let program = folder.write(
        "leaves.js",
        "require('node:http').createServer((request, response) => {
           response.end('bye');
           require('node:cluster').worker.disconnect();
         }).listen(0);",
    );
    for version in NODE_VERSIONS {
        let worksong = waits().node(version).program(&program).start();
        let mut connection = Connection::open(worksong.listening_port()).unwrap();
        connection.send(b"GET / HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n").unwrap();
        assert_eq!(connection.read_response(false).unwrap().text(), "bye");
        let exit = worksong.wait_event("exit", |event| event.worker() == 1);
        let drained = worksong.wait_event("draining", |event| event.worker() == 1);
        assert_eq!(
            (&drained["cause"], &exit["cut"]),
            (&json!("asked"), &json!(0)),
            "Node {version}: {exit:?}"
        );
    }
}

#[test]
fn what_nobody_can_know_is_not_told() {
    let without_agent = waits().args(["--no-agent"]).program(fixture("node/waits.js")).start();
    let _kept = open_busy(&without_agent, 1);

    let folder = Folder::new();
    let program = folder.write(
        "leaves.js",
        "process.on('worksong:drain', () => process.exit(0));
         require('node:http').createServer(() => console.log('waiting')).listen(0);",
    );
    let in_a_hurry = waits().program(program).start();
    let _too = open_busy(&in_a_hurry, 1);

    let launch = Worksong::run(["-i", "1", "--listen", "127.0.0.1:0", "--drain-timeout", "2s"]);
    let without_channel = launch.program(fixture("python/activation.py")).start();
    without_channel.wait_ready(1);

    let all = [without_agent, in_a_hurry, without_channel];
    for worksong in &all {
        worksong.signal(Signal::TERM);
    }
    for worksong in &all {
        let (exit, stopped) = ended(worksong);
        // Only the worker could have said it.
        assert!(!exit.has("cut") && !stopped.has("cut"), "{exit:?} {stopped:?}");
    }
}
