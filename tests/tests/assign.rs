//! `GET /assign` at the control address: clients are sent to the worker with the fewest connections.

use std::collections::BTreeSet;
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use serde_json::{Value, json};
use worksong_testkit::http::{self, Address, Connection, Response};
use worksong_testkit::{
    Folder, Launch, Signal, Worksong, binary, eventually, fixture, free_port, free_ports, process, python,
};

/// weroll's Realtime as its documentation has it: each worker on the port + the number of its instance.
fn realtime(base: u16, options: &[&str]) -> Launch {
    let base = base.to_string();
    let common =
        ["-i", "3", "--name", "realtime", "--control", "0", "--drain-timeout", "1s", "--port", &base];
    Worksong::run(common).args(options).program(fixture("node/seeds/weroll-realtime/cluster.js"))
}

/// A program that reads `PORT` and knows nothing of worksong.
fn plain(base: u16, options: &[&str]) -> Launch {
    let base = base.to_string();
    let common = [
        "-i",
        "3",
        "--name",
        "plain",
        "--dialect",
        "port",
        "--ready",
        "tcp",
        "--control",
        "0",
        "--port",
        &base,
    ];
    Worksong::run(common).args(options).program(binary("rust-raw"))
}

/// A program that binds its port itself, and reads only the number of its slot.
fn captured(base: u16, options: &[&str]) -> Launch {
    const SCRIPT: &str = "import http.server, os, sys\n\
        port = int(sys.argv[1]) + int(os.environ['WORKSONG_SLOT'])\n\
        http.server.ThreadingHTTPServer(('127.0.0.1', port), http.server.SimpleHTTPRequestHandler).serve_forever()";
    let common = ["-i", "3", "--name", "captured", "--dialect", "capture", "--control", "0"];
    Worksong::run(common).args(options).args([python().as_os_str()]).args(["-c", SCRIPT, &base.to_string()])
}

/// Returns the port of the control address, which the kernel chose.
fn control_port(worksong: &Worksong) -> u16 {
    eventually("the control address", || {
        let lines = worksong.lines();
        let told = lines.iter().find_map(|line| line.text.split_once("/assign is answered at 127.0.0.1:"));
        told?.1.trim_end_matches(['"', '}']).parse().ok()
    })
}

fn assign(control: u16) -> Value {
    let answer = http::get(control, "/assign").expect("an answer");
    assert_eq!(answer.status, 200, "{}", answer.text());
    answer.json()
}

/// Asks until there is a worker that listens: ready means started for a program that is not probed.
fn assign_when_one_listens(control: impl Into<Address>) -> Value {
    let control = control.into();
    eventually("somebody who listens", || {
        let answer = http::get(control.clone(), "/assign").ok()?;
        (answer.status == 200).then(|| answer.json())
    })
}

fn port_of(assigned: &Value) -> u16 {
    assigned["port"].as_u64().and_then(|port| u16::try_from(port).ok()).expect("a port")
}

/// Connects so many clients one after the other, each where it is sent to.
fn connect(control: u16, clients: usize) -> Vec<(u16, TcpStream)> {
    let connect = |_| {
        let port = port_of(&assign(control));
        (port, TcpStream::connect(("127.0.0.1", port)).expect("it listens"))
    };
    (0..clients).map(connect).collect()
}

fn count(clients: &[(u16, TcpStream)], port: u16) -> usize {
    clients.iter().filter(|(at, _)| *at == port).count()
}

#[test]
fn clients_are_sent_to_who_has_least() {
    for launch in [realtime, plain, captured] {
        let base = free_ports(3);
        let worksong = launch(base, &[]).start();
        worksong.wait_ready(3);
        let control = control_port(&worksong);
        // Whoever is ready listens; its port is known when its `listening` is.
        let mut clients = connect(control, 30);
        for port in base..base + 3 {
            assert_eq!(count(&clients, port), 10, "all have equal shares");
        }
        // Nine of the second worker's clients leave. Once the kernel has noticed, all are sent there until it has its share again.
        let mut left = 0;
        clients.retain(|(port, _)| {
            let leaves = *port == base + 1 && left < 9;
            left += usize::from(leaves);
            !leaves
        });
        eventually("equal shares again", || {
            clients.extend(connect(control, 1));
            let shares = [base, base + 1, base + 2].map(|port| count(&clients, port));
            shares.iter().all(|share| *share == shares[0]).then_some(())
        });
    }
}

#[test]
fn a_burst_between_two_looks_is_spread() {
    let base = free_ports(3);
    let worksong = plain(base, &[]).start();
    worksong.wait_ready(3);
    let control = control_port(&worksong);
    let ports: Vec<u16> = (0..9).map(|_| port_of(&assign(control))).collect();
    let each: Vec<u16> = (0..3).flat_map(|_| base..base + 3).collect();
    assert_eq!(ports, each, "nobody connects, and each has its turn");
}

#[test]
fn only_workers_in_rotation_are_assigned() {
    for launch in [realtime, plain, captured] {
        let base = free_ports(3);
        let worksong = launch(base, &["--restart-delay", "60s"]).start();
        worksong.wait_ready(3);
        let control = control_port(&worksong);
        let victim = worksong.wait_event("ready", |event| event.slot() == 1).pid();
        process::kill(victim, Signal::KILL);
        worksong.wait_event("exit", |event| event.pid() == victim);
        let assigned: BTreeSet<u16> = (0..9).map(|_| port_of(&assign(control))).collect();
        assert_eq!(assigned, BTreeSet::from([base, base + 2]));

        for pid in worksong.worker_pids() {
            process::kill(pid, Signal::KILL);
            worksong.wait_event("exit", |event| event.pid() == pid);
        }
        let answer = http::get(control, "/assign").expect("an answer");
        assert_eq!((answer.status, answer.header("retry-after")), (503, Some("1")));
        let error = answer.json()["error"].as_str().map(str::to_owned).expect("an error");
        assert!(error.contains("is in rotation and listens at a port of its own"), "{error}");
    }
}

#[test]
fn nobody_is_sent_to_a_worker_that_does_not_listen_yet() {
    // The worker of the second slot listens when it is told to.
    const SCRIPT: &str = "const start = () => require('node:net').createServer().listen(process.env.PORT);\n\
        if (process.env.WORKSONG_SLOT === '1') process.on('SIGUSR1', start); else start();\n\
        setInterval(() => {}, 1000);\n\
        console.log('up');";
    let folder = Folder::new();
    let program = folder.write("late.js", SCRIPT);
    let base = free_ports(2);
    let options = ["-i", "2", "--dialect", "port", "--control", "0", "--port"];
    let worksong = Worksong::run(options).args([base.to_string()]).node("24").program(program).start();
    worksong.wait_ready(2);
    let control = control_port(&worksong);
    assign_when_one_listens(control);
    let held = connect(control, 6);
    assert_eq!(count(&held, base), 6, "the other one has fewer, and takes none");
    let late = worksong.wait_event("ready", |event| event.slot() == 1).pid();
    eventually("its handler", || {
        let up = worksong
            .lines()
            .iter()
            .filter(|line| line.text.contains("\"up\"") || line.text.ends_with("up"))
            .count();
        (up == 2).then_some(())
    });
    process::kill(late, Signal::USR1);
    eventually("the one that has fewer", || (port_of(&assign(control)) == base + 1).then_some(()));
}

#[test]
fn after_a_reload_the_same_ports_are_those_of_the_new_workers() {
    let base = free_ports(3);
    let worksong = realtime(base, &[]).start();
    let old = worksong.wait_ready(3);
    let control = control_port(&worksong);
    worksong.signal(Signal::HUP);
    worksong.wait_event("reload_report", |_| true);
    let upgrade = [
        ("connection", "Upgrade"),
        ("upgrade", "websocket"),
        ("sec-websocket-version", "13"),
        ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ=="),
    ];
    let mut answered = BTreeSet::new();
    let mut clients = Vec::new();
    for _ in 0..3 {
        let port = port_of(&assign(control));
        let mut client = Connection::open(port).expect("it listens");
        assert_eq!(client.request("GET", "/", &upgrade, b"").expect("an answer").status, 101);
        answered.insert(port);
        clients.push(client);
    }
    assert_eq!(answered, (base..base + 3).collect());
    assert!(worksong.worker_pids().is_disjoint(&old), "new workers answered");
}

#[test]
fn a_program_that_shares_its_port_with_its_successor_is_reloaded() {
    let folder = Folder::new();
    let program = folder.write(
        "shares.js",
        "const server = require('node:http').createServer((_, response) => response.end(String(process.pid)));\n\
         server.listen({ port: process.env.PORT, reusePort: true });\n\
         process.on('SIGTERM', () => server.close());\n",
    );
    let base = free_ports(2);
    let options = ["-i", "2", "--dialect", "port", "--control", "0", "--port"];
    let worksong = Worksong::run(options).args([base.to_string()]).node("24").program(program).start();
    let old = worksong.wait_ready(2);
    // Ready means started here.
    for port in [base, base + 1] {
        eventually("the port of the slot", || http::get(port, "/").ok());
    }
    let control = control_port(&worksong);
    worksong.signal(Signal::HUP);
    worksong.wait_event("reload_report", |_| true);
    for _ in 0..4 {
        let answer = http::get(port_of(&assign_when_one_listens(control)), "/").expect("an answer");
        let pid = answer.text().parse().expect("a pid");
        assert!(worksong.worker_pids().contains(&pid) && !old.contains(&pid));
    }
}

fn ask(control: u16, head: &str) -> Response {
    let mut connection = Connection::open(control).expect("it listens");
    connection.send(format!("{head}\r\n\r\n").as_bytes()).expect("it reads");
    connection.read_response(false).expect("an answer")
}

#[test]
fn answers_have_the_form_that_is_asked_for() {
    let base = free_ports(3);
    let worksong = plain(base, &[]).start();
    worksong.wait_ready(3);
    let control = control_port(&worksong);
    let answer = ask(control, "GET /assign?app=plain HTTP/1.1\r\nHost: ws.example.org:9000");
    assert_eq!(answer.header("content-type"), Some("application/json"));
    assert_eq!(answer.header("access-control-allow-origin"), Some("*"), "pages of other ports may ask");
    let address = format!("ws.example.org:{base}");
    let expected = json!({
        "app": "plain", "slot": 0, "host": "ws.example.org", "port": base, "address": address, "connections": 0,
    });
    assert_eq!(answer.json(), expected);
    let answer = ask(control, "GET /assign HTTP/1.1\r\nAccept: text/plain\r\nHost: [::1]:9000");
    assert_eq!(answer.text(), format!("[::1]:{}\n", base + 1));
    for (request, status) in [
        ("GET /assign?app=other", 404),
        ("GET /", 404),
        ("GET /status", 404),
        ("POST /assign", 405),
        ("DELETE /assign", 405),
    ] {
        let answer = ask(control, &format!("{request} HTTP/1.1\r\nHost: a"));
        assert_eq!(answer.status, status, "{request}");
        assert!(answer.json()["error"].is_string(), "{request}");
    }
}

#[test]
fn silent_visitors_keep_nobody_out() {
    let base = free_ports(3);
    let worksong = plain(base, &[]).start();
    worksong.wait_ready(3);
    let control = control_port(&worksong);
    let silent: Vec<_> =
        (0..100).map(|_| TcpStream::connect(("127.0.0.1", control)).expect("a queue")).collect();
    // The first 64 have to go before anybody is heard.
    assert_eq!(assign(control)["app"], "plain");
    drop(silent);
}

fn unix(path: &PathBuf, base: u16) -> Launch {
    Worksong::run(["-i", "1", "--dialect", "port", "--control"])
        .args([path])
        .args(["--port", &base.to_string()])
        .program(binary("rust-raw"))
}

#[test]
fn a_unix_socket_is_for_its_own_user_and_goes_with_the_primary() {
    let folder = Folder::new();
    let path = folder.join("control.sock");
    let worksong = unix(&path, free_port()).start();
    worksong.wait_ready(1);
    assert_eq!(assign_when_one_listens(path.as_path())["slot"], 0);
    let mode = std::fs::metadata(&path).expect("the socket is there").permissions().mode();
    assert_eq!(mode & 0o777, 0o600);

    let (status, lines) = unix(&path, free_port()).finish();
    assert_eq!(status.code(), Some(1));
    let refusal = "another process answers there; choose another one with --control";
    assert!(lines.iter().any(|line| line.text.contains(refusal)), "{lines:?}");

    worksong.signal(Signal::TERM);
    assert_eq!(worksong.wait_exit().code(), Some(0));
    assert!(!path.exists(), "it has gone");
}

#[test]
fn workers_that_share_their_port_have_none_to_be_sent_to() {
    let worksong = Worksong::run(["-i", "2", "--control", "0"]).program(fixture("node/http.js")).start();
    worksong.wait_ready(2);
    let answer = http::get(control_port(&worksong), "/assign").expect("an answer");
    assert_eq!(answer.status, 503);
}
