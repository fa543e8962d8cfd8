//! What every server goes through.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{SocketAddr, UdpSocket};

use worksong_testkit::{Signal, patience};

use crate::client::{DNS, Load, Visit, is_dns_answer};
use crate::publish::{self, Outcome};
use crate::server::{Limit, Server};
use crate::stage::{Stage, WORKERS, freeze};

/// So many connections reach each of three workers, but for one try in ten thousand millions.
const ENOUGH: usize = 60;
/// Of so many connections some are for one worker of three, but for one try in ten thousand.
pub(crate) const SOME: usize = 24;

/// What may become of connections in a reload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum May {
    /// Nothing but an answer.
    Nothing,
    /// The server may close them without one.
    Cut,
}

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
    let share = share(&stage);
    let reloaded = reload(&stage, May::Nothing);
    if server.reads_datagrams {
        assert_reads_datagrams(&stage);
    }
    let outcome = Outcome::Passed { share, reloaded, inherited: kill(&stage), held: hold(&stage) };
    stage.worksong.signal(Signal::TERM);
    assert!(stage.worksong.wait_exit().success());
    publish::row(server, &outcome);
}

fn run_alone(server: &'static Server) {
    stay(&Stage::start_with(server, 1, &["--ready-timeout", "2s"]));
}

/// The address answers as long as the app lives, so that every successor goes elsewhere or gives up: it is no successor,
/// and the old worker stays.
pub(crate) fn stay(stage: &Stage) {
    let load = Load::start(stage.front.clone(), stage.server.protocol);
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
        let visit = stage.visit(&address.into());
        *shares.entry(stage.worker_of(&visit, address, &workers)).or_default() += 1;
        assert_answered(stage, [visit]);
    }
    assert!(shares.values().all(|share| *share > 0), "{}: {shares:?}", stage.server.name);
    shares.into_values().collect()
}

/// Datagrams of many clients are answered.
fn assert_reads_datagrams(stage: &Stage) {
    for _ in 0..ENOUGH {
        let client = UdpSocket::bind("127.0.0.1:0").unwrap();
        client.set_read_timeout(Some(patience())).unwrap();
        client.send_to(DNS, stage.address).unwrap();
        let mut answer = [0; 512];
        let length =
            client.recv(&mut answer).unwrap_or_else(|error| panic!("{}: {error}", stage.server.name));
        assert!(is_dns_answer(&answer[..length]), "{}: {:?}", stage.server.name, &answer[..length]);
    }
}

/// All workers are replaced under load, nobody is refused, and nothing fails but what the server may cut. Returns how much
/// was answered.
pub(crate) fn reload(stage: &Stage, may: May) -> usize {
    let old = stage.worksong.wait_ready(WORKERS);
    let load = Load::start(stage.front.clone(), stage.server.protocol);
    load.wait_answers(50);
    stage.worksong.signal(Signal::HUP);
    stage.worksong.wait_event("reload_done", |event| event.generation() == 2);
    for worker in &old {
        stage.worksong.wait_event("exit", |event| event.pid() == *worker);
    }
    load.wait_answers(50);
    let (answers, failures) = load.finish();
    let count = failures.len();
    let fits = failures.iter().all(|failure| may == May::Cut && failure.is_cut());
    assert!(fits, "{}: {count} failures beside {answers}: {failures:?}", stage.server.name);
    stage.wait_successors(&old);
    assert_answered(stage, [stage.ask()]);
    answers
}

/// One worker stands still and is killed: what its queue has, another one answers.
pub(crate) fn kill(stage: &Stage) -> usize {
    let victim = *stage.worksong.wait_ready(WORKERS).first().unwrap();
    let members = freeze(victim);
    let visits: Vec<Visit> = (0..SOME).map(|_| stage.ask()).collect();
    for member in members {
        member.signal(Signal::KILL);
    }
    assert_answered(stage, visits);
    stage.wait_successors(&BTreeSet::from([victim]));
    SOME
}

/// No worker lives: who connects, before or after their end, waits for the next ones.
pub(crate) fn hold(stage: &Stage) -> usize {
    let old = stage.worksong.wait_ready(WORKERS);
    let members: Vec<_> = old.iter().map(|worker| freeze(*worker)).collect();
    let mut visits: Vec<Visit> = (0..SOME).map(|_| stage.ask()).collect();
    for member in members.into_iter().flatten() {
        member.signal(Signal::KILL);
    }
    visits.extend((0..SOME).map(|_| stage.ask()));
    assert_answered(stage, visits);
    stage.wait_successors(&old);
    2 * SOME
}

#[track_caller]
pub(crate) fn assert_answered(stage: &Stage, visits: impl IntoIterator<Item = Visit>) {
    for visit in visits {
        if let Err(failure) = visit.answer() {
            panic!("{}: {failure:?}", stage.server.name);
        }
    }
}
