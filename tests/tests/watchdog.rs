//! Workers whose event loop stands still are noticed although no new connection tells of it.

use std::time::Duration;

use worksong_testkit::http::Connection;
use worksong_testkit::{Folder, NODE_VERSIONS, Worksong, fixture};

/// `/block` stops the event loop for `$BLOCK` milliseconds, and says so first.
const BLOCKS: &str = "
require('node:http').createServer((request, response) => {
  response.end(String(process.pid));
  if (request.url !== '/block') return;
  require('node:fs').writeSync(1, 'blocked\\n');
  Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, Number(process.env.BLOCK));
}).listen(0);
";

/// Starts two workers and blocks one of them; returns its pid, a connection to it, and where its program is.
fn block(time: &str, options: &[&str]) -> (Worksong, Connection, u32, Folder) {
    let folder = Folder::new();
    let program = folder.write("blocks.js", BLOCKS);
    let worksong = Worksong::run(["-i", "2"]).args(options).env("BLOCK", time).program(program).start();
    worksong.wait_ready(2);
    let mut connection = Connection::open(worksong.listening_port()).expect("it listens");
    let answer = connection.get("/").expect("an answer");
    let pid = answer.text().parse().expect("a pid");
    connection.send(b"GET /block HTTP/1.1\r\nhost: a\r\n\r\n").expect("it is open");
    worksong.wait_output("the block", |line| (line.line == "blocked").then_some(()));
    (worksong, connection, pid, folder)
}

#[test]
fn a_worker_that_stands_still_is_out_of_rotation_until_it_goes_on() {
    let (worksong, mut connection, pid, _folder) = block("8000", &[]);
    let unresponsive = worksong.wait_event("unresponsive", |_| true);
    assert_eq!(unresponsive.pid(), pid);
    worksong.wait_event("responsive", |event| event.pid() == pid);
    connection.read_response(false).expect("the answer to the request that blocked");
    assert_eq!(connection.get("/").expect("it serves on").text(), pid.to_string());
    assert!(!worksong.events().iter().any(|event| event.name() == "signalled"));
}

#[test]
fn a_worker_that_stands_still_for_long_is_replaced() {
    let (worksong, _connection, pid, _folder) = block("600000", &["--hung-timeout", "2s"]);
    let exit = worksong.wait_event("exit", |event| event.pid() == pid);
    assert_eq!(exit["signal"], "SIGKILL");
    let successor = worksong.wait_event("ready", |event| event.worker() == 3);
    assert_eq!(successor.slot(), exit.slot());
}

/// A worker that has opened a UDP socket, as a name server or a collector of metrics does, answers pings like any other.
#[test]
#[expect(clippy::disallowed_methods, reason = "a pong in time is announced by nothing")]
fn a_worker_with_a_udp_socket_is_responsive() {
    let worksongs = NODE_VERSIONS.map(|version| {
        let options = ["-i", "1", "--hung-timeout", "1s"];
        let worksong = Worksong::run(options).node(version).program(fixture("node/udp.js")).start();
        worksong.wait_ready(1);
        worksong
    });
    // A ping comes after five seconds, and is overdue after one more.
    std::thread::sleep(Duration::from_secs(8));
    for (worksong, version) in worksongs.iter().zip(NODE_VERSIONS) {
        let events = worksong.events();
        let bad = ["garbage", "unresponsive", "exit"];
        assert!(!events.iter().any(|event| bad.contains(&event.name())), "Node {version}: {events:?}");
    }
}
