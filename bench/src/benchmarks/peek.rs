//! What it costs the primary to look at the first bytes of a connection, or at its address.
//!
//! All systems get the same connections: each from an address of its own, with a cookie of its own. The first system hands
//! over in turn, the next one by a key that costs nothing to find, and the last one looks for its key: the table shows what
//! each costs beyond the one before it. How often the primary slept belongs to that: a wake-up costs more than a look.

use serde_json::Value;

use super::{RATE, both_arrivals};
use crate::error::Result;
use crate::load::{Shape, Sources};
use crate::options::Benchmark;
use crate::rounds::{self, Plan, Processes, Row};
use crate::session::{self, Session};
use crate::stats::Spread;
use crate::table::{Table, median, spread};

/// Runs the benchmark, prints its tables and returns all rounds.
pub(crate) fn run(session: &Session) -> Result<Vec<Value>> {
    let systems = session.all_systems(Benchmark::Peek)?;
    let mut results = Vec::new();
    for &workers in session.options.workers(Benchmark::Peek) {
        for (manner, shape) in both_arrivals(workers, session.options.rate(RATE)) {
            let plan = Plan {
                benchmark: Benchmark::Peek,
                systems: systems.clone(),
                title: format!("What a look costs, {workers} workers, {manner}"),
                unit: "connection",
                workers,
                shape: Shape { sources: Sources::Many, ..shape },
                processes: Processes::Kept,
            };
            let rows = rounds::collect(session, &plan)?;
            session::print(&to_markdown(&plan, &rows))?;
            results.push(rounds::to_json(&plan, &rows));
        }
    }
    Ok(results)
}

fn to_markdown(plan: &Plan, rows: &[Row]) -> String {
    let mut table = Table::new([
        "system",
        "connections/s",
        "primary µs",
        "more than the one before, µs",
        "sleeps of the primary",
        "p50 ms",
        "best p99 ms",
        "busiest worker",
        "failed",
    ]);
    for (place, row) in rows.iter().enumerate() {
        let before = place.checked_sub(1).map(|before| rows[before].column(|round| round.front_us));
        let more =
            before.and_then(|before| Spread::of_differences(&row.column(|round| round.front_us), &before));
        let best_p99 = row.spread(|round| round.p99_us / 1000.0).map(|spread| spread.min);
        table.row(vec![
            row.system.title.to_owned(),
            spread(row.spread(|round| round.per_second), 0),
            spread(row.spread(|round| round.front_us), 2),
            spread(more, 2),
            spread(row.spread(|round| round.front_sleeps), 2),
            median(row.spread(|round| round.p50_us / 1000.0), 2),
            best_p99.map_or_else(String::new, |p99| format!("{p99:.2}")),
            format!("{} %", median(row.spread(|round| round.busiest * 100.0), 0)),
            format!("{:.0}", row.column(|round| round.failed).iter().sum::<f64>()),
        ]);
    }
    table.to_markdown(&plan.title)
}
