//! Workers are killed and stopped at random while a client opens connections without pause: none may be refused,
//! reset or lost, but for those that died with a worker that had accepted them.
//!
//! Ordinary runs are short; `WORKSONG_CHAOS=full` is the long form, of which `docs/chaos.md` has the figures.

mod attack;
mod client;
mod ledger;
mod sight;

use std::collections::{BTreeSet, HashMap};
use std::env;
use std::time::Duration;

use worksong_testkit::{Folder, Launch, NODE_VERSIONS, Signal, Worksong, binary, fixture, process};

use crate::attack::{Attack, Casualties};
use crate::client::{Client, ConnectionId};
use crate::ledger::{Grip, Ledger, Report};
use crate::sight::stop_and_look;

const WORKERS: usize = 4;

/// Starts workers again at once, however often they are killed.
const RESTARTS: [&str; 4] = ["--restart-delay", "0s", "--max-restarts", "1000000"];

/// The programs that are attacked.
#[derive(Clone, Copy, Debug)]
enum Kind {
    /// `apps/node/chaos.js`, whose workers record what they accept.
    Node,
    /// A Rust worker, which is looked at before it is killed.
    Rust,
}

impl Kind {
    fn launch(self) -> Launch {
        self.launch_with([])
    }

    fn launch_with<const N: usize>(self, options: [&str; N]) -> Launch {
        let launch = Worksong::run(["-i", &WORKERS.to_string()]).args(RESTARTS).args(options);
        match self {
            Self::Node => launch.program(fixture("node/chaos.js")),
            Self::Rust => {
                let program = binary("examples/under_node");
                launch.args(["--dialect", "native"]).program(program).args(["0.0.0.0:0"])
            }
        }
    }
}

/// A cluster under attack.
#[derive(Debug)]
struct Field {
    cluster: Worksong,
    client: Client,
    records: Folder,
    /// What was seen of workers that keep no record.
    seen: Vec<(u32, ConnectionId)>,
    kind: Kind,
}

impl Field {
    fn open(launch: Launch, kind: Kind) -> Self {
        let records = Folder::new();
        let cluster = launch.env("CHAOS_FOLDER", records.path()).start();
        cluster.wait_ready(WORKERS);
        let client = Client::start(cluster.listening_port());
        Self { cluster, client, records, seen: Vec::new(), kind }
    }

    /// Kills and stops workers as planned.
    fn attack(&mut self, attack: Attack) -> Casualties {
        let Self { cluster, client, seen, kind, .. } = self;
        attack.run(cluster, client, |pid| match kind {
            Kind::Node => {}
            Kind::Rust => seen.extend(stop_and_look(pid).into_iter().map(|connection| (pid, connection))),
        })
    }

    /// Ends client and cluster, and sums up what became of the connections.
    fn close(self, killed: &BTreeSet<u32>) -> Report {
        let exchanges = self.client.finish();
        let events = self.cluster.events();
        for event in &events {
            let wanted = event.name() != "exit" || killed.contains(&event.pid());
            assert!(wanted, "a worker ended that nobody killed: {event:?}");
        }
        let started = events.iter().filter(|event| event.name() == "forked");
        let workers: HashMap<u32, u32> = started.map(|event| (event.pid(), event.worker())).collect();
        let mut ledger = Ledger::read(self.records.path());
        for (pid, connection) in self.seen {
            ledger.note(connection, workers[&pid], Grip::Accepting);
        }
        let killed = killed.iter().map(|pid| workers[pid]).collect();
        let report = ledger.judge(&exchanges, &killed);
        self.cluster.signal(Signal::TERM);
        self.cluster.wait_exit();
        report
    }
}

/// Returns how many kills and stops are meant.
fn scaled(ordinary: (usize, usize), full: (usize, usize)) -> Attack {
    let is_full = env::var_os("WORKSONG_CHAOS").is_some_and(|form| form == "full");
    let (kills, stops) = if is_full { full } else { ordinary };
    let seed = env::var("WORKSONG_CHAOS_SEED").ok().and_then(|seed| seed.parse().ok());
    Attack { kills, stops, seed: seed.unwrap_or(1) }
}

#[track_caller]
fn assert_nothing_lost(report: &Report) {
    assert!(report.violations.is_empty(), "{report}\n{:#?}", report.violations);
}

#[test]
fn killed_and_stopped_node_workers_lose_only_what_they_accepted() {
    let attack = scaled((100, 40), (500, 200));
    let mut field = Field::open(Kind::Node.launch(), Kind::Node);
    let casualties = field.attack(attack);
    let report = field.close(&casualties.killed);
    println!("worksong with Node workers, {attack}: {casualties}; {report}");
    assert_nothing_lost(&report);
}

#[test]
fn killed_and_stopped_rust_workers_lose_only_what_they_accepted() {
    let attack = scaled((50, 20), (500, 200));
    let mut field = Field::open(Kind::Rust.launch(), Kind::Rust);
    let casualties = field.attack(attack);
    let report = field.close(&casualties.killed);
    println!("worksong with Rust workers, {attack}: {casualties}; {report}");
    assert_nothing_lost(&report);
}

/// Prints what Node's own primary makes of the same; it is not ours to judge.
#[test]
fn the_same_under_nodes_own_primary() {
    let attack = scaled((20, 8), (500, 200));
    let version = NODE_VERSIONS[NODE_VERSIONS.len() - 1];
    let launch = Worksong::reference(version, WORKERS).program(fixture("node/chaos.js"));
    let mut field = Field::open(launch, Kind::Node);
    let casualties = field.attack(attack);
    let report = field.close(&casualties.killed);
    println!("Node's primary with Node workers, {attack}: {casualties}; {report}");
    assert!(report.served > 0, "{report}");
}

#[test]
fn connections_wait_while_all_workers_are_dead() {
    let field = Field::open(Kind::Node.launch(), Kind::Node);
    let mut killed = BTreeSet::new();
    for _ in 0..20 {
        let workers = field.cluster.wait_ready(WORKERS);
        field.client.wait_for_more(100);
        for pid in &workers {
            assert!(process::kill(*pid, Signal::KILL), "worker {pid} has ended before it was killed");
        }
        for pid in &workers {
            field.cluster.wait_event("exit", |event| event.pid() == *pid);
        }
        killed.extend(workers);
    }
    field.cluster.wait_ready(WORKERS);
    let report = field.close(&killed);
    println!("20 times all workers at once: {report}");
    assert_nothing_lost(&report);
}

#[test]
fn connections_of_a_worker_that_never_wakes_go_to_others() {
    let launch = Kind::Node.launch_with(["--hung-timeout", "1s", "--kill-timeout", "100ms"]);
    let field = Field::open(launch, Kind::Node);
    let victim = *field.cluster.wait_ready(WORKERS).first().expect("there are workers");
    process::kill(victim, Signal::STOP);
    field.cluster.wait_event("exit", |event| event.pid() == victim);
    let report = field.close(&BTreeSet::from([victim]));
    println!("a worker stopped for good: {report}");
    assert_nothing_lost(&report);
    assert!(report.longest >= Duration::from_millis(500), "none was handed to the stopped worker: {report}");
}
