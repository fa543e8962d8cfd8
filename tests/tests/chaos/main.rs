//! Workers are killed and stopped at random while a client opens connections without pause: none may be refused,
//! reset or lost, but for those that died with a worker that had accepted them.
//!
//! Ordinary runs are short; `WORKSONG_CHAOS=full` is the long form, of which `docs/chaos.md` has the figures.

mod attack;
mod client;
mod ledger;
mod sight;

use std::collections::HashMap;
use std::env;
use std::time::{Duration, Instant};

use worksong_testkit::{Folder, Launch, NODE_VERSIONS, Signal, Worksong, binary, fixture, process};

use crate::attack::{Attack, Casualties};
use crate::client::{Client, ConnectionId};
use crate::ledger::{Grip, Ledger, Report};
use crate::sight::stop_and_look;

const WORKERS: usize = 4;

/// Starts workers again at once, however often they are killed.
const OPTIONS: [&str; 6] = ["--restart-delay", "0s", "--max-restarts", "1000000", "--kill-timeout", "100ms"];
/// Longer than a client waits: the primary leaves it to the test to wake or kill a stopped worker.
const NEVER_HUNG: [&str; 2] = ["--hung-timeout", "5m"];

/// Who is attacked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// Workers of `apps/node/chaos.js`, which record what they accept.
    Node,
    /// Rust workers, which are looked at before they are killed.
    Rust,
    /// The same as `Node`, of Node's own primary.
    Reference,
}

impl Kind {
    fn launch(self, options: &[&str]) -> Launch {
        let workers = WORKERS.to_string();
        let ours = Worksong::run(["-i", &workers]).args(OPTIONS).args(options);
        match self {
            Self::Node => ours.program(fixture("node/chaos.js")),
            Self::Rust => {
                let program = binary("examples/under_node");
                ours.args(["--dialect", "native"]).program(program).args(["0.0.0.0:0"])
            }
            Self::Reference => {
                let newest = NODE_VERSIONS[NODE_VERSIONS.len() - 1];
                Worksong::reference(newest, WORKERS).program(fixture("node/chaos.js"))
            }
        }
    }

    /// Returns how long a lane of the client rests after each connection.
    ///
    /// To look at a process means to read the kernel's table of connections, which remembers those of a minute: Rust
    /// workers at full speed would make that take seconds.
    fn rest(self) -> Duration {
        match self {
            Self::Node | Self::Reference => Duration::ZERO,
            Self::Rust => Duration::from_millis(8),
        }
    }

    /// Returns what is done to it in an ordinary run and in the full form.
    fn attack(self) -> Attack {
        let (kills, stops) = match self {
            _ if is_full() => (500, 200),
            Self::Node => (80, 30),
            Self::Rust => (30, 12),
            Self::Reference => (20, 8),
        };
        let pause = match self {
            Self::Node | Self::Reference => 150,
            Self::Rust => 80,
        };
        let seed = env::var("WORKSONG_CHAOS_SEED").ok().and_then(|seed| seed.parse().ok());
        Attack { kills, stops, seed: seed.unwrap_or(1), pause }
    }
}

/// The long form takes minutes.
fn is_full() -> bool {
    env::var_os("WORKSONG_CHAOS").is_some_and(|form| form == "full")
}

/// A cluster with its client.
#[derive(Debug)]
struct Field {
    kind: Kind,
    cluster: Worksong,
    client: Client,
    records: Folder,
    /// What was seen of workers that keep no record.
    seen: Vec<(u32, ConnectionId)>,
}

impl Field {
    fn open(kind: Kind) -> Self {
        Self::open_with(kind, &NEVER_HUNG)
    }

    fn open_with(kind: Kind, options: &[&str]) -> Self {
        let records = Folder::new();
        let cluster = kind.launch(options).env("CHAOS_FOLDER", records.path()).start();
        cluster.wait_ready(WORKERS);
        let client = Client::start(cluster.listening_port(), kind.rest());
        Self { kind, cluster, client, records, seen: Vec::new() }
    }

    /// Kills and stops workers as planned.
    fn attack(&mut self, attack: Attack) -> Casualties {
        let Self { cluster, client, seen, kind, .. } = self;
        attack.run(cluster, client, |pid| match kind {
            Kind::Node | Kind::Reference => {}
            Kind::Rust => seen.extend(stop_and_look(pid).into_iter().map(|connection| (pid, connection))),
        })
    }

    /// Ends client and cluster, and sums up what became of the connections.
    fn close(self, killed: &HashMap<u32, Instant>) -> Report {
        let exchanges = self.client.finish();
        let events = self.cluster.events();
        for event in &events {
            let wanted = event.name() != "exit" || killed.contains_key(&event.pid());
            assert!(wanted, "a worker ended that nobody killed: {event:?}");
        }
        let started = events.iter().filter(|event| event.name() == "forked");
        let workers: HashMap<u32, u32> = started.map(|event| (event.pid(), event.worker())).collect();
        let mut ledger = Ledger::read(self.records.path());
        for (pid, connection) in self.seen {
            ledger.note(connection, workers[&pid], Grip::Accepting);
        }
        let killed = killed.iter().map(|(pid, at)| (workers[pid], *at)).collect();
        let report = ledger.judge(&exchanges, &killed);
        // Node's primary waits for ever for what it has lost.
        if self.kind != Kind::Reference {
            self.cluster.signal(Signal::TERM);
            assert!(self.cluster.wait_exit().success(), "the primary ends well after all that");
        }
        report
    }
}

#[track_caller]
fn assert_nothing_lost(report: &Report) {
    assert!(report.violations.is_empty(), "{report}\n{:#?}", report.violations);
}

#[test]
fn killed_and_stopped_node_workers_lose_only_what_they_accepted() {
    let (attack, mut field) = (Kind::Node.attack(), Field::open(Kind::Node));
    let casualties = field.attack(attack);
    let report = field.close(&casualties.killed);
    println!("worksong with Node workers, {attack}: {casualties}; {report}");
    assert_nothing_lost(&report);
}

#[test]
fn killed_and_stopped_rust_workers_lose_only_what_they_accepted() {
    let (attack, mut field) = (Kind::Rust.attack(), Field::open(Kind::Rust));
    let casualties = field.attack(attack);
    let report = field.close(&casualties.killed);
    println!("worksong with Rust workers, {attack}: {casualties}; {report}");
    assert_nothing_lost(&report);
}

/// Prints what Node's own primary makes of the same; it is not ours to judge.
#[test]
fn the_same_under_nodes_own_primary() {
    let (attack, mut field) = (Kind::Reference.attack(), Field::open(Kind::Reference));
    let casualties = field.attack(attack);
    let report = field.close(&casualties.killed);
    println!("Node's primary with Node workers, {attack}: {casualties}; {report}");
    assert!(report.served > 0, "{report}");
}

#[test]
fn connections_wait_while_all_workers_are_dead() {
    let field = Field::open(Kind::Node);
    let mut killed = HashMap::new();
    let rounds = if is_full() { 200 } else { 20 };
    for _ in 0..rounds {
        let workers = field.cluster.wait_ready(WORKERS);
        field.client.wait_for_more(100);
        for pid in &workers {
            killed.insert(*pid, Instant::now());
            assert!(process::kill(*pid, Signal::KILL), "worker {pid} has ended before it was killed");
        }
        for pid in &workers {
            field.cluster.wait_event("exit", |event| event.pid() == *pid);
        }
    }
    field.cluster.wait_ready(WORKERS);
    let report = field.close(&killed);
    println!("{rounds} times all workers at once: {report}");
    assert_nothing_lost(&report);
}

#[test]
fn connections_of_a_worker_that_never_wakes_go_to_others() {
    // Without pings: one that owes an answer to a ping is passed by.
    let field = Field::open_with(Kind::Node, &["--hung-timeout", "3s", "--no-agent"]);
    let victim = *field.cluster.wait_ready(WORKERS).first().expect("there are workers");
    let stopped = Instant::now();
    process::kill(victim, Signal::STOP);
    field.cluster.wait_event("exit", |event| event.pid() == victim);
    let report = field.close(&HashMap::from([(victim, stopped)]));
    println!("a worker stopped for good: {report}");
    assert_nothing_lost(&report);
    assert!(report.longest >= Duration::from_secs(1), "none was handed to the stopped worker: {report}");
}
