//! Connections that outlive their worker: idle ones move to the next one, and clients notice nothing.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking, also in its helpers")]

use std::collections::BTreeSet;
use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::process::Command;

use serde_json::{Value, json};
use worksong_testkit::http::{Address, Connection, Response};
use worksong_testkit::{
    Event, Folder, Load, NODE_VERSIONS, Program, Signal, Worksong, eventually, fixture, node,
};

/// Clients with a connection each; every worker has some.
const CLIENTS: usize = 12;
const RELOADS: u32 = 2;

fn exits(worksong: &Worksong) -> Vec<Event> {
    worksong.events().into_iter().filter(|event| event.name() == "exit").collect()
}

/// Reloads, and waits until every old worker has ended, which each must do by itself.
#[track_caller]
fn reload(worksong: &Worksong) {
    let old = worksong.worker_pids();
    worksong.signal(Signal::HUP);
    // One by one, each when its successor is ready: on a busy machine some programs take many seconds for that.
    for count in 1..=old.len() {
        let mut leaving = 0;
        worksong.wait_event("draining", |event| {
            leaving += usize::from(old.contains(&event.pid()));
            leaving == count
        });
    }
    for pid in old {
        let exit = worksong.wait_event("exit", |event| event.pid() == pid);
        assert_eq!((&exit["code"], &exit["voluntary"]), (&json!(0), &json!(true)), "{exit:?}");
    }
    let signalled: Vec<Event> =
        worksong.events().into_iter().filter(|event| event.name() == "signalled").collect();
    assert!(signalled.is_empty(), "{signalled:?}");
}

/// Reloads under clients that keep their connections and never pause.
#[track_caller]
fn assert_no_connection_ends(worksong: &Worksong, address: impl Into<Address>, what: &str) {
    let clients = Load::keep_alive(address, CLIENTS, Response::json_pid);
    let mut workers: BTreeSet<u32> = worksong.worker_pids();
    for generation in 2..2 + RELOADS {
        clients.wait_answers_on_each();
        reload(worksong);
        workers.extend(worksong.worker_pids());
        let is_next = |event: &Event| event.generation() == generation;
        let report = worksong.wait_event("reload_report", is_next);
        assert_eq!((&report["workers"], &report["cut"]), (&json!(2), &json!(0)), "{what}: {report:?}");
        let moved = report["moved"].as_u64().unwrap();
        assert!(moved >= CLIENTS as u64, "{what}: every connection was at a worker that left: {report:?}");
    }
    clients.wait_answers(4 * CLIENTS);
    let answered = clients.finish_without_failure();
    assert!(answered.len() > 2 && answered.is_subset(&workers), "{what}: {answered:?} of {workers:?}");
}

fn assert_programs_keep_connections(version: &str) {
    let mut programs = vec!["node/http.js", "node/express.js", "node/koa.js", "node/esm.mjs"];
    if version != "18" {
        programs.push("node/fastify.js");
    }
    for program in programs {
        let worksong = Worksong::run(["-i", "2"]).node(version).program(fixture(program)).start();
        worksong.wait_ready(2);
        assert_no_connection_ends(&worksong, worksong.listening_port(), &format!("{program} on {version}"));
    }
}

#[test]
fn node_18_keeps_connections_through_reloads() {
    assert_programs_keep_connections("18");
}

#[test]
fn node_20_keeps_connections_through_reloads() {
    assert_programs_keep_connections("20");
}

#[test]
fn node_22_keeps_connections_through_reloads() {
    assert_programs_keep_connections("22");
}

#[test]
fn node_24_keeps_connections_through_reloads() {
    assert_programs_keep_connections("24");
}

#[test]
fn what_workers_accepted_by_themselves_moves_too() {
    for (version, policy) in
        NODE_VERSIONS.into_iter().flat_map(|version| [(version, "shared"), (version, "kernel")])
    {
        let launch = Worksong::run(["-i", "2", "--policy", policy]).node(version);
        let worksong = launch.program(fixture("node/http.js")).start();
        worksong.wait_ready(2);
        assert_no_connection_ends(&worksong, worksong.listening_port(), &format!("{policy} on {version}"));
    }
}

#[test]
fn connections_of_unix_sockets_move() {
    let folder = Folder::new();
    for name in ["path", "\0abstract"] {
        let path = folder.join(name.trim_start_matches('\0'));
        let worksong = Worksong::run(["-i", "2"]).env("PORT", &path).program(fixture("node/http.js")).start();
        worksong.wait_ready(2);
        assert_no_connection_ends(&worksong, path.as_path(), name);
    }
}

/// A worker with a connection, before a reload.
struct One {
    worksong: Worksong,
    connection: Connection,
    folder: Folder,
}

impl One {
    fn start(version: &str) -> Self {
        Self::start_with(version, &[])
    }

    fn start_with(version: &str, options: &[&str]) -> Self {
        let folder = Folder::new();
        let launch = Worksong::run(["-i", "1"]).args(options).env("RELEASE", folder.join("release"));
        let worksong = launch.node(version).program(fixture("node/waits.js")).start();
        let connection = Connection::open(worksong.listening_port()).unwrap();
        Self { worksong, connection, folder }
    }

    fn ask(&mut self) -> u32 {
        self.connection.get("/").unwrap().text().parse().unwrap()
    }

    /// Replaces the worker; the old one may have something to finish.
    fn replace(&self) {
        self.worksong.signal(Signal::HUP);
        self.worksong.wait_event("reload_done", |_| true);
        self.worksong.wait_event("draining", |_| true);
    }

    fn successor(&self) -> u32 {
        self.worksong.wait_event("ready", |event| event.generation() == 2).pid()
    }
}

#[test]
fn a_connection_without_a_request_moves() {
    for version in NODE_VERSIONS {
        let mut one = One::start(version);
        reload(&one.worksong);
        assert_eq!(one.ask(), one.successor(), "Node {version}");
    }
}

#[test]
fn a_request_that_runs_is_finished_and_its_connection_moves_then() {
    for version in NODE_VERSIONS {
        let mut one = One::start(version);
        let old = one.ask();
        one.connection.send(b"GET /wait HTTP/1.1\r\nhost: a\r\n\r\n").unwrap();
        one.worksong.wait_output("the request", |line| (line.line == "waiting").then_some(()));
        one.replace();
        one.folder.write("release", "");
        assert_eq!(one.connection.read_response(false).unwrap().text(), old.to_string(), "Node {version}");
        one.worksong.wait_event("exit", |event| event.pid() == old);
        assert_eq!(one.ask(), one.successor(), "Node {version}");
    }
}

/// The agent rests fifty times as long as a look took: by the clock that would be 15 s after one of 300 ms.
#[test]
fn a_look_that_took_long_by_chance_does_not_delay_the_next() {
    let folder = Folder::new();
    let program = folder.write(
        "stalls.js",
        "const { existsSync, writeSync } = require('node:fs');
         const server = require('node:http').createServer((request, response) => {
           const answer = () => {
             if (request.url === '/wait' && !existsSync(process.env.RELEASE)) return setTimeout(answer, 10);
             response.end(String(process.pid));
           };
           if (request.url === '/wait') console.log('waiting');
           answer();
         });
         server.listen(0, () => {
           const symbol = Object.getOwnPropertySymbols(server)
             .find(({ description }) => description === 'http.server.connections');
           const { all } = server[symbol];
           let looks = 0;
           server[symbol].all = function () {
             if ((looks += 1) === 2) {
               Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, 300);
               writeSync(1, 'looked\\n');
             }
             return Reflect.apply(all, this, []);
           };
         });",
    );
    for version in NODE_VERSIONS {
        let folder = Folder::new();
        let launch = Worksong::run(["-i", "1", "--drain-timeout", "8s"]).node(version).program(&program);
        let worksong = launch.env("RELEASE", folder.join("release")).start();
        let connection = Connection::open(worksong.listening_port()).unwrap();
        let mut one = One { worksong, connection, folder };
        let old = one.ask();
        one.connection.send(b"GET /wait HTTP/1.1\r\nhost: a\r\n\r\n").unwrap();
        one.worksong.wait_output("the request", |line| (line.line == "waiting").then_some(()));
        one.replace();
        one.worksong.wait_output("the look", |line| (line.line == "looked").then_some(()));
        one.folder.write("release", "");
        one.connection.read_response(false).unwrap();
        one.worksong.wait_event("exit", |event| event.pid() == old);
        assert_eq!(one.ask(), one.successor(), "Node {version}");
    }
}

/// Each request is answered when the next one has come, so the connection is never idle.
#[test]
fn connections_of_clients_that_never_pause_end_with_an_answer() {
    const REQUEST: &[u8] = b"GET / HTTP/1.1\r\nhost: a\r\n\r\n";
    let folder = Folder::new();
    let program = folder.write(
        "late.js",
        "const last = new WeakMap();
         require('node:http').createServer((request, response) => {
           last.get(request.socket)?.end(String(process.pid));
           last.set(request.socket, response);
         }).listen(0);",
    );
    for version in NODE_VERSIONS {
        let launch = Worksong::run(["-i", "1", "--drain-timeout", "3s"]).node(version);
        let worksong = launch.program(&program).start();
        let mut connection = Connection::open(worksong.listening_port()).unwrap();
        connection.send(REQUEST).unwrap();
        worksong.signal(Signal::HUP);
        let is_kept = |connection: &mut Connection| {
            connection.send(REQUEST).unwrap();
            let answer = connection.read_response(false).expect("it is not cut");
            answer.header("connection") != Some("close")
        };
        while is_kept(&mut connection) {}
        let exit = worksong.wait_event("exit", |_| true);
        assert_eq!(
            (&exit["code"], &exit["voluntary"]),
            (&json!(0), &json!(true)),
            "Node {version}: {exit:?}"
        );
        let report = worksong.wait_event("reload_report", |_| true);
        assert_eq!((&report["moved"], &report["cut"]), (&json!(0), &json!(0)), "Node {version}: {report:?}");
    }
}

#[test]
fn what_is_cut_is_counted() {
    let mut one = One::start_with("22", &["--drain-timeout", "3s"]);
    one.connection.send(b"GET /wait HTTP/1.1\r\nhost: a\r\n\r\n").unwrap();
    one.worksong.wait_output("the request", |line| (line.line == "waiting").then_some(()));
    let mut idle = Connection::open(one.worksong.listening_port()).unwrap();
    idle.get("/").unwrap();
    one.worksong.signal(Signal::HUP);
    let report = one.worksong.wait_event("reload_report", |_| true);
    assert_eq!((&report["moved"], &report["cut"]), (&json!(1), &json!(1)), "{report:?}");
    one.connection.read_response(false).expect_err("its worker was ended");
    assert_eq!(idle.get("/").unwrap().text(), one.successor().to_string());
}

#[test]
fn a_stop_in_the_middle_of_a_reload_keeps_nothing_open() {
    for version in NODE_VERSIONS {
        let mut one = One::start(version);
        let mut idle = Connection::open(one.worksong.listening_port()).unwrap();
        idle.get("/").unwrap();
        one.connection.send(b"GET /wait HTTP/1.1\r\nhost: a\r\n\r\n").unwrap();
        one.worksong.wait_output("the request", |line| (line.line == "waiting").then_some(()));
        one.replace();
        one.worksong.signal(Signal::TERM);
        one.worksong.wait_event("stopping", |_| true);
        one.folder.write("release", "");
        let answer = one.connection.read_response(false).unwrap();
        assert_eq!(answer.header("connection"), Some("close"), "Node {version}");
        assert_eq!(one.worksong.wait_exit().code(), Some(0));
        assert!(exits(&one.worksong).iter().all(|exit| exit["voluntary"] == true), "Node {version}");
    }
}

#[test]
fn each_of_two_reloads_has_its_report() {
    let mut one = One::start_with("24", &["--drain-timeout", "2s"]);
    one.connection.send(b"GET /wait HTTP/1.1\r\nhost: a\r\n\r\n").unwrap();
    one.worksong.wait_output("the request", |line| (line.line == "waiting").then_some(()));
    one.replace();
    one.worksong.signal(Signal::HUP);
    one.worksong.wait_event("reload_started", |event| event.generation() == 3);
    let first = one.worksong.wait_event("reload_report", |event| event.generation() == 2);
    assert_eq!((&first["workers"], &first["cut"]), (&json!(1), &json!(1)), "{first:?}");
    let second = one.worksong.wait_event("reload_report", |event| event.generation() == 3);
    assert_eq!((&second["workers"], &second["cut"]), (&json!(1), &json!(0)), "{second:?}");
}

#[test]
fn half_a_request_keeps_its_connection_where_it_is() {
    for version in NODE_VERSIONS {
        let mut one = One::start(version);
        let old = one.ask();
        one.connection.send(b"GET / HTTP/1.1\r\nho").unwrap();
        // It has been read when a request behind it, on another connection, is answered.
        let mut other = Connection::open(one.worksong.listening_port()).unwrap();
        assert_eq!(other.get("/").unwrap().text(), old.to_string());
        one.replace();
        let successor = one.successor().to_string();
        eventually("the move of the idle connection", || {
            (other.get("/").unwrap().text() == successor).then_some(())
        });
        one.connection.send(b"st: a\r\n\r\n").unwrap();
        assert_eq!(one.connection.read_response(false).unwrap().text(), old.to_string(), "Node {version}");
        one.worksong.wait_event("exit", |event| event.pid() == old);
        assert_eq!(one.ask(), one.successor(), "Node {version}");
    }
}

/// A program may let the HTTP server that listens speak over sockets which are none of the system's.
#[test]
fn http_over_a_socket_of_the_programs_own_stays_where_it_is() {
    let folder = Folder::new();
    let program = folder.write(
        "both.js",
        "const { readFileSync } = require('node:fs');
         const tls = require('node:tls');
         const server = require('node:http').createServer((request, response) => response.end(String(process.pid)));
         const read = (name) => readFileSync(`${process.env.TLS}/${name}.pem`);
         const front = tls.createServer({ key: read('key'), cert: read('cert') }, (socket) => {
           server.emit('connection', socket);
         });
         server.listen(0);
         front.listen({ port: 0, exclusive: true }, () => {
           const socket = tls.connect({ port: front.address().port, rejectUnauthorized: false }, () => {
             socket.write('GET / HTTP/1.1\\r\\nhost: a\\r\\n\\r\\n');
           });
           socket.once('data', () => console.log('answered'));
         });",
    );
    for version in NODE_VERSIONS {
        let options = ["-i", "1", "--drain-timeout", "2s"];
        let launch = Worksong::run(options).node(version).env("TLS", fixture("node/tls"));
        let worksong = launch.program(&program).start();
        worksong.wait_output("its own connection", |line| (line.line == "answered").then_some(()));
        let mut connection = Connection::open(worksong.listening_port()).unwrap();
        let old: u32 = connection.get("/").unwrap().text().parse().unwrap();
        worksong.signal(Signal::HUP);
        let exit = worksong.wait_event("exit", |event| event.pid() == old);
        // Its program ends by nothing else.
        assert!(exit["signal"].is_null() || exit["signal"] == "SIGTERM", "Node {version}: {exit:?}");
        let new: u32 = connection.get("/").unwrap().text().parse().unwrap();
        assert_ne!(new, old, "Node {version}: the plain one has moved");
    }
}

#[test]
fn the_agent_is_not_seen_by_the_program_or_what_it_starts() {
    let folder = Folder::new();
    let program = folder.write(
        "options.js",
        "const child = require('child_process').execFileSync(process.execPath, ['-p', 'process.env.NODE_OPTIONS']);
         console.log(JSON.stringify([process.env.NODE_OPTIONS ?? null, process.execArgv, String(child).trim()]));
         require('http').createServer((request, response) => response.end()).listen(0);",
    );
    for version in NODE_VERSIONS {
        for (options, seen) in [
            (None, json!([null, [], "undefined"])),
            (Some("--no-warnings"), json!(["--no-warnings", [], "--no-warnings"])),
        ] {
            let mut launch = Worksong::run(["-i", "1"]).node(version);
            if let Some(options) = options {
                launch = launch.env("NODE_OPTIONS", options);
            }
            let worksong = launch.program(&program).start();
            let line = worksong.wait_output("what it sees", |line| Some(line.line.clone()));
            assert_eq!(serde_json::from_str::<serde_json::Value>(&line).unwrap(), seen, "Node {version}");
        }
    }
}

/// A worker that could not read its agent would not start.
#[test]
fn a_program_that_reads_only_what_it_may_keeps_connections() {
    let folder = Folder::new();
    let program = folder.write(
        "restricted.js",
        "const may = (what, ...rest) => process.permission.has(what, ...rest);
         console.log(JSON.stringify([process.env.NODE_OPTIONS ?? null, may('fs.read', '/etc/passwd'), may('child')]));
         require('http').createServer((request, response) => response.end(String(process.pid))).listen(0);",
    );
    let reads = format!("--allow-fs-read={}/*", folder.path().display());
    for (version, restriction) in [
        ("20", "--experimental-permission"),
        ("22", "--experimental-permission"),
        ("22", "--permission"),
        ("24", "--permission"),
    ] {
        let what = format!("Node {version} with {restriction}");
        let options = format!("{restriction} {reads}");
        let launch = Worksong::run(["-i", "1", "--interpreter-args", &options]).node(version);
        let worksong = launch.program(&program).start();
        let seen = worksong.wait_output("what it may", |line| Some(line.line.clone()));
        assert_eq!(seen, "[null,false,false]", "{what}");
        let mut connection = Connection::open(worksong.listening_port()).unwrap();
        let old: u32 = connection.get("/").unwrap().text().parse().unwrap();
        reload(&worksong);
        let new: u32 = connection.get("/").unwrap().text().parse().unwrap();
        assert_ne!(new, old, "{what}");
    }
}

/// Node sends one handle at a time, and keeps others as they are until it is acknowledged.
#[test]
fn connections_move_behind_a_handle_of_the_program() {
    let folder = Folder::new();
    let program = folder.write(
        "sends.js",
        "const net = require('node:net');
         const server = require('node:http').createServer((request, response) => response.end(String(process.pid)));
         const own = net.createServer((socket) => { own.close(); socket.resume(); });
         own.listen({ port: 0, host: '127.0.0.1', exclusive: true }, () => {
           let other = net.connect(own.address().port, '127.0.0.1', () => server.listen(0));
           process.prependListener('internalMessage', (message) => {
             if (message.act !== 'give' || other === undefined) return;
             process.send('mine', other);
             other = undefined;
           });
         });",
    );
    for version in NODE_VERSIONS {
        let options = ["-i", "1", "--drain-timeout", "10m"];
        let worksong = Worksong::run(options).node(version).program(&program).start();
        let mut connection = Connection::open(worksong.listening_port()).unwrap();
        let old: u32 = connection.get("/").unwrap().text().parse().unwrap();
        reload(&worksong);
        let new: u32 = connection.get("/").unwrap().text().parse().unwrap();
        assert_ne!(new, old, "Node {version}");
        let garbage = worksong.events().into_iter().find(|event| event.name() == "garbage");
        assert!(garbage.is_none(), "Node {version} counts them twice: {garbage:?}");
    }
}

/// On a busy machine a look at all connections may take long, and use little of the processor.
#[test]
fn connections_move_after_a_look_that_took_long() {
    let folder = Folder::new();
    let program = folder.write(
        "stalls.js",
        "let answer, looks = 0;
         const server = require('node:http').createServer((request, response) => {
           answer = () => response.end(String(process.pid));
           if (request.url === '/held') console.log('held');
           else answer();
         });
         server.listen(0, () => {
           const symbol = Object.getOwnPropertySymbols(server)
             .find(({ description }) => description === 'http.server.connections');
           const connections = server[symbol];
           const { idle } = connections;
           connections.idle = () => {
             const found = idle.call(connections);
             // The second look is the first one of those that go on until something is idle.
             if ((looks += 1) === 2) {
               Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, 400);
               answer();
             }
             return found;
           };
         });",
    );
    for version in NODE_VERSIONS {
        let options = ["-i", "1", "--drain-timeout", "15s"];
        let worksong = Worksong::run(options).node(version).program(&program).start();
        let mut connection = Connection::open(worksong.listening_port()).unwrap();
        connection.get("/").unwrap();
        connection.send(b"GET /held HTTP/1.1\r\nhost: a\r\n\r\n").unwrap();
        worksong.wait_output("the request", |line| (line.line == "held").then_some(()));
        reload(&worksong);
        let old: u32 = connection.read_response(false).unwrap().text().parse().unwrap();
        let new: u32 = connection.get("/").unwrap().text().parse().unwrap();
        assert_ne!(new, old, "Node {version}");
    }
}

#[test]
fn a_server_that_tries_again_to_listen_has_one_listener_of_the_agent() {
    let folder = Folder::new();
    let program = folder.write(
        "stubborn.js",
        "let tries = 0;
         const server = require('node:http').createServer().on('error', () => {
           if ((tries += 1) === 3) server.listen(0);
           else server.listen(1, '192.0.2.1');
         });
         server.on('listening', () => console.log(`listeners: ${server.listenerCount('close')}`));
         server.listen(1, '192.0.2.1');",
    );
    for version in NODE_VERSIONS {
        let worksong = Worksong::run(["-i", "1"]).node(version).program(&program).start();
        let count = worksong
            .wait_output("the count", |line| line.line.strip_prefix("listeners: ").map(str::to_owned));
        assert_eq!(count, "1", "Node {version}");
    }
}

#[test]
fn without_the_agent_connections_end_with_their_worker() {
    let mut one = {
        let worksong = Worksong::run(["-i", "1", "--no-agent"]).program(fixture("node/http.js")).start();
        let connection = Connection::open(worksong.listening_port()).unwrap();
        One { worksong, connection, folder: Folder::new() }
    };
    one.connection.get("/").unwrap();
    reload(&one.worksong);
    one.connection.get("/").expect_err("its worker is gone");
}

#[test]
fn that_the_agent_cannot_be_written_is_told() {
    let runtime = Folder::new();
    // Whoever can write there could change what every worker loads.
    fs::set_permissions(runtime.make("worksong"), Permissions::from_mode(0o777)).unwrap();
    let launch = Worksong::run(["-i", "1"]).env("XDG_RUNTIME_DIR", runtime.path());
    let worksong = launch.program(fixture("node/http.js")).start();
    let told = worksong.wait_event("no_agent", |_| true);
    let reason = told["reason"].as_str().unwrap();
    assert!(reason.ends_with("worksong is not a folder that only this user can write to"), "{reason}");
    let mut connection = Connection::open(worksong.listening_port()).unwrap();
    connection.get("/").unwrap();
    reload(&worksong);
    connection.get("/").expect_err("its worker is gone");
    let report = worksong.wait_event("reload_report", |_| true);
    assert_eq!((&report["moved"], report.has("cut")), (&json!(0), false), "{report:?}");
}

/// Reloads under a client that goes on until the server ends its connection; returns how it was ended.
fn end_of_what_cannot_move(version: &str, program: &str, kind: &str) -> Value {
    let worksong = Worksong::run(["-i", "1"]).node(version).program(fixture(program)).start();
    let port = worksong.listening_port().to_string();
    let client = fixture("node/polite-client.js");
    let client = Program::start(Command::new(node(version)).arg(client).args([&port, kind]));
    let first = client.wait_line("the first answer", |line| serde_json::from_str::<Value>(line).ok());
    worksong.signal(Signal::HUP);
    let successor = worksong.wait_event("ready", |event| event.generation() == 2).pid();
    let change = client.wait_line("an answer of the successor", |line| {
        let change: Value = serde_json::from_str(line).ok()?;
        (change["pid"] == successor).then_some(change)
    });
    assert_eq!(change["before"], first["pid"], "Node {version}");
    assert_eq!(change["failures"], json!([]), "Node {version}");
    worksong.wait_event("exit", |event| first["pid"] == event.pid());
    change["end"].clone()
}

#[test]
fn tls_connections_end_with_an_answer() {
    for version in NODE_VERSIONS {
        assert_eq!(end_of_what_cannot_move(version, "node/https.js", "https"), "close", "Node {version}");
    }
}

#[test]
fn http2_sessions_are_told_to_go_away() {
    for version in NODE_VERSIONS {
        assert_eq!(end_of_what_cannot_move(version, "node/h2.js", "h2"), "goaway", "Node {version}");
    }
}

#[test]
fn programs_close_their_web_sockets() {
    for version in NODE_VERSIONS {
        assert_eq!(end_of_what_cannot_move(version, "node/ws.js", "ws"), 1001, "Node {version}");
    }
}
