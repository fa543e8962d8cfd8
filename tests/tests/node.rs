//! Unmodified Node programs as workers: every version, framework and kind of module; also Deno and Bun.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking, also in its helpers")]

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;

use serde_json::{Value, json};
use worksong_testkit::http::Response;
use worksong_testkit::{
    Event, Folder, Launch, Load, NODE_VERSIONS, Program, Signal, Worksong, eventually, fixture, free_port,
    http, node,
};

/// Programs that every version of Node runs.
const PROGRAMS: [&str; 5] =
    ["node/http.js", "node/express.js", "node/koa.js", "node/esm.mjs", "node/commonjs.cjs"];

fn launch(version: &str, program: &str) -> Launch {
    Worksong::run(["-i", "2"]).node(version).program(fixture(program))
}

fn pid(identity: &Value) -> u32 {
    identity["pid"].as_u64().and_then(|pid| u32::try_from(pid).ok()).expect("an identity has a pid")
}

/// Asks so many times, one after the other, and returns the answers by the pid that gave them.
fn ask(port: u16, times: usize, what: &str) -> BTreeMap<u32, Vec<Value>> {
    let mut answers: BTreeMap<u32, Vec<Value>> = BTreeMap::new();
    for _ in 0..times {
        let answer = http::get(port, "/some/path").unwrap_or_else(|error| panic!("{what}: {error}"));
        let identity = answer.json();
        answers.entry(pid(&identity)).or_default().push(identity);
    }
    answers
}

/// Ends the primary and asserts that all its workers drained by themselves.
#[track_caller]
fn stop(worksong: &Worksong, what: &str) {
    worksong.signal(Signal::TERM);
    assert!(worksong.wait_exit().success(), "{what}");
    let events = worksong.events();
    let exits: Vec<&Event> = events.iter().filter(|event| event.name() == "exit").collect();
    assert_eq!(exits.len(), 2, "{what}");
    for exit in exits {
        assert_eq!((&exit["code"], &exit["voluntary"]), (&json!(0), &json!(true)), "{what}");
    }
}

/// Asserts that two workers answer in turn, that each knows who it is, and that both drain.
fn assert_serves(version: &str, program: &str) {
    let what = format!("{program} on Node {version}");
    let worksong = launch(version, program).start();
    let pids = worksong.wait_ready(2);
    let answers = ask(worksong.listening_port(), 6, &what);
    assert_eq!(answers.keys().copied().collect::<BTreeSet<_>>(), pids, "{what}");
    for (pid, identities) in answers {
        assert_eq!(identities.len(), 3, "{what} is not asked in turn");
        let forked = worksong.wait_event("forked", |event| event.pid() == pid);
        let identity = &identities[0];
        assert_eq!(identity["isWorker"], true, "{what}");
        assert_eq!(identity["worker"], forked.worker(), "{what}");
        assert_eq!(identity["slot"], forked.slot().to_string(), "{what}");
        assert!(identity["runtime"].as_str().unwrap().starts_with(&format!("v{version}.")), "{identity}");
    }
    stop(&worksong, &what);
}

fn assert_serves_all(version: &str, more: &[&str]) {
    for program in PROGRAMS.iter().chain(more) {
        assert_serves(version, program);
    }
}

#[test]
fn node_18_programs_serve() {
    assert_serves_all("18", &[]);
}

#[test]
fn node_20_programs_serve() {
    assert_serves_all("20", &["node/fastify.js"]);
}

#[test]
fn node_22_programs_serve() {
    assert_serves_all("22", &["node/fastify.js", "node/typescript.ts"]);
}

#[test]
fn node_24_programs_serve() {
    assert_serves_all("24", &["node/fastify.js", "node/typescript.ts"]);
}

#[test]
fn tls_sessions_resume_at_every_worker() {
    for version in NODE_VERSIONS {
        let worksong = launch(version, "node/https.js").start();
        let pids = worksong.wait_ready(2);
        let mut client = Command::new(node(version));
        client.arg(fixture("node/https-client.js")).arg(worksong.listening_port().to_string()).arg("4");
        let client = Program::start(&mut client);
        assert!(client.wait_exit().success(), "Node {version}");
        let lines: Vec<Value> =
            client.lines().iter().map(|line| serde_json::from_str(&line.text).unwrap()).collect();
        assert_eq!(lines.len(), 4, "Node {version}");
        assert_eq!(lines[0]["resumed"], false);
        assert!(lines[1..].iter().all(|line| line["resumed"] == true), "Node {version}: {lines:?}");
        assert_eq!(lines.iter().map(pid).collect::<BTreeSet<_>>(), pids, "Node {version}");
    }
}

#[test]
fn raw_connections_alternate_and_come_back_whole() {
    for version in NODE_VERSIONS {
        let worksong = launch(version, "node/net-echo.js").start();
        let pids = worksong.wait_ready(2);
        let mut answering = BTreeSet::new();
        for _ in 0..2 {
            let mut connection = http::Connection::open(worksong.listening_port()).unwrap();
            connection.send(b"hello").unwrap();
            connection.finish().unwrap();
            let text = String::from_utf8(connection.read_to_end().unwrap()).unwrap();
            let (pid, echo) = text.split_once('\n').expect("the first line is the pid");
            assert_eq!(echo, "hello", "Node {version}");
            answering.insert(pid.parse::<u32>().unwrap());
        }
        assert_eq!(answering, pids, "Node {version}");
    }
}

#[test]
fn messages_of_workers_become_events_as_they_are() {
    for version in NODE_VERSIONS {
        let worksong = launch(version, "node/messages.cjs").args(["300000"]).start();
        for pid in worksong.wait_ready(2) {
            let message = |predicate: &dyn Fn(&Value) -> bool| {
                worksong
                    .wait_event("message", |event| event.pid() == pid && predicate(&event["body"]))["body"]
                    .clone()
            };
            let greeting = message(&|body| body["greeting"] == "hello");
            assert_eq!(greeting["pid"], pid);
            let values = greeting["values"].as_object().unwrap();
            assert_eq!(values["string"], "worksong – ☃ – \u{1F3B5} – \"quoted\"\n\u{0}", "Node {version}");
            assert_eq!(values["integer"], 9_007_199_254_740_991_u64);
            assert_eq!(values["number"], -1.5e-7);
            for value in values.values() {
                message(&|body| body == value);
            }
            let big = message(&|body| body.as_str().is_some_and(|text| text.len() == 300_000));
            assert!(big.as_str().unwrap().bytes().all(|byte| byte == b'x'));
        }
        let events = worksong.events();
        let messages = events.iter().filter(|event| event.name() == "message").count();
        assert_eq!(messages, 2 * 11, "Node {version}: a greeting, nine values and a large one per worker");
        ask(worksong.listening_port(), 2, "after the messages");
    }
}

#[test]
fn a_worker_is_ready_when_it_says_so() {
    let worksong = Worksong::run(["-i", "2", "--ready", "message"]).program(fixture("node/ready.js")).start();
    let listening = worksong.wait_event("listening", |event| event.slot() == 0);
    let said = worksong.wait_event("message", |event| event.slot() == 0 && event["body"] == "almost");
    worksong.wait_event("listening", |event| event.slot() == 1);
    assert!(worksong.events().iter().all(|event| event.name() != "ready"), "nobody said `ready` yet");
    // Held, not refused, until a worker says that it is ready: this request waits for it.
    let port = listening["port"].as_u64().and_then(|port| u16::try_from(port).ok()).unwrap();
    let mut early = http::Connection::open(port).unwrap();
    early.send(b"GET / HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n").unwrap();
    for pid in worksong.worker_pids() {
        worksong_testkit::process::kill(pid, Signal::USR2);
    }
    let ready = worksong.wait_event("ready", |event| event.slot() == 0);
    assert!(listening.seq() < ready.seq() && said.seq() < ready.seq());
    assert_eq!(early.read_response(false).unwrap().status, 200);
    worksong.wait_ready(2);
}

#[test]
fn articles_listings_run_as_they_are() {
    for listing in ["start/start.js", "weroll/cluster.js"] {
        assert_serves("20", &format!("node/seeds/{listing}"));
    }
    let folder = Folder::new();
    for listing in ["cluster.js", "simple.js", "recluster/worker.js"] {
        let program =
            folder.copy_with(&fixture(format!("node/seeds/{listing}")), "listen(8000)", "listen(0)");
        for version in NODE_VERSIONS {
            let worksong = Worksong::run(["-i", "2"]).node(version).program(&program).start();
            worksong.wait_ready(2);
            for _ in 0..2 {
                let answer = http::get(worksong.listening_port(), "/").unwrap();
                assert_eq!(answer.text().to_lowercase(), "hello world\n", "{listing} on Node {version}");
            }
            stop(&worksong, &format!("{listing} on Node {version}"));
            let wrote_as_primary = |line: &str| line.contains("Master");
            assert!(!worksong.output().iter().any(|output| wrote_as_primary(&output.line)), "{listing}");
        }
    }
}

#[test]
fn the_listing_that_tells_its_state_is_heard() {
    let folder = Folder::new();
    let program = folder.copy_with(&fixture("node/seeds/recluster/state.js"), "listen(8000)", "listen(0)");
    let worksong = Worksong::run(["-i", "2"]).program(program).start();
    let pids = worksong.wait_ready(2);
    // This listing never answers its requests.
    let mut open = Vec::new();
    for _ in 0..2 {
        let mut connection = http::Connection::open(worksong.listening_port()).unwrap();
        connection.send(b"GET / HTTP/1.1\r\nhost: localhost\r\n\r\n").unwrap();
        open.push(connection);
    }
    for pid in pids {
        worksong.wait_event("message", |event| event.pid() == pid && event["body"] == "State changed!");
    }
}

#[test]
fn the_realtime_listing_upgrades_connections() {
    let worksong = launch("24", "node/seeds/weroll-realtime/cluster.js").start();
    worksong.wait_ready(2);
    let upgrade = [
        ("connection", "Upgrade"),
        ("upgrade", "websocket"),
        ("sec-websocket-version", "13"),
        ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ=="),
    ];
    let mut connection = http::Connection::open(worksong.listening_port()).unwrap();
    let answer = connection.request("GET", "/", &upgrade, b"").unwrap();
    assert_eq!(answer.status, 101);
    assert_eq!(answer.header("sec-websocket-accept"), Some("s3pPLMBiTxaQ9kYGzzhZRbK+xOo="));
}

/// Asks so many times at once, and returns who answered.
fn ask_at_once(port: u16, clients: usize, what: &str) -> BTreeSet<u32> {
    let clients: Vec<_> = (0..clients).map(|_| std::thread::spawn(move || http::get(port, "/"))).collect();
    let answers = clients.into_iter().map(|client| client.join().expect("a client ends"));
    answers.map(|answer| answer.unwrap_or_else(|error| panic!("{what}: {error}")).json_pid()).collect()
}

#[test]
fn deno_answers_every_connection_at_both_workers() {
    for program in ["node/commonjs.cjs", "node/esm.mjs"] {
        let launch = Worksong::run(["-i", "2", "--interpreter", "deno"]);
        let worksong = launch.program(fixture(program)).start();
        let pids = worksong.wait_ready(2);
        let port = worksong.listening_port();
        // Hand-overs must not overtake what Deno has read. One at a time is on its way to each worker, so who is faster
        // gets more.
        let mut answering = ask_at_once(port, 100, program);
        eventually("answers of both", || {
            answering.extend(ask_at_once(port, 8, program));
            (answering == pids).then_some(())
        });
        stop(&worksong, program);
    }
}

/// Under Node's own primary it binds a port of its own then, and nobody hears of it.
#[test]
fn deno_is_not_started_where_it_would_answer_nobody() {
    let deno = ["run", "--interpreter", "deno"];
    let typed = Worksong::with(deno).args(["--policy", "shared"]);
    for launch in [typed, Worksong::with(deno).env("NODE_CLUSTER_SCHED_POLICY", "none")] {
        let (status, lines) = launch.program(fixture("node/esm.mjs")).finish();
        assert_eq!(status.code(), Some(2), "{lines:?}");
        assert!(lines.iter().any(|line| line.text.contains("use --policy round-robin")), "{lines:?}");
    }
    let launch = Worksong::run(["-i", "1", "--interpreter", "deno", "--policy", "round-robin"]);
    let launch = launch.env("NODE_CLUSTER_SCHED_POLICY", "none");
    let worksong = launch.program(fixture("node/esm.mjs")).start();
    assert_eq!(http::get(worksong.listening_port(), "/").unwrap().status, 200, "what is typed counts more");
}

#[test]
fn deno_is_reloaded_without_a_failure() {
    let launch = Worksong::run(["-i", "2", "--interpreter", "deno"]);
    let worksong = launch.program(fixture("node/esm.mjs")).start();
    let before = worksong.wait_ready(2);
    let loads = [0, 1, 2].map(|_| Load::start(worksong.listening_port(), Response::json_pid));
    for generation in 2..=3 {
        for load in &loads {
            load.wait_answers_of(&worksong.wait_ready(2));
        }
        worksong.signal(Signal::HUP);
        worksong.wait_event("reload_done", |event| event.generation() == generation);
    }
    for load in loads {
        load.wait_answers(20);
        load.finish_without_failure();
    }
    for pid in before {
        let exit = worksong.wait_event("exit", |event| event.pid() == pid);
        assert_eq!((&exit["code"], &exit["voluntary"]), (&json!(0), &json!(true)), "{exit:?}");
    }
}

/// Bun binds by itself with `SO_REUSEPORT`: the kernel balances, so no order can be asked for.
#[test]
fn bun_answers_at_both_workers() {
    let port = free_port().to_string();
    let worksong = Worksong::run(["-i", "2", "--interpreter", "bun"])
        .env("PORT", &port)
        .program(fixture("node/http.js"))
        .start();
    let pids = worksong.wait_ready(2);
    assert_eq!(worksong.listening_port().to_string(), port);
    let mut answering = BTreeSet::new();
    eventually("answers of both", || {
        answering.extend(ask(worksong.listening_port(), 1, "Bun").into_keys());
        (answering == pids).then_some(())
    });
    // It cannot drain by message: SIGTERM asks it, long before the deadline.
    worksong.signal(Signal::TERM);
    assert!(worksong.wait_exit().success());
    for pid in pids {
        let exit = worksong.wait_event("exit", |event| event.pid() == pid);
        assert_eq!((&exit["signal"], &exit["voluntary"]), (&json!("SIGTERM"), &json!(true)));
    }
}
