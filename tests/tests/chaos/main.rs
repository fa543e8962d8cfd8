//! Workers are killed and stopped at random while a client opens connections without pause: none may be refused,
//! reset or lost, but for those that died with a worker that had accepted them.
//!
//! Ordinary runs are short; `WORKSONG_CHAOS=full` is the long form, of which `docs/chaos.md` has the figures.

mod attack;
mod client;
mod ledger;

use std::collections::BTreeSet;
use std::env;

use worksong_testkit::{Launch, Signal, Worksong, fixture};

use crate::attack::{Attack, Casualties};
use crate::client::Client;
use crate::ledger::{Ledger, Report};

const WORKERS: usize = 4;

/// Starts workers again at once, however often they are killed.
const RESTARTS: [&str; 4] = ["--restart-delay", "0s", "--max-restarts", "1000000"];

fn ours() -> Launch {
    Worksong::run(["-i", &WORKERS.to_string()]).args(RESTARTS)
}

fn is_full() -> bool {
    env::var_os("WORKSONG_CHAOS").is_some_and(|form| form == "full")
}

fn seed() -> u64 {
    env::var("WORKSONG_CHAOS_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(1)
}

/// Attacks Node workers of the primary.
fn attack_node(launch: Launch, attack: Attack) -> (Casualties, Report) {
    let records = worksong_testkit::Folder::new();
    let cluster = launch.program(fixture("node/chaos.js")).env("CHAOS_FOLDER", records.path()).start();
    cluster.wait_ready(WORKERS);
    let client = Client::start(cluster.listening_port());
    let casualties = attack.run(&cluster, &client, |_| {});
    let exchanges = client.finish();
    assert_only_killed_ended(&cluster, &casualties.killed);
    let killed = numbers(&cluster, &casualties.killed);
    let report = Ledger::read(records.path()).judge(&exchanges, &killed);
    cluster.signal(Signal::TERM);
    cluster.wait_exit();
    (casualties, report)
}

/// Returns the workers' numbers.
fn numbers(cluster: &Worksong, pids: &BTreeSet<u32>) -> BTreeSet<u32> {
    let events = cluster.events();
    let started = events.iter().filter(|event| event.name() == "forked" && pids.contains(&event.pid()));
    started.map(worksong_testkit::Event::worker).collect()
}

#[track_caller]
fn assert_only_killed_ended(cluster: &Worksong, killed: &BTreeSet<u32>) {
    for event in cluster.events() {
        assert!(
            event.name() != "exit" || killed.contains(&event.pid()),
            "an end that nobody wanted: {event:?}"
        );
    }
}

#[track_caller]
fn assert_nothing_lost(report: &Report) {
    assert!(report.violations.is_empty(), "{report}\n{:#?}", report.violations);
}

#[test]
fn killed_and_stopped_node_workers_lose_only_what_they_accepted() {
    let (kills, stops) = if is_full() { (500, 200) } else { (120, 50) };
    let attack = Attack { kills, stops, seed: seed() };
    let (casualties, report) = attack_node(ours(), attack);
    println!("worksong, {attack:?}: {} killed while stopped; {report}", casualties.killed_while_stopped);
    assert_eq!((casualties.kills, casualties.stops), (kills, stops));
    assert_nothing_lost(&report);
}
