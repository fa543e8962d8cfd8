//! UDP sockets, which the workers always share.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::UdpSocket;
use std::time::Duration;

use serde_json::{Value, json};
use worksong_testkit::{
    Folder, Launch, NODE_VERSIONS, Signal, Worksong, eventually, fixture, free_port, process,
};

use crate::{ours, port, report, reports, stop, without_port};

/// Sends datagrams until as many workers answered as are wanted; each answer comes from the address that was asked.
fn ask_by_datagram(port: u16, host: &str, wanted: usize) -> BTreeMap<u64, String> {
    let mut answers = BTreeMap::new();
    eventually("datagrams of the workers", || {
        // Another source each time: the kernel may keep one source at one socket.
        let client = UdpSocket::bind((host, 0)).unwrap();
        client.connect((host, port)).unwrap();
        client.set_read_timeout(Some(Duration::from_secs(1))).unwrap();
        client.send(b"hello").unwrap();
        let mut buffer = [0; 1024];
        match client.recv(&mut buffer) {
            Ok(count) => {
                let answer: Value = serde_json::from_slice(&buffer[..count]).unwrap();
                answers.insert(answer["pid"].as_u64().unwrap(), answer["text"].as_str().unwrap().to_owned());
            }
            Err(error)
                if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::ConnectionRefused) => {}
            Err(error) => panic!("{error}"),
        }
        (answers.len() >= wanted).then_some(())
    });
    answers
}

fn start_udp(launch: Launch, forms: &Value) -> Worksong {
    launch.program(fixture("node/udp-forms.js")).args([forms.to_string()]).start()
}

#[test]
fn datagrams_reach_workers_and_answers_reach_clients() {
    for version in NODE_VERSIONS {
        for policy in ["round-robin", "shared"] {
            let forms = json!([
                { "type": "udp4", "bind": { "port": 0, "address": "127.0.0.1" } },
                { "type": "udp6", "bind": { "port": 0, "address": "::1" } },
            ]);
            let worksong = start_udp(ours(&["--policy", policy]).node(version), &forms);
            let all = reports(&worksong, &forms);
            let pids = worksong.wait_ready(2);
            for ([first, second], host) in all.iter().zip(["127.0.0.1", "::1"]) {
                assert_eq!(port(first), port(second), "Node {version}");
                let answers = ask_by_datagram(port(first), host, 1);
                assert!(
                    answers
                        .iter()
                        .all(|(pid, text)| pids.contains(&u32::try_from(*pid).unwrap()) && text == "hello")
                );
            }
            stop(&worksong);
            assert!(UdpSocket::bind(("127.0.0.1", port(&all[0][0]))).is_ok(), "the port is free again");
        }
    }
}

#[test]
fn a_datagram_of_a_busy_worker_goes_to_the_other() {
    let forms = json!([{ "type": "udp4", "bind": { "port": 0, "address": "127.0.0.1" } }]);
    let worksong = start_udp(ours(&[]), &forms);
    let pids = worksong.wait_ready(2);
    let port = port(&report(&worksong, 0, 0));
    for stopped in pids.iter().copied() {
        process::freeze(stopped);
        let answers = ask_by_datagram(port, "127.0.0.1", 1);
        assert!(!answers.contains_key(&u64::from(stopped)), "a stopped process cannot answer");
        process::kill(stopped, Signal::CONT);
    }
}

#[test]
fn workers_see_datagram_sockets_as_under_node() {
    let held = UdpSocket::bind("127.0.0.1:0").unwrap();
    let forms = json!([
        { "type": "udp4", "bind": { "port": 0 } },
        { "type": "udp6", "bind": { "port": 0 } },
        { "type": "udp6", "ipv6Only": true, "bind": { "port": 0 } },
        { "type": "udp4", "reuseAddr": true, "bind": { "port": 0, "address": "127.0.0.1" } },
        { "type": "udp4", "bind": { "port": 0, "exclusive": true } },
        { "type": "udp4", "bind": { "port": held.local_addr().unwrap().port(), "address": "127.0.0.1" } },
        { "type": "udp4", "bind": { "port": 0, "address": "192.0.2.1" } },
    ]);
    for version in NODE_VERSIONS {
        let node = start_udp(Worksong::reference(version, 2), &forms);
        let expected = reports(&node, &forms);
        drop(node);
        let worksong = start_udp(ours(&[]).node(version), &forms);
        for (index, (ours, nodes)) in reports(&worksong, &forms).into_iter().zip(expected).enumerate() {
            let what = format!("{} on Node {version}", forms[index]);
            assert_eq!(ours[0] == ours[1], nodes[0] == nodes[1], "{what}");
            let [ours, _] = ours.map(without_port);
            let [nodes, _] = nodes.map(without_port);
            assert_eq!(ours, nodes, "{what}");
        }
    }
}

/// Sends some datagrams from one source, and returns who answered.
fn answer_of_flow(port: u16) -> u32 {
    let client = UdpSocket::bind(("127.0.0.1", 0)).expect("a socket");
    client.connect(("127.0.0.1", port)).expect("a local address");
    client.set_read_timeout(Some(Duration::from_secs(10))).expect("a timeout");
    let mut answers = BTreeSet::new();
    for _ in 0..5 {
        client.send(b"?").expect("somebody listens");
        let mut buffer = [0; 16];
        let count = client.recv(&mut buffer).expect("an answer");
        answers.insert(String::from_utf8_lossy(&buffer[..count]).parse().expect("a pid"));
    }
    assert_eq!(answers.len(), 1, "a flow stays with one worker: {answers:?}");
    answers.pop_first().expect("one")
}

#[test]
fn flows_stay_with_one_worker_where_each_has_a_socket_of_its_own() {
    let folder = Folder::new();
    let node = folder.write(
        "flows.cjs",
        "const socket = require('node:dgram').createSocket({ type: 'udp4', reusePort: true });\n\
         socket.on('message', (_, from) => socket.send(String(process.pid), from.port, from.address));\n\
         socket.bind(Number(process.env.PORT), '127.0.0.1', () => console.log('bound'));\n",
    );
    let python = folder.write(
        "flows.py",
        "import os, socket\n\
         s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)\n\
         s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)\n\
         s.bind(('127.0.0.1', int(os.environ['PORT'])))\n\
         print('bound', flush=True)\n\
         while True:\n\
         \x20   _, client = s.recvfrom(64); s.sendto(str(os.getpid()).encode(), client)\n",
    );
    for program in [node, python] {
        let port = free_port();
        let options = ["-i", "4", "--ready", "started"];
        let worksong = Worksong::run(options).env("PORT", port.to_string()).program(program).start();
        let pids = worksong.wait_ready(4);
        for slot in 0..4 {
            worksong.wait_output("its socket", |output| {
                (output.slot == slot && output.line == "bound").then_some(())
            });
        }
        let answering: BTreeSet<u32> = (0..80).map(|_| answer_of_flow(port)).collect();
        assert_eq!(answering, pids);
    }
}
