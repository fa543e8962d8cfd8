//! Reloads, and the death of all workers at once, under the clients of `bench/torture`.
//!
//! Each test prints its table. The binary of the same name runs other numbers of reloads, and peers beside worksong.

#![expect(clippy::print_stderr, reason = "a test that fails is explained by its table")]

use std::time::Duration;

use worksong_torture::{Class, Ending, Fate, Kind, Ledger, Outcome, Plan, Scenario, Settings, report};

/// Long enough for a stream, which takes a second, that begins late in a drain.
const DEADLINE: Duration = Duration::from_secs(3);
/// gunicorn cuts after four of them.
const PYTHON_DEADLINE: Duration = Duration::from_secs(5);
/// It takes requests on open connections for two seconds after it was told to end, so these have two seconds left.
const PYTHON_LONGEST: Duration = Duration::from_secs(2);
/// After a deadline the clients have to see what was cut.
const SIGHT: Duration = Duration::from_secs(2);

/// Runs a scenario and prints what came of it.
#[track_caller]
fn torture(kind: Kind, settings: &Settings, scenario: Scenario) -> Outcome {
    let plan = Plan::default();
    let outcome = scenario.run(kind.start(settings).as_mut(), &plan, settings.deadline + SIGHT, None);
    eprintln!("{}", report(&[(format!("{}, Node {}", kind.name(), settings.node), outcome.clone())]));
    assert_eq!(outcome.ended_by, None);
    assert_every_connection_has_one_end(&plan, &outcome.ledger);
    outcome
}

/// Nothing is counted twice, and nothing is forgotten.
#[track_caller]
fn assert_every_connection_has_one_end(plan: &Plan, ledger: &Ledger) {
    for (class, clients) in plan.crowd.iter() {
        let tally = ledger.class(class);
        let lost = ledger.failures().iter().filter(|failure| failure.class == class && failure.age.is_some());
        let ended = lost.count() as u64 + tally.ending(Ending::Idle) + tally.ending(Ending::Polite);
        match class {
            Class::Fresh | Class::Upload => assert_eq!(tally.opened, tally.requests(), "{class}"),
            // Several requests of one connection can be lost.
            Class::Http2 => {}
            _ if tally.opened == 0 => {}
            // Each client has closed its last connection by itself, unless that was just lost or ended.
            _ => assert!((ended..=ended + clients as u64).contains(&tally.opened), "{class}: {tally:?}"),
        }
    }
}

/// Fails with everything that was lost by clients of these classes, but for what outlived the deadline of its worker.
#[track_caller]
fn assert_nothing_failed(ledger: &Ledger, classes: &[Class], deadline: Duration) {
    let lost = ledger.failures().iter().filter(|failure| classes.contains(&failure.class));
    let (cut, lost): (Vec<_>, Vec<_>) = lost.partition(|failure| failure.waited >= deadline);
    eprintln!("{} requests took longer than {deadline:?} and were cut", cut.len());
    let lost: Vec<String> = lost.into_iter().map(ToString::to_string).collect();
    assert!(lost.is_empty(), "lost {}:\n{}", lost.len(), lost.join("\n"));
}

/// What holds with every worker: connections are taken, and what has begun on a new one is finished.
#[track_caller]
fn assert_held(ledger: &Ledger, deadline: Duration) {
    assert_eq!(ledger.total().fate(Fate::Refused), 0);
    assert_nothing_failed(ledger, &[Class::Fresh, Class::Upload, Class::Silent], deadline);
    assert!(ledger.class(Class::Fresh).requests() > 100 && ledger.class(Class::Upload).requests() > 2);
}

/// The clients whose connections can move while they are idle.
const MOVING: [Class; 5] =
    [Class::KeepAlive, Class::Pipelined, Class::SlowReader, Class::Stream, Class::Silent];

/// What holds where idle connections move: their clients do not even connect again.
#[track_caller]
fn assert_moved(ledger: &Ledger) {
    assert_nothing_failed(ledger, &MOVING, DEADLINE);
    for class in MOVING {
        assert_eq!(ledger.class(class).ending(Ending::Idle), 0, "{class}: closed while idle");
        assert!(class == Class::Silent || ledger.class(class).requests() > 10, "{class}");
    }
}

/// A WebSocket can only be cut by the deadline of its worker, which cannot have been leaving when it was opened.
#[track_caller]
fn assert_only_the_deadline_cuts(ledger: &Ledger, deadline: Duration) {
    let cut = ledger.failures().iter().filter(|failure| failure.class == Class::WebSocket);
    let early: Vec<_> = cut.filter(|failure| failure.age.is_none_or(|age| age < deadline)).collect();
    assert!(early.is_empty(), "cut before {deadline:?}: {early:?}");
    assert!(ledger.class(Class::WebSocket).requests() > 100);
}

/// Five for each version, twenty for all.
#[track_caller]
fn assert_node_reloads_lose_nothing(version: &str) {
    let settings = Settings { node: version.to_owned(), deadline: DEADLINE, ..Settings::default() };
    let outcome = torture(Kind::WorksongNode, &settings, Scenario::Reload(5));
    assert_held(&outcome.ledger, DEADLINE);
    assert_moved(&outcome.ledger);
    assert_only_the_deadline_cuts(&outcome.ledger, DEADLINE);
    assert_nothing_failed(&outcome.ledger, &[Class::Http2], DEADLINE);
}

#[test]
fn node_18_reloads_lose_nothing() {
    assert_node_reloads_lose_nothing("18");
}

#[test]
fn node_20_reloads_lose_nothing() {
    assert_node_reloads_lose_nothing("20");
}

#[test]
fn node_22_reloads_lose_nothing() {
    assert_node_reloads_lose_nothing("22");
}

#[test]
fn node_24_reloads_lose_nothing() {
    assert_node_reloads_lose_nothing("24");
}

/// A report is about one reload, so there is only one.
#[test]
fn what_the_primary_says_that_it_cut_is_what_the_clients_lost() {
    let settings = Settings { deadline: DEADLINE, ..Settings::default() };
    let outcome = torture(Kind::WorksongNode, &settings, Scenario::Reload(1));
    let total = outcome.ledger.total();
    assert!(total.failed() > 0, "WebSockets outlive the deadline");
    assert_eq!(outcome.cut, Some(total.failed() + total.ending(Ending::Idle)));
}

#[test]
fn rust_reloads_lose_nothing() {
    let settings = Settings { deadline: DEADLINE, ..Settings::default() };
    let ledger = torture(Kind::WorksongRust, &settings, Scenario::Reload(20)).ledger;
    assert_held(&ledger, DEADLINE);
    assert_moved(&ledger);
    assert_nothing_failed(&ledger, &Class::ALL, DEADLINE);
}

/// gunicorn keeps its connections for a while, and says `Connection: close` on their next answers.
#[test]
fn python_reloads_lose_nothing() {
    // A reload of such workers takes a second for each.
    let settings = Settings { workers: 1, deadline: PYTHON_DEADLINE, ..Settings::default() };
    let ledger = torture(Kind::WorksongPython, &settings, Scenario::Reload(20)).ledger;
    assert_held(&ledger, PYTHON_LONGEST);
    assert_nothing_failed(&ledger, &Class::ALL, PYTHON_LONGEST);
}

/// What dead workers had is lost with them; whoever comes then waits for their successors.
#[track_caller]
fn assert_nobody_was_refused(kind: Kind) {
    let settings = Settings { deadline: DEADLINE, ..Settings::default() };
    let ledger = torture(kind, &settings, Scenario::KillAll(10)).ledger;
    assert_eq!(ledger.total().fate(Fate::Refused), 0);
    assert_eq!(ledger.total().fate(Fate::TimedOut), 0);
}

#[test]
fn killed_node_workers_refuse_nobody() {
    assert_nobody_was_refused(Kind::WorksongNode);
}

#[test]
fn killed_rust_workers_refuse_nobody() {
    assert_nobody_was_refused(Kind::WorksongRust);
}

#[test]
fn killed_python_workers_refuse_nobody() {
    assert_nobody_was_refused(Kind::WorksongPython);
}
