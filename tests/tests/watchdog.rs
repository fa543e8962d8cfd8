//! Workers whose event loop stands still are noticed although no new connection tells of it.

use std::collections::BTreeSet;

use worksong_testkit::http::{self, Connection, Response};
use worksong_testkit::{
    Folder, Launch, NODE_VERSIONS, Signal, Worksong, binary, eventually, fixture, process,
};

/// `/block` stops the event loop until there is a file `$RELEASE`, and says so first.
const BLOCKS: &str = "
require('node:http').createServer((request, response) => {
  response.end(String(process.pid));
  if (request.url !== '/block') return;
  const { existsSync, writeSync } = require('node:fs');
  writeSync(1, 'blocked\\n');
  const cell = new Int32Array(new SharedArrayBuffer(4));
  while (!existsSync(process.env.RELEASE)) Atomics.wait(cell, 0, 0, 20);
}).listen(0);
";

/// Two workers, of which one is blocked.
struct Blocked {
    worksong: Worksong,
    /// Where the program is, and what ends the block.
    folder: Folder,
    /// A connection that the blocked worker has: the answer to the request that blocked it is not there.
    connection: Connection,
    pid: u32,
}

impl Blocked {
    fn node(options: &[&str]) -> Self {
        let folder = Folder::new();
        let program = folder.write("blocks.js", BLOCKS);
        Self::start(Worksong::run(["-i", "2"]).args(options).program(program), folder)
    }

    fn rust(options: &[&str]) -> Self {
        let launch = Worksong::run(["-i", "2", "--dialect", "native"]).args(options);
        Self::start(launch.program(binary("worksong-torture-server")), Folder::new())
    }

    fn start(launch: Launch, folder: Folder) -> Self {
        let worksong = launch.env("RELEASE", folder.join("release")).start();
        worksong.wait_ready(2);
        let mut connection = Connection::open(worksong.listening_port()).expect("it listens");
        let pid = pid(&connection.get("/pid").expect("an answer"));
        connection.send(b"GET /block HTTP/1.1\r\nhost: a\r\n\r\n").expect("it is open");
        worksong.wait_output("the block", |line| (line.line == "blocked").then_some(()));
        Self { worksong, folder, connection, pid }
    }

    /// Returns who answers ten new connections.
    fn who_answers(&self) -> BTreeSet<u32> {
        let port = self.worksong.listening_port();
        (0..10).map(|_| pid(&http::get(port, "/pid").expect("an answer"))).collect()
    }

    /// Waits until it is noticed, releases it, and asserts where connections go meanwhile and then.
    #[track_caller]
    fn assert_out_of_rotation_until_released(mut self) {
        // No connection has come since: only a ping tells.
        let unresponsive = self.worksong.wait_event("unresponsive", |_| true);
        assert_eq!(unresponsive.pid(), self.pid);
        assert!(!self.who_answers().contains(&self.pid), "new connections stay away");
        self.folder.write("release", "");
        self.worksong.wait_event("responsive", |event| event.pid() == self.pid);
        eventually("a new connection to it", || self.who_answers().contains(&self.pid).then_some(()));
        self.connection.read_response(false).expect("the answer to the request that blocked");
        assert_eq!(pid(&self.connection.get("/pid").expect("it serves on")), self.pid);
        assert!(!self.worksong.events().iter().any(|event| event.name() == "signalled"));
    }

    #[track_caller]
    fn assert_replaced(self) {
        let exit = self.worksong.wait_event("exit", |event| event.pid() == self.pid);
        assert_eq!(exit["signal"], "SIGKILL");
        let successor = self.worksong.wait_event("ready", |event| event.worker() == 3);
        assert_eq!(successor.slot(), exit.slot());
    }
}

fn pid(answer: &Response) -> u32 {
    answer.text().parse().expect("a pid")
}

#[test]
fn a_worker_that_stands_still_is_out_of_rotation_until_it_goes_on() {
    Blocked::node(&[]).assert_out_of_rotation_until_released();
}

#[test]
fn a_rust_worker_that_stands_still_is_out_of_rotation_until_it_goes_on() {
    Blocked::rust(&[]).assert_out_of_rotation_until_released();
}

#[test]
fn a_worker_that_stands_still_for_long_is_replaced() {
    Blocked::node(&["--hung-timeout", "2s"]).assert_replaced();
}

#[test]
fn a_rust_worker_that_stands_still_for_long_is_replaced() {
    Blocked::rust(&["--hung-timeout", "2s"]).assert_replaced();
}

/// A worker that has opened a UDP socket, as a name server or a collector of metrics does, answers pings like any other.
#[test]
fn a_worker_with_a_udp_socket_answers_pings() {
    let start = |version| {
        let worksong = Worksong::run(["-i", "1"]).node(version).program(fixture("node/udp.js")).start();
        let worker = worksong.wait_ready(1).pop_first().expect("one worker");
        process::freeze(worker);
        (worksong, worker)
    };
    // Side by side: a ping comes after five seconds, and is overdue after one more.
    for (worksong, worker) in NODE_VERSIONS.map(start) {
        worksong.wait_event("unresponsive", |event| event.pid() == worker);
        process::kill(worker, Signal::CONT);
        worksong.wait_event("responsive", |event| event.pid() == worker);
        assert!(worksong.events().iter().all(|event| event.name() != "garbage"), "{:?}", worksong.events());
    }
}
