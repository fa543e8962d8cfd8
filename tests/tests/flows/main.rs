//! UDP with `--policy kernel`: the datagrams of a client (its address and port) stay with one slot.

mod client;
mod programs;

use std::collections::{BTreeMap, BTreeSet};

use worksong_testkit::{Signal, Worksong, eventually, process};

use self::client::{Clients, Home};
use self::programs::Flavour;

/// A flow stays with its worker, all have some, and who comes or goes moves no other's.
#[track_caller]
fn flows_stay_with_their_slots(flavour: Flavour, port: u16, worksong: &Worksong) {
    let pids = worksong.wait_ready(3);
    flavour.wait_bound(worksong, 3);
    let clients = Clients::new(port, 60);
    let homes = clients.wait_homes(&pids);
    assert_eq!(clients.ask(), homes, "a flow stays");

    // What is queued for a worker that dies is for the next one of its slot.
    let victim = homes[0];
    process::freeze(victim.pid);
    clients.send();
    process::kill(victim.pid, Signal::KILL);
    let after = clients.receive();
    for (before, after) in homes.iter().zip(&after) {
        assert_eq!(before.slot, after.slot, "{before:?} {after:?}");
        assert_eq!(before.pid == after.pid, before.slot != victim.slot, "{before:?} {after:?}");
    }
    // Until the successor is in rotation, what comes anew goes elsewhere.
    eventually("its flows with its successor", || {
        let now = clients.ask();
        let moved = now.iter().zip(&after).any(|(now, then)| now != then && then.slot != victim.slot);
        assert!(!moved, "a flow of another slot has moved: {now:?}");
        (now == after).then_some(())
    });
}

/// Every datagram is answered while all workers are replaced, and each flow by the slot that it has.
#[track_caller]
fn reloads_lose_no_datagram(flavour: Flavour, port: u16, worksong: &Worksong) {
    let old = worksong.wait_ready(3);
    flavour.wait_bound(worksong, 3);
    let clients = Clients::new(port, 40);
    let homes = clients.wait_homes(&old);
    let slots: Vec<u32> = homes.iter().map(|home| home.slot).collect();
    worksong.signal(Signal::HUP);
    let mut pids: BTreeMap<u32, BTreeSet<u32>> = BTreeMap::new();
    let is_over = || worksong.events().iter().any(|event| event.name() == "reload_report");
    // Once more after it: all are with the new workers then.
    for is_last in std::iter::repeat_with(is_over).chain([true]) {
        let now = clients.ask();
        assert_eq!(now.iter().map(|home| home.slot).collect::<Vec<_>>(), slots, "no flow has left its slot");
        for home in now {
            pids.entry(home.slot).or_default().insert(home.pid);
        }
        if is_last {
            break;
        }
    }
    assert!(clients.ask().iter().all(|home| !old.contains(&home.pid)), "all have been replaced");
    assert!(pids.values().all(|pids| pids.len() == 2), "one after the other: {pids:?}");
}

/// What a worker had not read when it died as it left is read by one more of its slot.
#[track_caller]
fn what_is_left_behind_is_read_by_one_more(flavour: Flavour, port: u16, worksong: &Worksong) {
    let old = worksong.wait_ready(3);
    flavour.wait_bound(worksong, 3);
    let clients = Clients::new(port, 60);
    let homes = clients.wait_homes(&old);
    let victim = homes[0];
    process::freeze(victim.pid);
    clients.send();
    worksong.signal(Signal::HUP);
    worksong.wait_event("reload_done", |_| true);
    process::kill(victim.pid, Signal::KILL);
    let orphaned = worksong.wait_event("orphaned", |_| true);
    assert_eq!(orphaned["address"], format!("udp 127.0.0.1:{port}"));
    let rescuer = worksong.wait_event("draining", |event| event["cause"] == "rescued").pid();
    for (before, after) in homes.iter().zip(clients.receive()) {
        let expected = if before.slot == victim.slot { rescuer } else { before.pid };
        assert_eq!(after, Home { slot: before.slot, pid: expected });
    }
    // Whoever comes meanwhile is not its.
    assert!(clients.ask().iter().all(|home| home.pid != rescuer && !old.contains(&home.pid)));
}

macro_rules! tests_of {
    ($($name:ident: $flavour:expr),*) => {$(
        mod $name {
            use super::*;

            #[test]
            fn flows_stay_with_their_slots() {
                let (flavour, port) = ($flavour, worksong_testkit::free_port());
                super::flows_stay_with_their_slots(flavour, port, &flavour.start(port));
            }

            #[test]
            fn reloads_lose_no_datagram() {
                let (flavour, port) = ($flavour, worksong_testkit::free_port());
                super::reloads_lose_no_datagram(flavour, port, &flavour.start(port));
            }

            #[test]
            fn what_is_left_behind_is_read_by_one_more() {
                let (flavour, port) = ($flavour, worksong_testkit::free_port());
                super::what_is_left_behind_is_read_by_one_more(flavour, port, &flavour.start(port));
            }
        }
    )*};
}

tests_of!(
    node_18: Flavour::Node("18"),
    node_22: Flavour::Node("22"),
    node_24: Flavour::Node("24"),
    node_listen: Flavour::NodeListen,
    rust: Flavour::Rust,
    inherited: Flavour::Inherited,
    captured: Flavour::Captured
);

#[test]
fn a_probe_is_for_a_server_that_takes_connections() {
    // Which server was opened first must not matter.
    let program = "const { createSocket } = require('node:dgram');\n\
         createSocket('udp4').bind(0, () => require('node:http').createServer((_, answer) => answer.end()).listen(0));\n";
    let folder = worksong_testkit::Folder::new();
    let options = ["-i", "2", "--policy", "kernel", "--ready", "http:/"];
    let worksong = Worksong::run(options).program(folder.write("both.cjs", program)).start();
    worksong.wait_ready(2);
    assert!(worksong.events().iter().all(|event| event.name() != "exit"));
}
