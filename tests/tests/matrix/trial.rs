//! What every server goes through.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

use worksong_testkit::Signal;
use worksong_testkit::http::Address;

use crate::client::{Load, Visit};
use crate::publish::{self, Outcome};
use crate::server::{Limit, Server};
use crate::stage::{Stage, WORKERS, freeze};

/// So many connections reach each of three workers, but for one try in ten thousand millions.
const ENOUGH: usize = 60;
/// Of so many connections some are for one worker of three, but for one try in ten thousand.
pub(crate) const SOME: usize = 24;

/// Puts a server through the trial, and publishes what came out of it when that is asked for.
pub(crate) fn run(server: &'static Server) {
    match server.limit {
        None => run_all(server),
        Some(Limit::ConnectsFirst) => run_alone(server),
        Some(Limit::ClosesUnread) => {
            unreachable!("where it has a port of its own, nothing comes to it any more")
        }
    }
}

fn run_all(server: &'static Server) {
    let stage = Stage::start(server);
    let outcome = Outcome::Passed {
        share: share(&stage),
        reloaded: reload(&stage),
        inherited: inherit(&stage),
        held: hold(&stage),
    };
    stage.worksong.signal(Signal::TERM);
    assert!(stage.worksong.wait_exit().success());
    publish::row(server, &outcome);
}

fn run_alone(server: &'static Server) {
    let stage = Stage::start_with(server, 1, &["--ready-timeout", "2s"]);
    stay(&stage, stage.address);
}

/// The address answers as long as the app lives, so that every successor goes elsewhere or gives up: it is no successor,
/// and the old worker stays.
pub(crate) fn stay(stage: &Stage, address: impl Into<Address>) {
    let load = Load::start(address, stage.server.protocol);
    stage.worksong.signal(Signal::HUP);
    stage.worksong.wait_event("reload_failed", |_| true);
    load.wait_answers(50);
    let (answers, failures) = load.finish();
    assert!(failures.is_empty(), "{}: {failures:?} beside {answers}", stage.server.name);
    stage.worksong.signal(Signal::TERM);
    assert!(stage.worksong.wait_exit().success());
    publish::row(stage.server, &Outcome::Impossible);
}

/// Every worker serves, wherever it listens. Returns how many connections each had at the first address.
fn share(stage: &Stage) -> Vec<usize> {
    for other in &stage.others {
        share_of(stage, *other);
    }
    share_of(stage, stage.address)
}

fn share_of(stage: &Stage, address: SocketAddr) -> Vec<usize> {
    let workers = stage.worksong.wait_ready(WORKERS);
    let mut shares: BTreeMap<u32, usize> = workers.iter().map(|worker| (*worker, 0)).collect();
    for _ in 0..ENOUGH {
        let visit = stage.visit(address);
        *shares.entry(stage.worker_of(&visit, address, &workers)).or_default() += 1;
        assert_answered(stage, [visit]);
    }
    assert!(shares.values().all(|share| *share > 0), "{}: {shares:?}", stage.server.name);
    shares.into_values().collect()
}

/// All workers are replaced under load, and nothing fails. Returns how much was answered.
fn reload(stage: &Stage) -> usize {
    let old = stage.worksong.wait_ready(WORKERS);
    let load = Load::start(stage.address, stage.server.protocol);
    load.wait_answers(50);
    stage.worksong.signal(Signal::HUP);
    stage.worksong.wait_event("reload_done", |event| event.generation() == 2);
    for worker in &old {
        stage.worksong.wait_event("exit", |event| event.pid() == *worker);
    }
    load.wait_answers(50);
    let (answers, failures) = load.finish();
    let count = failures.len();
    assert!(failures.is_empty(), "{}: {count} failures beside {answers}: {failures:?}", stage.server.name);
    let new = stage.wait_successors(&old);
    let visit = stage.visit(stage.address);
    stage.worker_of(&visit, stage.address, &new);
    assert_answered(stage, [visit]);
    answers
}

/// One worker stands still and is killed: what its queue has, its successor answers.
fn inherit(stage: &Stage) -> usize {
    let old = stage.worksong.wait_ready(WORKERS);
    let victim = *old.first().unwrap();
    let members = freeze(victim);
    let visits: Vec<Visit> = (0..SOME).map(|_| asked(stage)).collect();
    for member in members {
        member.signal(Signal::KILL);
    }
    assert_answered(stage, visits);
    stage.wait_successors(&BTreeSet::from([victim]));
    SOME
}

/// No worker lives: who connects, before or after their end, waits for the next ones.
fn hold(stage: &Stage) -> usize {
    let old = stage.worksong.wait_ready(WORKERS);
    let members: Vec<_> = old.iter().map(|worker| freeze(*worker)).collect();
    let mut visits: Vec<Visit> = (0..SOME).map(|_| asked(stage)).collect();
    for member in members.into_iter().flatten() {
        member.signal(Signal::KILL);
    }
    visits.extend((0..SOME).map(|_| asked(stage)));
    assert_answered(stage, visits);
    stage.wait_successors(&old);
    2 * SOME
}

/// Connects and sends a whole question.
fn asked(stage: &Stage) -> Visit {
    let mut visit = stage.visit(stage.address);
    visit.ask().unwrap();
    visit
}

#[track_caller]
pub(crate) fn assert_answered(stage: &Stage, visits: impl IntoIterator<Item = Visit>) {
    for visit in visits {
        if let Err(failure) = visit.answer() {
            panic!("{}: {failure:?}", stage.server.name);
        }
    }
}
