//! Whether keys stay where they belong: many sessions, through resizes, reloads and kills.
//!
//! What has to hold of rendezvous hashing can be seen from outside, whatever the hash is: with more slots, a key stays or
//! goes to a new slot; with fewer, only the keys of the slots that are gone move; a new worker in the same slot moves
//! nothing; and the same number of slots gives the same places again.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::upload;
use crate::cluster::Cluster;
use crate::error::{Error, Result};
use crate::load::{Ask, Load, Mode, Shape};
use crate::options::Benchmark;
use crate::session::{self, Session};
use crate::system::{BY_KEY, Script};
use crate::table::Table;

/// Busy connections while all keys are asked for.
const BUSY: usize = 64;
/// Of so many keys one may be passed by, and all that are asked for at the same time; when there are more, something is
/// wrong.
const KEYS_PER_PASSED_BY: usize = 1000;
/// A key is back when it is in the right place so many times in a row: not by chance.
const TIMES_IN_A_ROW: usize = 8;
/// How long their workers have to get better.
const PASSED_BY_FOR: Duration = Duration::from_secs(10);
/// Counts of moved keys may differ from their mean by so many standard deviations.
const DEVIATIONS: f64 = 6.0;

/// Which slot serves each key; the key is the index.
type Places = Vec<u32>;

/// What is done to the cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    /// It gets another number of workers.
    Resize { from: u32, to: u32 },
    /// All its workers are replaced.
    Reload { workers: u32 },
    /// The worker of a slot gets SIGKILL.
    Kill { workers: u32, slot: u32 },
}

/// What a step did to the keys.
#[derive(Clone, Debug, PartialEq)]
struct Moves {
    step: Step,
    /// How many are served by another slot than before.
    moved: usize,
    /// How many are where they must not be.
    wrongly: usize,
    /// How many were elsewhere for a moment.
    passed_by: usize,
    /// How many had to move; where the hash decides, on average.
    expected: f64,
    /// By how many the count of those that moved may differ from that.
    tolerance: f64,
}

/// Runs the benchmark, prints its table and returns what moved.
///
/// # Errors
///
/// When a key moved that must not, or the upload was not received as it was sent.
pub(crate) fn run(session: &Session) -> Result<Vec<Value>> {
    if let Some(reason) = BY_KEY.missing(&session.options.programs) {
        return Err(Error::Usage(format!("{} cannot run: {reason}", BY_KEY.name)));
    }
    let sizes = session.options.workers(Benchmark::Affinity);
    let mut results = Vec::new();
    for round in 1..=session.options.rounds(Benchmark::Affinity) {
        session.progress(&format!("affinity: round {round}, {} keys", session.options.sessions));
        let moves = follow_keys(session, sizes)?;
        session::print(&to_markdown(session.options.sessions, &moves))?;
        results.push(moves.iter().map(Moves::to_json).collect());
        if let Some(wrong) = moves.iter().find(|moves| !moves.is_right()) {
            return Err(Error::Broken(format!(
                "{}: {} keys moved, {} are in a wrong place; {:.0} ± {:.0} were to move",
                wrong.step.title(),
                wrong.moved,
                wrong.wrongly,
                wrong.expected,
                wrong.tolerance
            )));
        }
    }
    for system in session.systems(Benchmark::Affinity)? {
        let cluster = session.start(system, 2, Script::Busy)?;
        results.push(upload::run(session, &cluster)?);
    }
    Ok(results)
}

fn follow_keys(session: &Session, sizes: &[u32]) -> Result<Vec<Moves>> {
    let keys = session.options.sessions;
    let mut cluster = session.start(&BY_KEY, sizes[0], Script::Hello)?;
    let mut before = places(&cluster, 0, keys)?;
    // The places that each number of slots gave: it has to give them again.
    let mut known = vec![(sizes[0], before.clone())];
    let mut all = Vec::new();
    for step in steps(sizes) {
        step.perform(&mut cluster)?;
        let mut now = places(&cluster, 0, keys)?;
        let then = known.iter().find(|(workers, _)| *workers == step.workers()).map(|(_, then)| then);
        let is_right = |key: usize, place: u32| match then {
            Some(then) => place == then[key],
            None => step.allows(before[key], place),
        };
        let passed_by = ask_again(&cluster, &mut now, is_right)?;
        let wrongly = (0..now.len()).filter(|&key| !is_right(key, now[key])).count();
        let moves = Moves::between(step, &before, &now, wrongly, passed_by);
        session.progress(&format!("  {}: {} moved", step.title(), moves.moved));
        all.push(moves);
        if then.is_none() {
            known.push((step.workers(), now.clone()));
        }
        before = now;
    }
    Ok(all)
}

/// Asks once more for keys that are in a wrong place, and returns how many of them were in the right one then.
///
/// A worker that leaves connections alone for a second is passed by until it is better, which happens on a machine that is
/// too busy. That is no fault; a wrong choice stays wrong.
fn ask_again(
    cluster: &Cluster<'_>,
    now: &mut Places,
    is_right: impl Fn(usize, u32) -> bool,
) -> Result<usize> {
    let wrong: Vec<usize> = (0..now.len()).filter(|&key| !is_right(key, now[key])).collect();
    if wrong.len() > now.len() / KEYS_PER_PASSED_BY + BUSY {
        return Ok(0);
    }
    let mut passed_by = 0;
    let end = Instant::now() + PASSED_BY_FOR;
    for key in wrong {
        let mut times_right = 0;
        while times_right < TIMES_IN_A_ROW && Instant::now() < end {
            now[key] = places(cluster, key as u32, 1)?[0];
            times_right = if is_right(key, now[key]) { times_right + 1 } else { 0 };
        }
        passed_by += usize::from(is_right(key, now[key]));
    }
    Ok(passed_by)
}

/// Returns every resize, each followed by a reload and by the end of two workers, and a way back to the first size.
fn steps(sizes: &[u32]) -> Vec<Step> {
    let mut steps = Vec::new();
    let mut workers = sizes[0];
    for &to in sizes.iter().chain(std::iter::once(&sizes[0])) {
        if to != workers {
            steps.push(Step::Resize { from: workers, to });
            workers = to;
        }
        steps.push(Step::Reload { workers });
        steps.extend(BTreeSet::from([0, workers - 1]).into_iter().map(|slot| Step::Kill { workers, slot }));
    }
    steps
}

impl Step {
    fn title(self) -> String {
        match self {
            Self::Resize { from, to } => format!("{from} → {to} slots"),
            Self::Reload { workers } => format!("reload of {workers} slots"),
            Self::Kill { workers, slot } => format!("SIGKILL in slot {slot} of {workers}"),
        }
    }

    /// Returns how many workers there are after it.
    fn workers(self) -> u32 {
        match self {
            Self::Resize { to, .. } => to,
            Self::Reload { workers } | Self::Kill { workers, .. } => workers,
        }
    }

    /// Returns true when a key may be at `now` that was at `before`.
    fn allows(self, before: u32, now: u32) -> bool {
        let may_move = match self {
            Self::Resize { from, to } if from < to => (from..to).contains(&now),
            Self::Resize { to, .. } => before >= to,
            Self::Reload { .. } | Self::Kill { .. } => false,
        };
        // A slot that is gone serves nobody.
        (now == before || may_move) && now < self.workers()
    }

    /// Does it, and returns when everything is in place again.
    fn perform(self, cluster: &mut Cluster<'_>) -> Result<()> {
        let slot = |event: &Value| event["slot"].as_u64().and_then(|slot| u32::try_from(slot).ok());
        let mut waiting: BTreeSet<u32> = match self {
            Self::Resize { from, to } => (from.min(to)..from.max(to)).collect(),
            Self::Reload { .. } => BTreeSet::new(),
            Self::Kill { slot, .. } => BTreeSet::from([slot]),
        };
        let (order, last) = match self {
            Self::Resize { from, to } if from < to => (format!("resize {to}"), "ready"),
            Self::Resize { to, .. } => (format!("resize {to}"), "exit"),
            Self::Reload { .. } => ("reload".to_owned(), "reload_report"),
            Self::Kill { slot, .. } => (format!("kill {slot}"), "ready"),
        };
        cluster.tell(&order)?;
        cluster.wait_for(&format!("`{last}` after `{order}`"), |event| {
            if event["event"] == last {
                slot(event).map(|slot| waiting.remove(&slot));
                return waiting.is_empty();
            }
            false
        })
    }
}

/// Asks once for so many keys and returns who served each.
fn places(cluster: &Cluster<'_>, first: u32, keys: u32) -> Result<Places> {
    let shape = Shape { ask: Ask::Sweep { first }, ..Shape::closed(Mode::Close, BUSY) };
    let sample = Load::new(cluster.port(), shape)?.make(u64::from(keys))?;
    if sample.failed > 0 {
        let first = sample.first_failure.unwrap_or_default();
        return Err(Error::Load { port: cluster.port(), failed: sample.failed, first });
    }
    let mut places = vec![u32::MAX; keys as usize];
    for (key, slot) in sample.by_key {
        places[(key - first) as usize] = slot;
    }
    Ok(places)
}

impl Moves {
    fn between(step: Step, before: &Places, now: &Places, wrongly: usize, passed_by: usize) -> Self {
        let moved = before.iter().zip(now).filter(|(before, now)| before != now).count();
        let (expected, tolerance) = match step {
            // A key moves when one of the new slots wins, each of all slots with the same chance.
            Step::Resize { from, to } if from < to => {
                let (keys, share) = (before.len() as f64, f64::from(to - from) / f64::from(to));
                (keys * share, DEVIATIONS * (keys * share * (1.0 - share)).sqrt())
            }
            Step::Resize { to, .. } => (before.iter().filter(|before| **before >= to).count() as f64, 0.0),
            Step::Reload { .. } | Step::Kill { .. } => (0.0, 0.0),
        };
        Self { step, moved, wrongly, passed_by, expected, tolerance }
    }

    fn is_right(&self) -> bool {
        self.wrongly == 0 && (self.moved as f64 - self.expected).abs() <= self.tolerance
    }

    fn to_json(&self) -> Value {
        json!({
            "step": self.step.title(),
            "moved": self.moved,
            "wrongly": self.wrongly,
            "passed_by": self.passed_by,
            "expected": self.expected,
            "tolerance": self.tolerance,
        })
    }
}

fn to_markdown(keys: u32, all: &[Moves]) -> String {
    let mut table = Table::new(["step", "keys moved", "expected", "in a wrong place", "for a moment"]);
    for moves in all {
        let expected = match moves.tolerance {
            0.0 => format!("{:.0}", moves.expected),
            tolerance => format!("{:.0} ± {tolerance:.0}", moves.expected),
        };
        let [moved, wrongly, passed_by] =
            [moves.moved, moves.wrongly, moves.passed_by].map(|count| count.to_string());
        table.row(vec![moves.step.title(), moved, expected, wrongly, passed_by]);
    }
    table.to_markdown(&format!("Affinity of {keys} keys"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn moves(step: Step, before: &[u32], now: &[u32]) -> Moves {
        let wrongly = before.iter().zip(now).filter(|(before, now)| !step.allows(**before, **now)).count();
        Moves::between(step, &before.to_vec(), &now.to_vec(), wrongly, 0)
    }

    #[test]
    fn with_more_slots_keys_go_to_new_ones_only() {
        let step = Step::Resize { from: 2, to: 4 };
        assert!(moves(step, &[0, 0, 1, 1], &[0, 2, 3, 1]).is_right());
        let wrong = moves(step, &[0, 0, 1, 1], &[0, 1, 3, 1]);
        assert_eq!((wrong.moved, wrong.wrongly, wrong.is_right()), (2, 1, false));
    }

    #[test]
    fn with_fewer_slots_keys_of_gone_slots_move_and_no_others() {
        let step = Step::Resize { from: 4, to: 2 };
        assert!(moves(step, &[0, 1, 2, 3], &[0, 1, 0, 1]).is_right());
        assert!(!moves(step, &[0, 1, 2, 3], &[1, 1, 0, 1]).is_right());
        assert!(!moves(step, &[0, 1, 2, 3], &[0, 1, 2, 1]).is_right());
    }

    #[test]
    fn a_hash_that_gives_new_slots_nothing_is_found_out() {
        let before: Places = (0..10_000).map(|key| key % 2).collect();
        assert!(!moves(Step::Resize { from: 2, to: 8 }, &before, &before).is_right());
    }

    #[test]
    fn new_workers_in_the_same_slots_move_nothing() {
        for step in [Step::Reload { workers: 2 }, Step::Kill { workers: 2, slot: 1 }] {
            assert!(moves(step, &[0, 1], &[0, 1]).is_right());
            assert!(!moves(step, &[0, 1], &[0, 0]).is_right());
        }
    }

    #[test]
    fn every_size_is_reloaded_and_the_way_leads_back() {
        let steps = steps(&[2, 8, 4]);
        assert_eq!(steps.iter().filter(|step| matches!(step, Step::Reload { .. })).count(), 4);
        assert_eq!(steps.iter().filter(|step| matches!(step, Step::Kill { .. })).count(), 8);
        assert_eq!(steps.last().map(|step| step.workers()), Some(2));
    }
}
