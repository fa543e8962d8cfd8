//! Reloads, and the death of all workers at once, under the clients of `bench/torture`.
//!
//! Each test prints its table. The binary of the same name runs other numbers of reloads, and peers beside worksong.

#![expect(clippy::print_stderr, reason = "a test that fails is explained by its table")]

use std::time::Duration;

use worksong_torture::{
    Class, Crowd, Ending, Failure, Fate, Kind, Ledger, Outcome, Plan, Scenario, Settings, report,
};

/// Long enough to move some forty connections, one after the other, on a machine that is busy with other things.
const DEADLINE: Duration = Duration::from_secs(6);
/// gunicorn cuts a second before it.
const PYTHON_DEADLINE: Duration = Duration::from_secs(8);
/// It takes requests on open connections for two seconds after it was told to end, so these have five seconds left.
const PYTHON_LONGEST: Duration = Duration::from_secs(5);
/// Workers that are killed have no time for anything.
const KILL_DEADLINE: Duration = Duration::from_secs(3);
/// After a deadline the clients have to see what was cut.
const SIGHT: Duration = Duration::from_secs(2);

/// Runs a scenario with all clients and prints what came of it.
#[track_caller]
fn torture(kind: Kind, settings: &Settings, scenario: Scenario) -> Outcome {
    torture_by(&Plan::default(), kind, settings, scenario)
}

#[track_caller]
fn torture_by(plan: &Plan, kind: Kind, settings: &Settings, scenario: Scenario) -> Outcome {
    let outcome = scenario.run(kind.start(settings).as_mut(), plan, settings.deadline + SIGHT, None);
    eprintln!("{}", report(&[(format!("{}, Node {}", kind.name(), settings.node), outcome.clone())]));
    assert_eq!(outcome.ended_by, None);
    assert_every_connection_has_one_end(plan, &outcome.ledger);
    outcome
}

/// Nothing is counted twice, and nothing is forgotten.
#[track_caller]
fn assert_every_connection_has_one_end(plan: &Plan, ledger: &Ledger) {
    for (class, clients) in plan.crowd.iter() {
        let tally = ledger.class(class);
        let ended = ENDINGS.map(|ending| tally.ending(ending)).iter().sum::<u64>();
        match class {
            Class::Fresh | Class::Upload => assert_eq!(tally.opened, tally.requests(), "{class}"),
            _ if tally.opened == 0 => {}
            // Each client has closed its last connection by itself, unless that was just lost or ended.
            _ => assert!((ended..=ended + clients as u64).contains(&tally.opened), "{class}: {tally:?}"),
        }
    }
}

const ENDINGS: [Ending; 3] = [Ending::Polite, Ending::Idle, Ending::Lost];

/// Fails with everything that was lost, but for what outlived the deadline of its worker and can take that long; returns
/// how much did.
#[track_caller]
fn assert_nothing_failed(ledger: &Ledger, deadline: Duration) -> u64 {
    let is_cut = |failure: &&Failure| {
        let has_taken = match failure.class {
            Class::Upload => Some(failure.waited),
            // Its worker cannot have been leaving when it was opened.
            Class::WebSocket => failure.age,
            Class::Fresh
            | Class::KeepAlive
            | Class::Pipelined
            | Class::SlowReader
            | Class::Stream
            | Class::Http2
            | Class::Silent => None,
        };
        failure.fate != Fate::TimedOut && has_taken.is_some_and(|time| time >= deadline)
    };
    let (cut, lost): (Vec<_>, Vec<_>) = ledger.failures().iter().partition(is_cut);
    eprintln!("{} requests took longer than {deadline:?} and were cut", cut.len());
    let lost: Vec<String> = lost.into_iter().map(ToString::to_string).collect();
    assert!(lost.is_empty(), "lost {}:\n{}", lost.len(), lost.join("\n"));
    cut.len() as u64
}

/// A class whose clients are stuck, or cannot even connect, proves nothing.
#[track_caller]
fn assert_all_were_there(ledger: &Ledger, classes: &[Class]) {
    for class in classes {
        let tally = ledger.class(*class);
        match class {
            Class::Silent => assert!(tally.opened > 0, "{class}"),
            Class::Upload => assert!(tally.fate(Fate::Served) > 2, "{class}: {tally:?}"),
            Class::SlowReader | Class::Stream => assert!(tally.fate(Fate::Served) > 10, "{class}: {tally:?}"),
            Class::Fresh | Class::KeepAlive | Class::Pipelined | Class::WebSocket | Class::Http2 => {
                assert!(tally.fate(Fate::Served) > 100, "{class}: {tally:?}");
            }
        }
    }
}

/// The clients whose connections can move while they are idle.
const MOVING: [Class; 5] =
    [Class::KeepAlive, Class::Pipelined, Class::SlowReader, Class::Stream, Class::Silent];

/// What holds where idle connections move: their clients do not even connect again.
#[track_caller]
fn assert_moved(ledger: &Ledger) {
    for class in MOVING {
        assert_eq!(ledger.class(class).ending(Ending::Idle), 0, "{class}: closed while idle");
    }
}

/// The primary knows how many connections its reloads have cut: as many as the clients saw end without a word.
#[track_caller]
fn assert_cut_is_counted(outcome: &Outcome) {
    let total = outcome.ledger.total();
    let seen = total.ending(Ending::Lost) + total.ending(Ending::Idle);
    // One may have ended well between the last word of its worker, at most 50 ms before, and the end of that.
    let by_chance = outcome.steps.len() as u64;
    let cut = outcome.cut.expect("its workers count connections");
    assert!((seen..=seen + by_chance).contains(&cut), "{cut} were cut, clients saw {seen}");
}

/// Five for each version, twenty for all.
#[track_caller]
fn assert_node_reloads_lose_nothing(kind: Kind, version: &str) {
    let settings = Settings { node: version.to_owned(), deadline: DEADLINE, ..Settings::default() };
    let outcome = torture(kind, &settings, Scenario::Reload(5));
    let _outlived = assert_nothing_failed(&outcome.ledger, DEADLINE);
    assert_all_were_there(&outcome.ledger, &Class::ALL);
    assert_moved(&outcome.ledger);
    let web_sockets = outcome.ledger.class(Class::WebSocket);
    assert!(web_sockets.ending(Ending::Lost) > 0, "they outlive the deadline: {web_sockets:?}");
    assert_cut_is_counted(&outcome);
}

#[test]
fn node_18_reloads_lose_nothing() {
    assert_node_reloads_lose_nothing(Kind::WorksongNode, "18");
}

#[test]
fn node_20_reloads_lose_nothing() {
    assert_node_reloads_lose_nothing(Kind::WorksongNode, "20");
}

#[test]
fn node_22_reloads_lose_nothing() {
    assert_node_reloads_lose_nothing(Kind::WorksongNode, "22");
}

#[test]
fn node_24_reloads_lose_nothing() {
    assert_node_reloads_lose_nothing(Kind::WorksongNode, "24");
}

#[test]
fn kernel_reloads_lose_nothing() {
    assert_node_reloads_lose_nothing(Kind::WorksongKernel, "24");
}

#[test]
fn rust_reloads_lose_nothing() {
    let settings = Settings { deadline: DEADLINE, ..Settings::default() };
    let outcome = torture(Kind::WorksongRust, &settings, Scenario::Reload(20));
    let outlived = assert_nothing_failed(&outcome.ledger, DEADLINE);
    assert_all_were_there(&outcome.ledger, &Class::ALL);
    assert_moved(&outcome.ledger);
    let web_sockets = outcome.ledger.class(Class::WebSocket);
    assert!(web_sockets.ending(Ending::Polite) > 0, "its program closes them: {web_sockets:?}");
    let total = outcome.ledger.total();
    assert_eq!(total.ending(Ending::Lost) + total.ending(Ending::Idle), outlived, "{total:?}");
    assert_cut_is_counted(&outcome);
}

/// gunicorn keeps its connections for a while, and says `Connection: close` on their next answers.
#[test]
fn python_reloads_lose_nothing() {
    // A reload of such workers takes a second for each.
    let settings = Settings { workers: 1, deadline: PYTHON_DEADLINE, ..Settings::default() };
    // On a busy machine it has to come in two seconds to all that was sent on its open connections.
    let crowd = Crowd::default().with(Class::KeepAlive, 8).with(Class::Stream, 4).with(Class::Fresh, 4);
    let plan = Plan { crowd, ..Plan::default() };
    let ledger = torture_by(&plan, Kind::WorksongPython, &settings, Scenario::Reload(20)).ledger;
    let _outlived = assert_nothing_failed(&ledger, PYTHON_LONGEST);
    let has = |class: &Class| ![Class::WebSocket, Class::Http2].contains(class);
    assert_all_were_there(&ledger, &Class::ALL.into_iter().filter(has).collect::<Vec<_>>());
}

/// What dead workers had is lost with them; whoever comes then waits for their successors.
#[track_caller]
fn assert_nobody_was_refused(kind: Kind) {
    let settings = Settings { deadline: KILL_DEADLINE, ..Settings::default() };
    let ledger = torture(kind, &settings, Scenario::KillAll(10)).ledger;
    assert_eq!(ledger.total().fate(Fate::Refused), 0);
    assert_eq!(ledger.total().fate(Fate::TimedOut), 0);
}

#[test]
fn killed_node_workers_refuse_nobody() {
    assert_nobody_was_refused(Kind::WorksongNode);
}

#[test]
fn killed_kernel_workers_refuse_nobody() {
    assert_nobody_was_refused(Kind::WorksongKernel);
}

#[test]
fn killed_rust_workers_refuse_nobody() {
    assert_nobody_was_refused(Kind::WorksongRust);
}

#[test]
fn killed_python_workers_refuse_nobody() {
    assert_nobody_was_refused(Kind::WorksongPython);
}
