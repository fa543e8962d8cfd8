//! How evenly the workers are used: many short connections, a fixed rate, and many that are held at once.

use serde_json::{Value, json};

use super::RATE;
use crate::cluster::Cluster;
use crate::error::Result;
use crate::load::{Ask, Load, Mode, Sample, Shape};
use crate::options::Benchmark;
use crate::rounds::start_all;
use crate::session::{self, Session};
use crate::stats::{Evenness, Spread};
use crate::system::{Script, System};
use crate::table::{Table, spread};

/// Busy connections of the closed loop: few enough that workers have time to be idle, which is what makes some quicker
/// than others to accept.
const BUSY: usize = 32;
/// How many connections are opened at once and held.
const HELD: usize = 400;
/// The share of how many busiest workers is shown.
const TOP: usize = 3;

/// A way of loading.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Manner {
    /// Short connections, one after the other.
    Short { connections: u64 },
    /// Short connections by the clock.
    Clocked { per_second: u32 },
    /// All at once, and all stay open.
    Held,
}

/// What one run of one system gave.
#[derive(Clone, Debug)]
struct Round {
    evenness: Evenness,
    answered: u64,
    failed: u64,
}

/// Runs the benchmark, prints its tables and returns all rounds.
pub(crate) fn run(session: &Session) -> Result<Vec<Value>> {
    let systems = session.systems(Benchmark::Fairness)?;
    let rounds = session.options.rounds(Benchmark::Fairness);
    let manners = [
        Manner::Short { connections: session.options.connections.div_ceil(rounds as u64) },
        Manner::Clocked { per_second: session.options.rate(RATE) },
        Manner::Held,
    ];
    let mut results = Vec::new();
    for &workers in session.options.workers(Benchmark::Fairness) {
        session
            .progress(&format!("fairness, {workers} workers: {rounds} rounds of {} systems", systems.len()));
        let warm_up = Shape::closed(Mode::Close, BUSY);
        let clusters = start_all(session, Benchmark::Fairness, &systems, workers, Script::Hello, warm_up)?;
        for manner in manners {
            let mut rows = vec![Vec::with_capacity(rounds); clusters.len()];
            for round in 0..rounds {
                for turn in 0..clusters.len() {
                    let place = (round + turn) % clusters.len();
                    rows[place].push(measure(session, manner, workers, &clusters[place])?);
                }
            }
            let title = format!("Evenness, {workers} workers, {}", manner.title());
            session.progress(&format!("  {title}: done"));
            session::print(&to_markdown(&title, &systems, &rows))?;
            results.push(to_json(&title, &systems, &rows));
        }
    }
    Ok(results)
}

impl Manner {
    fn title(self) -> String {
        match self {
            Self::Short { .. } => format!("short connections, {BUSY} at a time"),
            Self::Clocked { per_second } => format!("{per_second} per second"),
            Self::Held => format!("{HELD} connections at once, held"),
        }
    }
}

fn measure(session: &Session, manner: Manner, workers: u32, cluster: &Cluster<'_>) -> Result<Round> {
    let sample = match manner {
        Manner::Short { connections } => {
            Load::new(cluster.port(), Shape::closed(Mode::Close, BUSY))?.make(connections)?
        }
        Manner::Clocked { per_second } => {
            let measure = session.options.measure(Benchmark::Fairness);
            Load::new(cluster.port(), Shape::open(per_second, Ask::Hello))?.drive_to_end(measure)?
        }
        Manner::Held => Load::new(cluster.port(), Shape::closed(Mode::Hold, HELD))?.make(HELD as u64)?,
    };
    session.tell_failures(cluster.system(), &sample);
    Ok(Round { evenness: evenness(&sample, workers), answered: sample.completed, failed: sample.failed })
}

/// Counts the workers that answered nothing, too.
fn evenness(sample: &Sample, workers: u32) -> Evenness {
    let idle = (workers as usize).saturating_sub(sample.answers.len());
    let counts = sample.answers.values().copied().chain(std::iter::repeat_n(0, idle));
    Evenness::of(counts).expect("invariant: a load without an answer is an error")
}

fn to_markdown(title: &str, systems: &[&System], rows: &[Vec<Round>]) -> String {
    let top = format!("busiest {TOP} %");
    let mut table =
        Table::new(["system", "Jain's index", "variation", "busiest %", &top, "connections", "failed"]);
    for (system, rounds) in systems.iter().zip(rows) {
        let figure =
            |figure: fn(&Evenness) -> f64| Spread::of(rounds.iter().map(|round| figure(&round.evenness)));
        table.row(vec![
            system.title.to_owned(),
            spread(figure(Evenness::jain), 3),
            spread(figure(Evenness::variation), 3),
            spread(figure(|evenness| evenness.top(1) * 100.0), 1),
            spread(figure(|evenness| evenness.top(TOP) * 100.0), 1),
            rounds.iter().map(|round| round.answered).sum::<u64>().to_string(),
            rounds.iter().map(|round| round.failed).sum::<u64>().to_string(),
        ]);
    }
    table.to_markdown(title)
}

fn to_json(title: &str, systems: &[&System], rows: &[Vec<Round>]) -> Value {
    let round = |round: &Round| {
        json!({
            "jain": round.evenness.jain(),
            "variation": round.evenness.variation(),
            "busiest": round.evenness.top(1),
            "busiest_three": round.evenness.top(TOP),
            "answered": round.answered,
            "failed": round.failed,
        })
    };
    let rows: Vec<Value> = systems
        .iter()
        .zip(rows)
        .map(|(system, rounds)| {
            json!({ "system": system.name, "rounds": rounds.iter().map(round).collect::<Vec<_>>() })
        })
        .collect();
    json!({ "title": title, "rows": rows })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn workers_without_an_answer_count() {
        let sample = Sample { answers: [(7, 10), (8, 10)].into(), ..Sample::default() };
        assert!((evenness(&sample, 4).jain() - 0.5).abs() < 1e-12);
        assert!((evenness(&sample, 2).jain() - 1.0).abs() < 1e-12);
    }
}
