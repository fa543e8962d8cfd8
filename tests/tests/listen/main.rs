//! Everything that a program can listen on, and what it is told when it cannot; Node's own primary is the measure.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking, also in its helpers")]

mod datagrams;
mod paths;
mod policies;

use std::collections::BTreeSet;
use std::fs;
use std::net::{Ipv6Addr, SocketAddr, TcpListener, UdpSocket};
use std::os::unix::net::UnixListener;
use std::path::Path;

use serde_json::{Value, json};
use worksong_testkit::{
    Folder, Launch, NODE_VERSIONS, Signal, Worksong, backlog, eventually, fixture, free_port, http, process,
};

/// Starts two workers that listen on all these forms.
fn start(launch: Launch, forms: &Value) -> Worksong {
    launch.program(fixture("node/listen-forms.js")).args([forms.to_string()]).start()
}

fn ours(arguments: &[&str]) -> Launch {
    Worksong::run(["-i", "2"]).args(arguments)
}

/// Waits for what became of one form in the worker of a slot.
#[track_caller]
fn report(worksong: &Worksong, slot: u32, index: usize) -> Value {
    let is_it = |body: &Value| {
        body["index"] == index && (body.get("listening").is_some() || body.get("error").is_some())
    };
    worksong.wait_event("message", |event| event.slot() == slot && is_it(&event["body"]))["body"].clone()
}

/// Waits for what became of all forms in both workers, by form.
#[track_caller]
fn reports(worksong: &Worksong, forms: &Value) -> Vec<[Value; 2]> {
    (0..forms.as_array().unwrap().len())
        .map(|index| [0, 1].map(|slot| report(worksong, slot, index)))
        .collect()
}

/// Waits for what becomes of all forms in the only worker of a Node primary: of two that fail with the same form at the
/// same time, Node 22's primary dies.
#[track_caller]
fn errors_under_node(launch: Launch, forms: &Value) -> Vec<Value> {
    let node = start(launch, forms);
    (0..forms.as_array().unwrap().len()).map(|index| report(&node, 0, index)).collect()
}

#[track_caller]
fn port(report: &Value) -> u16 {
    let port = report["listening"]["port"].as_u64().and_then(|port| u16::try_from(port).ok());
    port.unwrap_or_else(|| panic!("no port in {report}"))
}

/// Replaces the ports that the kernel chose by one word.
fn without_port(mut report: Value) -> Value {
    if let Some(port) = report["listening"].get_mut("port") {
        *port = json!("any");
    }
    report
}

#[track_caller]
fn stop(worksong: &Worksong) {
    worksong.signal(Signal::TERM);
    assert!(worksong.wait_exit().success());
}

fn can_bind(address: impl std::net::ToSocketAddrs) -> bool {
    TcpListener::bind(address).is_ok()
}

/// Lets workers listen on every form under Node's own primary and under ours, and asserts that they see the same.
fn assert_every_form_is_as_under_node(policy: &str) {
    for version in NODE_VERSIONS {
        let folder = Folder::new();
        let fixed = free_port();
        let forms = json!([
            0,
            fixed,
            [0, 55],
            { "port": 0, "backlog": 77 },
            [0, "127.0.0.1"],
            [0, "::1"],
            [0, "localhost"],
            { "port": 0, "host": "::", "ipv6Only": true },
            { "port": 0, "ipv6Only": true },
            folder.join("socket"),
            "relative-socket",
            { "path": folder.join("open"), "readableAll": true, "writableAll": true },
            { "port": 0, "host": "127.0.0.1", "tls": true },
            "0",
        ]);
        let launch = |launch: Launch| {
            let launch = launch.node(version).cwd(folder.path());
            start(launch.env("NODE_CLUSTER_SCHED_POLICY", policy), &forms)
        };
        let node = launch(Worksong::reference(version, 2));
        let expected = reports(&node, &forms);
        stop(&node);
        drop(node);
        let worksong = launch(ours(&[]));
        for (index, (ours, nodes)) in reports(&worksong, &forms).into_iter().zip(expected).enumerate() {
            let what = format!("{} on Node {version}", forms[index]);
            let [first, second] = &ours;
            let [of_node, _] = &nodes;
            assert_eq!(first, second, "{what}");
            assert_eq!(without_port(first.clone()), without_port(of_node.clone()), "{what}");
        }
        stop(&worksong);
        assert!(can_bind(("::", fixed)), "the port is free again");
        let left: Vec<_> =
            fs::read_dir(folder.path()).unwrap().flatten().map(|entry| entry.file_name()).collect();
        assert!(left.is_empty(), "sockets are left: {left:?}");
    }
}

#[test]
fn workers_see_every_form_as_under_node() {
    assert_every_form_is_as_under_node("rr");
}

#[test]
fn workers_that_share_see_every_form_as_under_node() {
    assert_every_form_is_as_under_node("none");
}

#[test]
fn exclusive_servers_are_the_workers_own() {
    for version in NODE_VERSIONS {
        // Node 20 and older do not know `reusePort`, and ask the primary.
        let knows = !matches!(version, "18" | "20");
        let forms = json!([
            { "port": 0, "exclusive": true },
            { "port": 0, "host": "127.0.0.1", "reusePort": true },
        ]);
        let worksong = start(ours(&["--drain-timeout", "100ms"]).node(version), &forms);
        for (index, [first, second]) in reports(&worksong, &forms).into_iter().enumerate() {
            let own = index == 0 || knows;
            assert_eq!(port(&first) != port(&second), own, "{} on Node {version}", forms[index]);
            assert_eq!(first["kind"], if own { "TCP" } else { "Object" });
            assert_eq!(http::get(port(&second), "/").unwrap().json()["index"], index);
        }
        // Node does not close them when it drains: they need a signal.
        stop(&worksong);
    }
}

#[test]
fn workers_hear_of_errors_as_under_node() {
    let folder = Folder::new();
    let held = TcpListener::bind("[::]:0").unwrap();
    let held_port = held.local_addr().unwrap().port();
    let live = folder.join("live");
    let _owner = UnixListener::bind(&live).unwrap();
    let file = folder.write("file", "no socket");
    let twice = free_port();
    let forms = json!([
        held_port,
        [held_port, "127.0.0.1"],
        { "port": held_port, "host": "::1", "tls": true },
        [0, "192.0.2.1"],
        [0, "2001:db8::1"],
        { "path": live },
        { "path": file },
        { "path": folder.join("missing/socket") },
        { "fd": 9999 },
        twice,
        twice,
    ]);
    for version in NODE_VERSIONS {
        let expected = errors_under_node(Worksong::reference(version, 1).cwd(folder.path()), &forms);
        let worksong = start(ours(&[]).node(version).cwd(folder.path()), &forms);
        for (index, (ours, nodes)) in reports(&worksong, &forms).into_iter().zip(expected).enumerate() {
            let what = format!("{} on Node {version}", forms[index]);
            assert_eq!(ours[0], nodes, "{what}");
            assert_eq!(ours[1], nodes, "{what}");
        }
        stop(&worksong);
    }
    assert_eq!(fs::read(&file).unwrap(), b"no socket", "a file that is no socket is left alone");
}

#[test]
fn a_failed_listen_names_the_holder() {
    let folder = Folder::new();
    let held = TcpListener::bind("127.0.0.1:0").unwrap();
    let live = folder.join("live");
    let _owner = UnixListener::bind(&live).unwrap();
    let udp = UdpSocket::bind("127.0.0.1:0").unwrap();
    let port = held.local_addr().unwrap().port();
    let udp_port = udp.local_addr().unwrap().port();
    let holder = format!("pid {} (", std::process::id());
    let command = std::env::args().next().unwrap();

    let worksong = start(ours(&[]), &json!([[port, "127.0.0.1"], { "path": live }]));
    for (address, slot) in [(format!("127.0.0.1:{port}"), 0), (live.display().to_string(), 1)] {
        let failed = worksong.wait_event("listen_failed", |event| {
            event.slot() == slot && event["address"] == address.as_str()
        });
        let reason = failed["reason"].as_str().unwrap();
        assert!(reason.contains(&holder) && reason.contains(&command), "{reason}");
    }

    let forms = json!([{ "type": "udp4", "bind": { "port": udp_port, "address": "127.0.0.1" } }]);
    let worksong = ours(&[]).program(fixture("node/udp-forms.js")).args([forms.to_string()]).start();
    let failed = worksong.wait_event("listen_failed", |_| true);
    assert!(failed["reason"].as_str().unwrap().contains(&holder), "{failed:?}");
}

#[test]
fn each_form_is_reachable_where_it_says() {
    let forms = json!([
        0,
        [0, "127.0.0.1"],
        [0, "::1"],
        { "port": 0, "host": "::", "ipv6Only": true },
        { "port": 0, "ipv6Only": true },
    ]);
    for version in NODE_VERSIONS {
        let worksong = start(ours(&[]).node(version), &forms);
        // Node 20 and older lose the option when no host is named.
        let forgets = matches!(version, "18" | "20");
        for (index, (v4, v6)) in [(true, true), (true, false), (false, true), (false, true), (forgets, true)]
            .into_iter()
            .enumerate()
        {
            let port = port(&report(&worksong, 0, index));
            let answers = |address: SocketAddr| match http::get(address, "/") {
                Ok(answer) => {
                    assert_eq!(answer.json()["index"], index, "on Node {version}");
                    true
                }
                Err(http::Error::Connect(_)) => false,
                Err(error) => panic!("{} on Node {version}: {error}", forms[index]),
            };
            let reached = (
                answers(SocketAddr::from(([127, 0, 0, 1], port))),
                answers(SocketAddr::from((Ipv6Addr::LOCALHOST, port))),
            );
            assert_eq!(reached, (v4, v6), "{} on Node {version}", forms[index]);
        }
    }
}

#[test]
fn port_zero_is_one_port_per_place_in_the_program() {
    for version in NODE_VERSIONS {
        let forms = json!([0, 0, 0]);
        let worksong = start(ours(&[]).node(version), &forms);
        let ports: BTreeSet<u16> = reports(&worksong, &forms)
            .iter()
            .map(|[first, second]| {
                assert_eq!(port(first), port(second), "on Node {version}");
                port(first)
            })
            .collect();
        assert_eq!(ports.len(), 3, "on Node {version}: {ports:?}");
        for (index, _) in ports.iter().enumerate() {
            let answers = [0, 1].map(|_| http::get(port(&report(&worksong, 0, index)), "/").unwrap().json());
            assert!(answers.iter().all(|answer| answer["index"] == index), "{answers:?}");
            assert_ne!(answers[0]["pid"], answers[1]["pid"], "in turn on Node {version}");
        }
    }
}

#[test]
fn a_descriptor_is_the_socket_of_the_listen_option() {
    let folder = Folder::new();
    let path = folder.join("socket").display().to_string();
    for version in NODE_VERSIONS {
        let forms = json!([{ "fd": 3 }, { "fd": 4 }]);
        let worksong = start(ours(&["--listen", "127.0.0.1:0", "--listen", &path]).node(version), &forms);
        let [[first, second], [_, _]] = &reports(&worksong, &forms)[..] else { panic!("two forms") };
        assert_eq!(port(first), port(second));
        worksong.wait_ready(2);
        let tcp: http::Address = port(first).into();
        let unix: http::Address = Path::new(&path).into();
        for (index, address) in [tcp, unix].into_iter().enumerate() {
            let answers = [0, 1].map(|_| http::get(address.clone(), "/").unwrap().json());
            assert!(answers.iter().all(|answer| answer["index"] == index), "{answers:?}");
            assert_ne!(answers[0]["pid"], answers[1]["pid"], "in turn on Node {version}");
        }
        stop(&worksong);
        assert!(!Path::new(&path).exists());
    }
}

#[test]
fn a_queue_is_as_long_as_it_was_asked_for() {
    let forms = json!([[0, "127.0.0.1", 77], { "port": 0, "host": "::1", "backlog": 55 }, [0, "127.0.0.1"]]);
    for version in NODE_VERSIONS {
        for policy in ["rr", "none"] {
            let queues = |launch: Launch| {
                let launch = launch.node(version).env("NODE_CLUSTER_SCHED_POLICY", policy);
                let worksong = start(launch, &forms);
                let all = reports(&worksong, &forms);
                [0, 1, 2].map(|index| backlog(port(&all[index][0])).expect("it listens"))
            };
            let of_node = queues(Worksong::reference(version, 2));
            let ours = queues(ours(&[]));
            assert_eq!(ours[..2], [77, 55], "Node {version}, {policy}");
            assert_eq!(ours[..2], of_node[..2], "Node {version}, {policy}");
            // Where nobody asked, connections have more room to wait for a worker in.
            assert!(ours[2] >= of_node[2], "{} for {} of Node {version}, {policy}", ours[2], of_node[2]);
        }
    }
}

#[test]
fn the_primary_accepts_unless_told_otherwise() {
    let forms = json!([0]);
    let kind = |launch: Launch| {
        let worksong = start(launch, &forms);
        let [first, second] = &reports(&worksong, &forms)[0];
        assert_eq!((port(first), &first["kind"]), (port(second), &second["kind"]));
        let port = port(first);
        let kind = first["kind"].as_str().unwrap().to_owned();
        let pids = worksong.wait_ready(2);
        // Who accepts by itself from a shared socket comes in no order.
        let mut answering = BTreeSet::new();
        eventually("answers of both", || {
            let open: Vec<_> = (0..8).map(|_| http::Connection::open(port).unwrap()).collect();
            for mut connection in open {
                let pid = connection.get("/").unwrap().json()["pid"].as_u64().unwrap();
                answering.insert(u32::try_from(pid).unwrap());
            }
            (answering == pids).then_some(())
        });
        stop(&worksong);
        kind
    };
    for version in NODE_VERSIONS {
        assert_eq!(kind(ours(&[]).node(version)), "Object");
        assert_eq!(kind(ours(&["--policy", "shared"]).node(version)), "TCP");
        assert_eq!(kind(ours(&[]).node(version).env("NODE_CLUSTER_SCHED_POLICY", "none")), "TCP");
        let both = ours(&["--policy", "round-robin"]).env("NODE_CLUSTER_SCHED_POLICY", "none");
        assert_eq!(kind(both.node(version)), "Object", "what is typed counts more");
    }
}

#[test]
fn shared_listeners_report_errors_as_under_node() {
    let held = TcpListener::bind("127.0.0.1:0").unwrap();
    let forms = json!([[held.local_addr().unwrap().port(), "127.0.0.1"], [0, "192.0.2.1"]]);
    for version in NODE_VERSIONS {
        let none = |launch: Launch| launch.env("NODE_CLUSTER_SCHED_POLICY", "none").node(version);
        let expected = errors_under_node(none(Worksong::reference(version, 1)), &forms);
        for options in [&[][..], &["--policy", "kernel"]] {
            let worksong = start(none(ours(options)), &forms);
            for (ours, nodes) in reports(&worksong, &forms).into_iter().zip(&expected) {
                assert_eq!(ours, [nodes.clone(), nodes.clone()], "Node {version} {options:?}");
            }
        }
    }
}

/// With a socket for each worker the kernel would let one worker have two, of which it accepts from one.
#[test]
fn a_second_server_of_a_worker_at_the_same_port_is_in_use_under_every_policy() {
    for policy in ["round-robin", "shared", "kernel"] {
        let port = free_port();
        let forms = json!([port, port, [port, "127.0.0.1"]]);
        let worksong = start(ours(&["--policy", policy]), &forms);
        let [first, second, third] = &reports(&worksong, &forms)[..] else { panic!("three forms") };
        assert!(first.iter().all(|report| report["listening"]["port"] == port), "{policy}: {first:?}");
        let is_in_use = |report: &Value| report["error"] == "EADDRINUSE";
        assert!(second.iter().chain(third).all(is_in_use), "{policy}: {second:?} {third:?}");
        stop(&worksong);
    }
}

/// The port stays bound for a few seconds more: a worker that is about to leave also closes its servers first.
#[track_caller]
fn assert_closing_frees_the_port(policy: &str) {
    let worksong = start(ours(&["--policy", policy]), &json!([[0, "127.0.0.1"]]));
    let pids = worksong.wait_ready(2);
    let port = worksong.listening_port();
    let mut pids = pids.into_iter();
    let (first, second) = (pids.next().unwrap(), pids.next().unwrap());
    let answers = || http::get(port, "/").unwrap().json()["pid"] == second;
    process::kill(first, Signal::USR2);
    eventually("answers of the second one alone", || (0..10).all(|_| answers()).then_some(()));
    assert!(!can_bind(("127.0.0.1", port)), "the second one still listens");
    process::kill(second, Signal::USR2);
    eventually("a free port", || can_bind(("127.0.0.1", port)).then_some(()));
    assert_eq!(worksong.worker_pids().len(), 2, "the workers go on");
}

#[test]
fn a_server_that_all_workers_close_frees_its_port() {
    assert_closing_frees_the_port("round-robin");
}

#[test]
fn a_shared_server_that_all_workers_close_frees_its_port() {
    assert_closing_frees_the_port("shared");
}

#[test]
fn a_server_with_a_socket_for_each_worker_frees_its_port() {
    assert_closing_frees_the_port("kernel");
}
