//! Unmodified programs with Socket.IO, on several workers.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::process::Command;

use serde_json::{Value, json};
use worksong_testkit::socket_io::{Clients, Kind, Place};
use worksong_testkit::{Folder, NODE_VERSIONS, Program, Signal, Worksong, fixture, node, process};

const POLICY: &str = "sticky:socket.io";

fn start(version: &str, program: &str, arguments: &[&str]) -> Worksong {
    let program = fixture(format!("node/socket-io/{program}"));
    let worksong = Worksong::run(["-i", "4", "--policy", POLICY, "--drain-timeout", "1s"]).node(version);
    let worksong = worksong.program(program).args(arguments).start();
    worksong.wait_ready(4);
    worksong
}

fn slots(places: impl IntoIterator<Item = Place>) -> BTreeSet<u32> {
    places.into_iter().map(|place| place.slot).collect()
}

#[test]
fn long_polling_finds_its_session_under_every_node() {
    for (version, program) in
        NODE_VERSIONS.into_iter().zip(["commonjs.cjs", "esm.mjs", "late.mjs", "esm.mjs"])
    {
        let worksong = start(version, program, &[]);
        let clients = Clients::start(worksong.listening_port(), Kind::Polling, 8, 1000);
        clients.wait_answers(None);
        clients.assert_unharmed();
    }
}

#[test]
fn long_polling_finds_its_session_in_typescript_and_with_ids_of_the_program() {
    for (program, arguments) in [("typescript.ts", &[][..]), ("commonjs.cjs", &["own-ids"])] {
        let worksong = start("24", program, arguments);
        let clients = Clients::start(worksong.listening_port(), Kind::Polling, 8, 1000);
        clients.wait_answers(None);
        clients.assert_unharmed();
    }
}

#[test]
fn fifty_clients_upgrade_and_share_workers() {
    let worksong = start("22", "commonjs.cjs", &[]);
    let clients = Clients::start(worksong.listening_port(), Kind::Upgrade, 50, 1000);
    let places = clients.wait_answers(None);
    // Whom each of them meets is chance: at two of four are all of them in one run of 10^14.
    let slots = slots(places.into_values());
    assert!(slots.len() > 2 && slots.is_subset(&BTreeSet::from([0, 1, 2, 3])), "{slots:?}");
    assert_eq!(clients.transports(), BTreeSet::from(["websocket".to_owned()]));
    clients.assert_unharmed();
}

#[test]
fn large_attachments_come_back_byte_for_byte() {
    let worksong = start("24", "commonjs.cjs", &[]);
    let port = worksong.listening_port();
    let all =
        [Kind::Polling, Kind::Upgrade, Kind::WebSocket].map(|kind| Clients::start(port, kind, 2, 3_000_000));
    for clients in all {
        clients.wait_answers(None);
        clients.assert_unharmed();
    }
}

#[test]
fn what_a_proxy_sends_is_spread_although_it_has_one_address() {
    let worksong = start("22", "esm.mjs", &[]);
    let clients = Clients::start(worksong.listening_port(), Kind::Proxied, 16, 1000);
    let places = clients.wait_answers(None);
    // Whom each of them meets is chance: at one of four are all of them in one run of 10^9.
    assert!(slots(places.into_values()).len() > 1);
    clients.assert_unharmed();
}

#[test]
fn two_tabs_share_the_connections_of_a_browser() {
    let worksong = start("22", "esm.mjs", &[]);
    let clients = Clients::start(worksong.listening_port(), Kind::Pool, 2, 1000);
    let places = clients.wait_answers(None);
    assert_eq!(slots(places.into_values()).len(), 1, "both went by their one address");
    clients.assert_unharmed();
}

#[test]
fn sessions_begin_again_at_the_workers_of_a_reload() {
    let worksong = start("22", "commonjs.cjs", &[]);
    let port = worksong.listening_port();
    let all = [Kind::Polling, Kind::Upgrade].map(|kind| Clients::start(port, kind, 8, 1000));
    for clients in &all {
        clients.wait_answers(None);
    }
    let old = worksong.worker_pids();
    worksong.signal(Signal::HUP);
    worksong.wait_event("reload_report", |_| true);
    let new: BTreeSet<u32> = worksong.worker_pids().difference(&old).copied().collect();
    assert_eq!(new.len(), 4);
    for clients in all {
        clients.wait_answers(Some(&new));
        assert_eq!(clients.interrupted().len(), 8, "a session does not outlive its worker");
        clients.assert_nothing_failed();
    }
}

#[test]
fn only_the_sessions_of_a_killed_worker_begin_again() {
    let worksong = start("22", "esm.mjs", &[]);
    let clients = Clients::start(worksong.listening_port(), Kind::Polling, 16, 1000);
    let places = clients.wait_answers(None);
    let victim = places[&0].pid;
    process::kill(victim, Signal::KILL);
    worksong.wait_event("ready", |event| event.slot() == places[&0].slot && event.pid() != victim);
    let mut living = worksong.worker_pids();
    living.remove(&victim);
    clients.wait_answers(Some(&living));
    let theirs: BTreeSet<u64> =
        places.iter().filter(|(_, at)| at.pid == victim).map(|(who, _)| *who).collect();
    assert_eq!(clients.interrupted(), theirs);
    clients.assert_nothing_failed();
}

#[test]
fn a_room_reaches_over_all_workers_exactly_once() {
    const MEMBERS: u64 = 20;
    for version in ["18", "24"] {
        let worksong = start(version, "esm.mjs", &["rooms"]);
        let mut client = Command::new(node("22"));
        client.arg(fixture("node/socket-io/rooms-client.js")).arg(worksong.listening_port().to_string());
        let client = Program::start(client.args([&MEMBERS.to_string(), "10", "4"]));
        assert_eq!(client.wait_exit().code(), Some(0));
        let said: Value = serde_json::from_str(&client.lines().pop().expect("an outcome").text).unwrap();
        assert_eq!(said["once"], true, "every message reached every member once: {said}");
        assert_eq!(said["inRoom"], MEMBERS, "sockets of all workers are found");
        assert_eq!(said["answers"], json!((0..MEMBERS).collect::<Vec<_>>()), "every member answers");
        assert_eq!(said["servers"], 3, "each other worker answers");
        assert!(said["slots"].as_array().is_some_and(|slots| slots.len() > 1), "{said}");
        assert!(
            worksong.events().iter().all(|event| event.name() != "message"),
            "they are not the program's"
        );
    }
}

/// Writes a program that says what the workers of `@socket.io/cluster-engine` say: each greets all others until it has heard them, and then
/// writes to one of them. SIGUSR2 lets it send 40 MB to all.
fn letters(folder: &Folder) -> PathBuf {
    folder.write(
        "letters.js",
        "const slot = Number(process.env.WORKSONG_SLOT);\n\
         const say = (text, fields) => process.send({ senderId: `node-${slot}`, text, ...fields, _source: '_eio' });\n\
         const heard = new Set();\n\
         const greeting = setInterval(say, 10, 'hello');\n\
         process.on('message', ({ senderId, text, pad }) => {\n\
           if (text !== 'hello') return console.log(`${text} from ${senderId}${pad ? ` with ${pad.length}` : ''}`);\n\
           if (heard.size === 2 || heard.add(senderId).size < 2) return;\n\
           clearInterval(greeting);\n\
           say('hello');\n\
           say('a letter', { recipientId: `node-${(slot + 1) % 3}` });\n\
           say('an end');\n\
         });\n\
         process.on('SIGUSR2', () => {\n\
           for (let number = 0; number < 40; number += 1) say(`part ${number}`, { pad: 'x'.repeat(1e6) });\n\
         });\n\
         require('node:http').createServer().listen(0);\n",
    )
}

fn heard(worksong: &Worksong, slot: u32) -> Vec<String> {
    let said = worksong.output().into_iter().filter(|output| output.slot == slot);
    said.map(|output| output.line).filter(|line| line.contains(" from ")).collect()
}

#[test]
fn letters_reach_their_worker_alone_and_a_worker_that_stands_still_loses_only_its_own() {
    let folder = Folder::new();
    let worksong = Worksong::run(["-i", "3"]).program(letters(&folder)).start();
    worksong.wait_ready(3);
    for slot in 0..3 {
        let ends = [1, 2].map(|by| format!("an end from node-{}", (slot + by) % 3));
        for end in ends {
            worksong
                .wait_output("an end", |output| (output.slot == slot && output.line == end).then_some(()));
        }
        let letters = heard(&worksong, slot).into_iter().filter(|line| line.starts_with("a letter"));
        assert_eq!(letters.collect::<Vec<_>>(), [format!("a letter from node-{}", (slot + 2) % 3)]);
    }

    let pid_of = |slot| worksong.wait_event("ready", |event| event.slot() == slot).pid();
    process::kill(pid_of(2), Signal::STOP);
    process::kill(pid_of(0), Signal::USR2);
    worksong.wait_output("the last part", |output| {
        (output.slot == 1 && output.line == "part 39 from node-0 with 1000000").then_some(())
    });
    process::kill(pid_of(2), Signal::CONT);
    let parts = heard(&worksong, 1).into_iter().filter(|line| line.starts_with("part ")).count();
    assert_eq!(parts, 40, "who reads gets all of it");
}
