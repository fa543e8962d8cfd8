//! Workers that leave by themselves, as the `domain` pattern makes them do after an error.

use worksong_testkit::http::{self, Connection, Response};
use worksong_testkit::{Folder, Launch, Load, NODE_VERSIONS, Worksong, binary, free_port};

/// A Node worker that leaves when it is asked for `/leave`.
const NODE: &str = "
const cluster = require('node:cluster');
const http = require('node:http');
http.createServer((request, response) => {
  response.setHeader('connection', 'close');
  response.end(JSON.stringify({ pid: process.pid }));
  if (request.url === '/leave') cluster.worker.disconnect();
}).listen(0);
";

/// Lets the only worker leave three times while a client opens new connections.
fn assert_none_is_refused(launch: Launch, pid: fn(&Response) -> u32) {
    let worksong = launch.start();
    worksong.wait_ready(1);
    let port = worksong.listening_port();
    let load = Load::start(port, pid);
    for count in 1..=3 {
        load.wait_answers(5);
        http::get(port, "/leave").expect("an answer");
        let mut exits = 0;
        let exit = worksong.wait_event("exit", |_| {
            exits += 1;
            exits == count
        });
        assert_eq!((&exit["code"], &exit["voluntary"]), (&0.into(), &true.into()), "{exit:?}");
    }
    load.wait_answers(5);
    load.finish_without_failure();
}

#[test]
fn the_only_node_worker_leaves_and_no_connection_is_refused() {
    let folder = Folder::new();
    let program = folder.write("leaves.js", NODE);
    assert_none_is_refused(Worksong::run(["-i", "1"]).program(program), Response::json_pid);
}

#[test]
fn the_only_rust_worker_leaves_and_no_connection_is_refused() {
    let launch = Worksong::run(["-i", "1", "--dialect", "native"]).program(binary("examples/under_node"));
    assert_none_is_refused(launch, |answer| {
        answer.header("pid").and_then(|pid| pid.parse().ok()).expect("a pid")
    });
}

/// Node closes idle connections when a server is closed, but waits for those that have had no request in this worker.
#[test]
fn a_node_worker_that_leaves_does_not_wait_for_connections_without_a_request() {
    let folder = Folder::new();
    let program = folder.write("leaves.js", NODE);
    for version in NODE_VERSIONS {
        let worksong = Worksong::run(["-i", "1"]).node(version).program(&program).start();
        worksong.wait_ready(1);
        let port = worksong.listening_port();
        let mut idle = Connection::open(port).expect("a connection");
        http::get(port, "/leave").expect("an answer");
        let exit = worksong.wait_event("exit", |_| true);
        assert_eq!(
            (&exit["code"], &exit["voluntary"]),
            (&0.into(), &true.into()),
            "Node {version}: {exit:?}"
        );
        idle.get("/").expect_err("nobody was there to take it");
    }
}

#[test]
fn connections_of_a_node_worker_that_leaves_move_to_others() {
    let folder = Folder::new();
    let program = folder.write("leaves.js", NODE);
    for version in NODE_VERSIONS {
        let worksong = Worksong::run(["-i", "2"]).node(version).program(&program).start();
        worksong.wait_ready(2);
        let port = worksong.listening_port();
        let mut idle: Vec<Connection> =
            (0..8).map(|_| Connection::open(port).expect("a connection")).collect();
        let left = Response::json_pid(&http::get(port, "/leave").expect("an answer"));
        let exit = worksong.wait_event("exit", |_| true);
        assert_eq!((exit.pid(), &exit["voluntary"]), (left, &true.into()), "Node {version}: {exit:?}");
        for connection in &mut idle {
            let answer = connection.get("/").expect("its client notices nothing");
            assert_ne!(Response::json_pid(&answer), left, "Node {version}");
        }
    }
}

#[test]
fn a_server_that_listens_again_keeps_connections_without_a_request() {
    const AGAIN: &str = "
const server = require('node:http').createServer((request, response) => {
  response.end('ok');
  if (request.url !== '/again') return;
  server.close();
  server.listen(process.env.PORT, () => setTimeout(() => console.log('later'), 1500));
});
server.listen(process.env.PORT);
";
    let folder = Folder::new();
    let program = folder.write("again.js", AGAIN);
    for version in ["18", "24"] {
        let port = free_port();
        let launch = Worksong::run(["-i", "1"]).node(version).env("PORT", port.to_string());
        let worksong = launch.program(&program).start();
        worksong.wait_ready(1);
        http::get(port, "/again").expect("an answer");
        let mut connection = Connection::open(port).expect("the listener stays open");
        worksong.wait_output("that a second is over", |output| (output.line == "later").then_some(()));
        assert_eq!(connection.get("/").expect("it was not closed").text(), "ok", "Node {version}");
    }
}

#[test]
fn a_request_is_answered_that_comes_while_its_worker_closes_its_server_and_stands_still() {
    const CLOSES: &str = "
const server = require('node:http').createServer((request, response) => {
  response.end('ok');
  if (request.url !== '/close') return;
  server.close();
  console.log('closed');
  for (const until = Date.now() + 1500; Date.now() < until;);
});
server.listen(0);
";
    let folder = Folder::new();
    let program = folder.write("closes.js", CLOSES);
    for version in ["18", "24"] {
        let worksong = Worksong::run(["-i", "1"]).node(version).program(&program).start();
        worksong.wait_ready(1);
        let port = worksong.listening_port();
        let mut silent = Connection::open(port).expect("a connection");
        let mut closing = Connection::open(port).expect("a connection");
        closing.send(b"GET /close HTTP/1.1\r\nhost: a\r\n\r\n").expect("it is open");
        worksong.wait_output("that it closes", |output| (output.line == "closed").then_some(()));
        assert_eq!(silent.get("/").expect("it is not reset").text(), "ok", "Node {version}");
    }
}
