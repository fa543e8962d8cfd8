//! Unmodified programs with Socket.IO, on several workers.

use std::collections::BTreeSet;

use worksong_testkit::socket_io::{Clients, Kind, Place};
use worksong_testkit::{NODE_VERSIONS, Signal, Worksong, fixture, process};

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
fn fifty_clients_upgrade_and_share_all_workers() {
    let worksong = start("22", "commonjs.cjs", &[]);
    let clients = Clients::start(worksong.listening_port(), Kind::Upgrade, 50, 1000);
    let places = clients.wait_answers(None);
    assert_eq!(slots(places.into_values()), BTreeSet::from([0, 1, 2, 3]));
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
    let clients = Clients::start(worksong.listening_port(), Kind::Proxied, 12, 1000);
    let places = clients.wait_answers(None);
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
