//! New connections while the primary's control plane is blocked: the data plane has a thread of its own.
//!
//! Both systems are the same library program; the thread of one that runs supervision, events and the program's hooks
//! sleeps for a second in every two.

use serde_json::Value;

use super::RATE;
use crate::error::Result;
use crate::load::{Ask, Shape};
use crate::options::Benchmark;
use crate::rounds::{self, Plan, Processes, Row};
use crate::session::{self, Session};
use crate::stats::Spread;
use crate::table::{Table, median, spread};

/// Runs the benchmark, prints its table and returns all rounds.
pub(crate) fn run(session: &Session) -> Result<Value> {
    let rate = session.options.rate(RATE);
    let plan = Plan {
        benchmark: Benchmark::Stall,
        systems: session.all_systems(Benchmark::Stall)?,
        title: format!("New connections while the control plane is blocked, {rate} per second"),
        unit: "connection",
        workers: session.options.workers(Benchmark::Stall)[0],
        shape: Shape::open(rate, Ask::Hello),
        processes: Processes::Kept,
    };
    let rows = rounds::collect(session, &plan)?;
    session::print(&to_markdown(&plan, &rows))?;
    Ok(rounds::to_json(&plan, &rows))
}

fn to_markdown(plan: &Plan, rows: &[Row]) -> String {
    let mut table = Table::new([
        "system",
        "connections/s",
        "primary µs",
        "p50 ms",
        "p99 ms",
        "× free",
        "p99.9 ms",
        "longest ms",
        "failed",
    ]);
    for row in rows {
        let free = rows[0].column(|round| round.p99_us);
        let ratio = Spread::of_ratios(&row.column(|round| round.p99_us), &free);
        table.row(vec![
            row.system.title.to_owned(),
            median(row.spread(|round| round.per_second), 0),
            spread(row.spread(|round| round.front_us), 1),
            spread(row.spread(|round| round.p50_us / 1000.0), 2),
            spread(row.spread(|round| round.p99_us / 1000.0), 2),
            spread(ratio, 2),
            spread(row.spread(|round| round.p999_us / 1000.0), 2),
            spread(row.spread(|round| round.longest_us / 1000.0), 1),
            format!("{:.0}", row.column(|round| round.failed).iter().sum::<f64>()),
        ]);
    }
    table.to_markdown(&plan.title)
}
