//! Time from the start of a primary until its last worker listens; one system at a time has the machine.

use serde_json::{Value, json};

use crate::error::Result;
use crate::options::Benchmark;
use crate::session::{self, Session};
use crate::stats::Spread;
use crate::system::{Script, System};
use crate::table::{Table, spread};

/// Runs the benchmark, prints its table and returns all rounds.
pub(crate) fn run(session: &Session) -> Result<Value> {
    let mut table = Table::new(["system", "workers", "ms to all listening", "× RR"]);
    let mut results = Vec::new();
    let systems = session.systems(Benchmark::Start)?;
    for &workers in session.options.workers(Benchmark::Start) {
        let times = measure(session, &systems, workers)?;
        let baseline = systems.iter().position(|&system| system.is_baseline());
        for (system, own) in systems.iter().zip(&times) {
            let ratio = baseline.and_then(|baseline| Spread::of_ratios(own, &times[baseline]));
            table.row(vec![
                system.title.to_owned(),
                workers.to_string(),
                spread(Spread::of(own.iter().copied()), 0),
                spread(ratio, 2),
            ]);
            results.push(json!({
                "system": system.name,
                "workers": workers,
                "ms": own,
                "ratio": ratio.map(Spread::to_json),
            }));
        }
    }
    session::print(&table.to_markdown("Start to all workers listening"))?;
    Ok(results.into())
}

/// Returns the milliseconds of each round, for each system.
fn measure(session: &Session, systems: &[&'static System], workers: u32) -> Result<Vec<Vec<f64>>> {
    let rounds = session.options.rounds(Benchmark::Start);
    session.progress(&format!("start, {workers} workers: {rounds} rounds of {} systems", systems.len()));
    // One start of each that is not counted brings the programs into the page cache.
    for system in systems {
        drop(session.start(system, workers, Script::Hello)?);
    }
    let mut times = vec![Vec::with_capacity(rounds); systems.len()];
    for round in 0..rounds {
        for turn in 0..systems.len() {
            let place = (round + turn) % systems.len();
            let cluster = session.start(systems[place], workers, Script::Hello)?;
            times[place].push(cluster.ready_after().as_secs_f64() * 1000.0);
        }
    }
    Ok(times)
}
