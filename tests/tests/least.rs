//! `--policy least`: who has fewest connections, and answers, gets the next one.

use std::collections::BTreeMap;
use std::thread;
use std::time::Duration;

use worksong_testkit::http::{self, Connection, Response};
use worksong_testkit::{Folder, NODE_VERSIONS, Worksong, binary, eventually, fixture};

const WORKERS: usize = 4;
/// How many connections come at once, from so many clients.
const CONNECTIONS: usize = 400;
const CLIENTS: usize = 8;

/// Reads who answered.
type PidOf = fn(&Response) -> u32;

/// `/block` stops the event loop until there is a file `$RELEASE`, and says so first.
const BLOCKS: &str = "
require('node:http').createServer((request, response) => {
  response.end(JSON.stringify({ pid: process.pid }));
  if (request.url !== '/block') return;
  const { existsSync, writeSync } = require('node:fs');
  writeSync(1, 'blocked\\n');
  const cell = new Int32Array(new SharedArrayBuffer(4));
  while (!existsSync(process.env.RELEASE)) Atomics.wait(cell, 0, 0, 20);
}).listen(0);
";

fn node(version: &str) -> (Worksong, PidOf) {
    let options = ["-i", &WORKERS.to_string(), "--policy", "least"];
    let worksong = Worksong::run(options).node(version).program(fixture("node/http.js")).start();
    worksong.wait_ready(WORKERS);
    (worksong, Response::json_pid)
}

fn rust() -> (Worksong, PidOf) {
    let options = ["-i", &WORKERS.to_string(), "--policy", "least", "--dialect", "native"];
    let worksong =
        Worksong::run(options).program(binary("examples/hello_serve")).args(["127.0.0.1:0"]).start();
    worksong.wait_ready(WORKERS);
    // `worker 1 of slot Some(0), process 9698`
    let pid_of: PidOf =
        |answer| answer.text().trim().rsplit(' ').next().and_then(|pid| pid.parse().ok()).expect("a process");
    (worksong, pid_of)
}

fn every_runtime() -> Vec<(Worksong, PidOf)> {
    NODE_VERSIONS.into_iter().map(node).chain([rust()]).collect()
}

/// Opens a connection that stays; returns it with the worker that has it.
fn hold(port: u16, pid_of: PidOf) -> (Connection, u32) {
    let mut connection = Connection::open(port).expect("it listens");
    let pid = pid_of(&connection.get("/").expect("an answer"));
    (connection, pid)
}

/// Lets clients come all at once, and collects what comes of each connection.
fn at_once<T: Send + 'static>(connect: impl Fn() -> T + Copy + Send + 'static) -> Vec<T> {
    let client = move || (0..CONNECTIONS / CLIENTS).map(|_| connect()).collect::<Vec<T>>();
    let clients: Vec<_> = (0..CLIENTS).map(|_| thread::spawn(client)).collect();
    clients.into_iter().flat_map(|client| client.join().expect("all are answered")).collect()
}

fn count(pids: impl IntoIterator<Item = u32>) -> BTreeMap<u32, usize> {
    pids.into_iter().fold(BTreeMap::new(), |mut count, pid| {
        *count.entry(pid).or_default() += 1;
        count
    })
}

#[test]
fn connections_that_stay_are_spread_however_quickly_they_come() {
    for (worksong, pid_of) in every_runtime() {
        let port = worksong.listening_port();
        let held = at_once(move || hold(port, pid_of));
        let shares = count(held.iter().map(|(_, pid)| *pid));
        assert_eq!(shares.len(), WORKERS, "{shares:?}");
        assert!(shares.values().all(|share| (70..=130).contains(share)), "{shares:?}");
    }
}

#[test]
fn short_connections_are_spread() {
    for (worksong, pid_of) in every_runtime() {
        let port = worksong.listening_port();
        let shares = count(at_once(move || pid_of(&http::get(port, "/").expect("an answer"))));
        assert_eq!(shares.len(), WORKERS, "{shares:?}");
        assert!(shares.values().all(|share| *share >= CONNECTIONS / WORKERS / 4), "{shares:?}");
    }
}

#[test]
fn a_worker_whose_connections_end_gets_the_next_ones() {
    for (worksong, pid_of) in every_runtime() {
        let port = worksong.listening_port();
        let mut held: Vec<_> = (0..20 * WORKERS).map(|_| hold(port, pid_of)).collect();
        // Without a core for some milliseconds a worker is passed by, and catches up then.
        eventually("even shares", || {
            let shares = count(held.iter().map(|(_, pid)| *pid));
            let is_even = shares.values().max() <= shares.values().min().map(|least| least + 2).as_ref();
            held.push(hold(port, pid_of));
            (is_even && shares.len() == WORKERS).then_some(())
        });
        let freed = held[0].1;
        held.retain(|(_, pid)| *pid != freed);
        let is_next = || http::get(port, "/").is_ok_and(|answer| pid_of(&answer) == freed);
        eventually("three in a row for it", || (0..3).all(|_| is_next()).then_some(()));
        let mut next: Vec<_> = Vec::new();
        eventually("eight of the next twelve for it, which has room", || {
            next.extend((0..12).map(|_| hold(port, pid_of)));
            let of_freed = next.iter().rev().take(12).filter(|(_, pid)| *pid == freed).count();
            (of_freed >= 8).then_some(())
        });
    }
}

#[test]
fn a_worker_that_blocks_gets_one_connection() {
    let folder = Folder::new();
    let program = folder.write("blocks.js", BLOCKS);
    let launch = Worksong::run(["-i", "2", "--policy", "least"]).program(program);
    let worksong = launch.env("RELEASE", folder.join("release")).start();
    worksong.wait_ready(2);
    let port = worksong.listening_port();
    // The other one has more connections all the time: by these alone, every new one would be for the one that blocks.
    let mut held: Vec<_> = (0..200).map(|_| hold(port, Response::json_pid)).collect();
    let (mut blocking, blocked) = held.pop().expect("there are some");
    held.retain(|(_, pid)| *pid != blocked);
    blocking.send(b"GET /block HTTP/1.1\r\nhost: a\r\n\r\n").expect("it is open");
    worksong.wait_output("the block", |line| (line.line == "blocked").then_some(()));
    let new: Vec<Connection> = (0..40)
        .map(|_| {
            let mut connection = Connection::open(port).expect("it listens");
            connection.send(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n").expect("it is open");
            thread::park_timeout(Duration::from_millis(20));
            connection
        })
        .collect();
    folder.write("release", "");
    let pids = new.into_iter().map(|mut one| one.read_response(false).expect("an answer").json_pid());
    let stuck = count(pids).get(&blocked).copied().unwrap_or(0);
    // One, and perhaps another one while a busy machine keeps the others from answering.
    assert!(stuck <= 2, "{stuck} of 40 waited for the one that blocked");
}
