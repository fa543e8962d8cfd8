//! Memory of the primary, fresh and after load; one system at a time, because systems share pages of Node's binary.

use std::time::Duration;

use serde_json::{Value, json};

use crate::error::Result;
use crate::load::{Load, Mode, Shape};
use crate::options::Benchmark;
use crate::process::Memory;
use crate::session::{self, Session};
use crate::stats::Spread;
use crate::system::{Script, System};
use crate::table::{Table, spread};

/// The memory of one start of one system.
#[derive(Clone, Copy, Debug)]
struct Round {
    /// Of the primary alone.
    alone: Memory,
    /// Of the primary with its helpers.
    fresh: Memory,
    loaded: Memory,
    worker_rss: u64,
}

/// The rounds of one system with one number of workers.
#[derive(Debug)]
struct Row {
    system: &'static System,
    workers: u32,
    rounds: Vec<Round>,
}

/// Connections at a time of the load between the two looks.
const CONNECTIONS: usize = 32;
/// The primary has settled when it used no CPU for this long.
const QUIET: Duration = Duration::from_millis(300);

/// Runs the benchmark, prints its table and returns all rounds.
pub(crate) fn run(session: &Session) -> Result<Value> {
    let mut rows: Vec<Row> = Vec::new();
    for system in session.systems(Benchmark::Memory)? {
        for &workers in session.options.workers(Benchmark::Memory) {
            rows.push(Row { system, workers, rounds: Vec::new() });
        }
    }
    let rounds = session.options.rounds(Benchmark::Memory);
    for round in 1..=rounds {
        session.progress(&format!("memory: round {round} of {rounds}"));
        for row in &mut rows {
            row.rounds.push(measure(session, row.system, row.workers)?);
        }
    }
    session::print(&to_markdown(&rows))?;
    Ok(rows.iter().map(Row::to_json).collect())
}

fn measure(session: &Session, system: &'static System, workers: u32) -> Result<Round> {
    let cluster = session.start(system, workers, Script::Hello)?;
    cluster.settle(QUIET)?;
    let (alone, fresh) = (cluster.primary_memory()?, cluster.front_memory()?);
    let worker_rss = cluster.worker_rss()?;
    let measure = session.options.measure(Benchmark::Memory);
    Load::new(cluster.port(), Shape::closed(Mode::Close, CONNECTIONS))?.drive(measure)?;
    cluster.settle(QUIET)?;
    Ok(Round { alone, fresh, loaded: cluster.front_memory()?, worker_rss })
}

impl Row {
    fn spread(&self, figure: impl Fn(&Round) -> u64) -> Option<Spread> {
        Spread::of(self.rounds.iter().map(|round| figure(round) as f64))
    }

    /// Returns the kB of primary per worker beyond the smallest number of workers of the same system.
    fn growth(&self, rows: &[Self], figure: impl Fn(&Round) -> u64) -> Option<f64> {
        let same = rows.iter().filter(|row| std::ptr::eq(row.system, self.system));
        let smallest = same.min_by_key(|row| row.workers)?;
        let more_workers = self.workers.checked_sub(smallest.workers).filter(|more| *more > 0)?;
        let more_memory = self.spread(&figure)?.median - smallest.spread(&figure)?.median;
        Some(more_memory / f64::from(more_workers))
    }

    fn to_json(&self) -> Value {
        let memory = |memory: Memory| json!({ "rss": memory.rss, "pss": memory.pss, "private": memory.private, "anonymous": memory.anonymous });
        let rounds: Vec<Value> = self
            .rounds
            .iter()
            .map(|round| {
                json!({
                    "alone_kb": memory(round.alone),
                    "fresh_kb": memory(round.fresh),
                    "loaded_kb": memory(round.loaded),
                    "worker_rss_kb": round.worker_rss,
                })
            })
            .collect();
        json!({ "system": self.system.name, "workers": self.workers, "rounds": rounds })
    }
}

fn to_markdown(rows: &[Row]) -> String {
    let mut table = Table::new([
        "primary of",
        "workers",
        "alone: RSS kB",
        "of it private kB",
        "of it no file's kB",
        "with its helpers: RSS kB",
        "PSS kB",
        "private kB",
        "RSS kB per further worker",
        "loaded: RSS kB",
        "PSS kB",
        "private kB",
        "one worker: RSS kB",
    ]);
    for row in rows {
        let growth = row.growth(rows, |round| round.fresh.rss);
        table.row(vec![
            row.system.title.to_owned(),
            row.workers.to_string(),
            spread(row.spread(|round| round.alone.rss), 0),
            spread(row.spread(|round| round.alone.private), 0),
            spread(row.spread(|round| round.alone.anonymous), 0),
            spread(row.spread(|round| round.fresh.rss), 0),
            spread(row.spread(|round| round.fresh.pss), 0),
            spread(row.spread(|round| round.fresh.private), 0),
            growth.map_or_else(|| "–".to_owned(), |growth| format!("{growth:.0}")),
            spread(row.spread(|round| round.loaded.rss), 0),
            spread(row.spread(|round| round.loaded.pss), 0),
            spread(row.spread(|round| round.loaded.private), 0),
            spread(row.spread(|round| round.worker_rss), 0),
        ]);
    }
    table.to_markdown("Memory of the primary")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::system::ALL;

    fn row(system: &'static System, workers: u32, rss: u64) -> Row {
        let memory = Memory { rss, ..Memory::default() };
        Row {
            system,
            workers,
            rounds: vec![Round { alone: memory, fresh: memory, loaded: memory, worker_rss: 0 }],
        }
    }

    #[test]
    fn growth_compares_with_the_fewest_workers_of_the_same_system() {
        let rows = [row(&ALL[0], 2, 44_000), row(&ALL[1], 2, 2_000), row(&ALL[1], 64, 4_480)];
        assert_eq!(rows[2].growth(&rows, |round| round.fresh.rss), Some(40.0));
        assert_eq!(rows[1].growth(&rows, |round| round.fresh.rss), None);
    }
}
