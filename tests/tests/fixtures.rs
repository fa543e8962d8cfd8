//! The fixture programs do what they are for, shown under Node's own primary: a test that fails with worksong and
//! not here has found a fault of worksong.

use std::net::UdpSocket;
use std::process::Command;

use serde_json::{Value, json};
use worksong_testkit::{
    Folder, Launch, NODE_VERSIONS, Program, Signal, Worksong, binary, eventually, fixture, free_port, http,
    node, patience, process,
};

fn launch(version: &str, program: &str) -> Launch {
    Worksong::reference(version, 2).program(fixture(program))
}

/// Asserts that a program answers with who it is from a worker.
fn assert_serves(version: &str, program: &str) {
    let primary = launch(version, program).start();
    let pids = primary.wait_ready(2);
    let answer = http::get(primary.listening_port(), "/some/path");
    let identity = answer.unwrap_or_else(|error| panic!("{program} on Node {version}: {error}")).json();
    assert_eq!(identity["url"], "/some/path", "{program} on Node {version}");
    assert_eq!(identity["isWorker"], true);
    assert!(pids.contains(&pid(&identity)));
}

fn pid(identity: &Value) -> u32 {
    identity["pid"].as_u64().and_then(|pid| u32::try_from(pid).ok()).expect("an identity has a pid")
}

#[test]
fn node_programs_serve() {
    for version in NODE_VERSIONS {
        for program in ["node/http.js", "node/express.js", "node/koa.js", "node/esm.mjs", "node/commonjs.cjs"]
        {
            assert_serves(version, program);
        }
    }
}

#[test]
fn fastify_serves_from_node_20() {
    for version in &NODE_VERSIONS[1..] {
        assert_serves(version, "node/fastify.js");
    }
}

#[test]
fn typescript_serves_where_node_strips_types() {
    for version in &NODE_VERSIONS[2..] {
        assert_serves(version, "node/typescript.ts");
    }
}

#[test]
fn tls_sessions_resume_at_every_worker() {
    let primary = launch("20", "node/https.js").start();
    primary.wait_ready(2);
    let mut client = Command::new(node("20"));
    client.arg(fixture("node/https-client.js")).arg(primary.listening_port().to_string()).arg("4");
    let client = Program::start(&mut client);
    assert!(client.wait_exit().success());
    let lines: Vec<Value> =
        client.lines().iter().map(|line| serde_json::from_str(&line.text).unwrap()).collect();
    assert_eq!(lines.len(), 4);
    assert!(lines[1..].iter().all(|line| line["resumed"] == true), "{lines:?}");
    assert!(lines.iter().any(|line| line["pid"] != lines[0]["pid"]), "both workers were asked");
}

#[test]
fn an_echo_comes_back_whole() {
    let primary = launch("20", "node/net-echo.js").start();
    let mut connection = http::Connection::open(primary.listening_port()).unwrap();
    connection.send(b"hello").unwrap();
    connection.finish().unwrap();
    let text = String::from_utf8(connection.read_to_end().unwrap()).unwrap();
    assert!(text.ends_with("\nhello"), "{text:?}");
}

#[test]
fn datagrams_are_answered() {
    let primary = launch("20", "node/udp.js").start();
    let client = UdpSocket::bind("127.0.0.1:0").unwrap();
    client.set_read_timeout(Some(patience())).unwrap();
    client.send_to(b"hello", ("127.0.0.1", primary.listening_port())).unwrap();
    let mut answer = [0; 1024];
    let count = client.recv(&mut answer).unwrap();
    let answer: Value = serde_json::from_slice(&answer[..count]).unwrap();
    assert_eq!(answer["text"], "hello");
    assert!(primary.worker_pids().contains(&pid(&answer)));
}

#[test]
fn messages_greet_with_values_of_every_kind() {
    let primary = launch("20", "node/messages.cjs").args(["100000"]).start();
    let greeting = primary.wait_event("message", |event| event["body"]["greeting"] == "hello");
    assert_eq!(greeting["body"]["values"]["list"], json!([1, "two", [3, []], null]));
    for value in greeting["body"]["values"].as_object().unwrap().values() {
        primary.wait_event("message", |event| event.pid() == greeting.pid() && event["body"] == *value);
    }
    primary.wait_event("message", |event| event["body"].as_str().is_some_and(|text| text.len() == 100_000));
}

#[test]
fn listen_forms_report_addresses_and_errors() {
    let folder = Folder::new();
    let socket = folder.join("socket");
    let forms = json!([0, [0, "127.0.0.1"], {"path": socket}, {"port": 0, "host": "127.0.0.1", "tls": true},
                       {"port": 0, "host": "192.0.2.1"}]);
    let primary = Worksong::reference("20", 1)
        .program(fixture("node/listen-forms.js"))
        .args([forms.to_string()])
        .start();
    let report = |index: usize| primary.wait_event("message", |event| event["body"]["index"] == index);
    assert_eq!(report(0)["body"]["listening"]["family"], "IPv6");
    assert_eq!(report(1)["body"]["listening"]["family"], "IPv4");
    assert_eq!(report(2)["body"]["listening"], socket.to_str().unwrap());
    assert!(report(3)["body"]["listening"]["port"].is_u64());
    assert_eq!(report(4)["body"]["error"], "EADDRNOTAVAIL");
    assert_eq!(http::get(socket.as_path(), "/").unwrap().json()["index"], 2);
}

#[test]
fn crashes_are_as_they_are_called() {
    let exit_of = |arguments: &[&str]| {
        let primary = Worksong::reference("20", 1).program(fixture("node/crash.js")).args(arguments).start();
        primary.wait_event("exit", |_| true)
    };
    assert_eq!(exit_of(&["throw"])["code"], 1);
    assert_eq!(exit_of(&["exit", "7"])["code"], 7);
    assert_eq!(exit_of(&["exit", "0"])["code"], 0);
    assert_eq!(exit_of(&["abort"])["signal"], "SIGABRT");
    assert_eq!(exit_of(&["signal", "SIGSEGV"])["signal"], "SIGSEGV");
}

#[test]
fn a_request_can_crash_a_worker() {
    let primary = launch("20", "node/crash.js").args(["throw-on-request"]).start();
    primary.wait_ready(2);
    assert!(matches!(http::get(primary.listening_port(), "/"), Err(http::Error::NoAnswer(_))));
    primary.wait_event("exit", |event| event["code"] == 1);
}

#[test]
fn a_stubborn_worker_ignores_sigterm() {
    let primary = launch("20", "node/crash.js").args(["ignore-sigterm"]).start();
    let pids = primary.wait_ready(2);
    let pid = *pids.first().unwrap();
    process::kill(pid, Signal::TERM);
    primary.wait_output("that it ignored SIGTERM", |output| output.line.contains("ignored").then_some(()));
    assert!(process::alive(pid));
}

#[test]
fn a_grandchild_leaves_the_group_of_its_worker() {
    let primary = Worksong::reference("20", 1).program(fixture("node/crash.js")).args(["grandchild"]).start();
    let grandchild = primary.wait_output("the grandchild's pid", |output| {
        output.line.strip_prefix("grandchild ")?.parse::<u32>().ok()
    });
    let grandchild = process::Process::find(grandchild).expect("the grandchild runs");
    assert!(process::descendants(primary.pid()).contains(&grandchild));
    drop(primary);
    eventually("the end of the grandchild", || (!grandchild.is_alive()).then_some(()));
}

#[test]
fn a_bad_build_is_bad_while_its_file_exists() {
    let folder = Folder::new();
    let bad = folder.write("bad", "");
    let primary = Worksong::reference("20", 1)
        .program(fixture("node/crash.js"))
        .args(["throw-if"])
        .args([&bad])
        .start();
    primary.wait_event("exit", |event| event["code"] == 1);
    std::fs::remove_file(&bad).unwrap();
    primary.wait_ready(1);
}

#[test]
fn a_flood_does_not_end() {
    let primary = Worksong::reference("20", 1).program(fixture("node/flood.js")).args(["send"]).start();
    http::get(primary.listening_port(), "/go").unwrap();
    let mut count = 0;
    primary.wait_event("message", |_| {
        count += 1;
        count == 1000
    });
}

/// Node's own primary dies of each of these; worksong must not.
#[test]
fn misuse_of_the_channel_ends_a_node_primary() {
    for mode in ["garbage", "blank", "binary", "unowed-ack"] {
        let primary = Worksong::reference("20", 1).program(fixture("node/flood.js")).args([mode]).start();
        http::get(primary.listening_port(), "/go").unwrap();
        assert_eq!(primary.wait_exit().code(), Some(1), "{mode}");
    }
}

#[test]
fn listings_of_the_articles_serve() {
    let folder = Folder::new();
    for listing in ["start/start.js", "weroll/cluster.js"] {
        assert_serves("20", &format!("node/seeds/{listing}"));
    }
    for listing in ["cluster.js", "simple.js", "recluster/worker.js"] {
        let program =
            folder.copy_with(&fixture(format!("node/seeds/{listing}")), "listen(8000)", "listen(0)");
        let primary = Worksong::reference("20", 2).program(program).start();
        let answer = http::get(primary.listening_port(), "/").unwrap();
        assert_eq!(answer.text().to_lowercase(), "hello world\n");
    }
    let realtime = launch("20", "node/seeds/weroll-realtime/cluster.js").start();
    realtime.wait_ready(2);
}

#[test]
fn a_plain_rust_server_binds_its_port() {
    let port = free_port();
    let server = Program::start(Command::new(binary("rust-raw")).env("PORT", port.to_string()));
    let answer = eventually("its answer", || http::get(port, "/").ok());
    assert_eq!(answer.text().trim(), server.pid().to_string());
}
