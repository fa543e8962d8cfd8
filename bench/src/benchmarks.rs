//! The benchmarks: each is a list of plans, or a loop of its own.

pub(crate) mod affinity;
pub(crate) mod fairness;
pub(crate) mod memory;
pub(crate) mod peek;
pub(crate) mod skew;
pub(crate) mod slow;
pub(crate) mod stall;
pub(crate) mod start;
mod upload;

use serde_json::Value;

use crate::error::Result;
use crate::load::{Ask, Mode, Opening, Shape, Sources};
use crate::options::Benchmark;
use crate::rounds::{self, Plan, Processes};
use crate::session::{self, Session};

/// The fixed rate of new connections per second, where none is typed.
const RATE: u32 = 2000;
/// Closed loops keep this many connections busy per worker.
const CONNECTIONS_PER_WORKER: u32 = 16;
/// In how many ways new connections arrive.
const ARRIVALS: usize = 2;
/// Open connections per worker: many, and so few that it matters who got one more than the other; and these again,
/// where nobody gets more.
const OPEN_CONNECTIONS: [(u32, Opening); 3] =
    [(CONNECTIONS_PER_WORKER, Opening::AtOnce), (4, Opening::AtOnce), (4, Opening::InTurn)];

/// Runs one benchmark: prints its tables and writes its file.
pub(crate) fn run(session: &Session, benchmark: Benchmark) -> Result<()> {
    let results = match benchmark {
        // Starting all systems takes as long as measuring them.
        Benchmark::Accept => follow(session, accept(session)?.chunks(ARRIVALS))?,
        Benchmark::KeepAlive => follow(session, keep_alive(session)?.chunks(OPEN_CONNECTIONS.len()))?,
        Benchmark::Memory => vec![memory::run(session)?],
        Benchmark::Start => vec![start::run(session)?],
        Benchmark::Fairness => fairness::run(session)?,
        Benchmark::Skew => skew::run(session)?,
        Benchmark::Peek => peek::run(session)?,
        Benchmark::Affinity => affinity::run(session)?,
        Benchmark::Stall => vec![stall::run(session)?],
        Benchmark::Slow => slow::run(session)?,
    };
    session.write_json(benchmark, &results)
}

/// Carries plans out; those of a group share their processes.
fn follow<'p>(session: &Session, groups: impl Iterator<Item = &'p [Plan]>) -> Result<Vec<Value>> {
    let mut results = Vec::new();
    for plans in groups {
        for (markdown, json) in rounds::run(session, plans)? {
            session::print(&markdown)?;
            results.push(json);
        }
    }
    Ok(results)
}

/// New connections as fast as they are taken, then at a fixed rate, for each number of workers.
fn accept(session: &Session) -> Result<Vec<Plan>> {
    let systems = session.systems(Benchmark::Accept)?;
    let rate = session.options.rate(RATE);
    // One user would be one worker's.
    let needs_users = systems.iter().any(|system| system.goes_by_address());
    let sources = if needs_users { Sources::Many } else { Sources::One };
    let plan = |workers: u32, manner: String, shape: Shape| Plan {
        benchmark: Benchmark::Accept,
        systems: systems.clone(),
        title: format!("New connections, {workers} workers, {manner}"),
        unit: "connection",
        workers,
        shape: Shape { sources, ..shape },
        processes: Processes::Kept,
    };
    let workers = session.options.workers(Benchmark::Accept).iter();
    Ok(workers
        .flat_map(|&workers| both_arrivals(workers, rate).map(|(manner, shape)| plan(workers, manner, shape)))
        .collect())
}

/// Returns the two ways in which new connections are measured, with their names.
fn both_arrivals(workers: u32, rate: u32) -> [(String, Shape); ARRIVALS] {
    let connections = (workers * CONNECTIONS_PER_WORKER) as usize;
    [
        (format!("saturated, {connections} connections"), Shape::closed(Mode::Close, connections)),
        (format!("{rate} per second"), Shape::open(rate, Ask::Hello)),
    ]
}

fn keep_alive(session: &Session) -> Result<Vec<Plan>> {
    let systems = session.systems(Benchmark::KeepAlive)?;
    let plan = |workers: u32, (per_worker, opening): (u32, Opening)| {
        let connections = (workers * per_worker) as usize;
        let manner = match opening {
            Opening::AtOnce => "opened at once",
            Opening::InTurn => "opened one after the other",
        };
        Plan {
            benchmark: Benchmark::KeepAlive,
            systems: systems.clone(),
            title: format!("Keep-alive requests, {workers} workers, {connections} connections {manner}"),
            unit: "request",
            workers,
            shape: Shape { opening, ..Shape::closed(Mode::KeepAlive, connections) },
            processes: Processes::FreshEachRound,
        }
    };
    let workers = session.options.workers(Benchmark::KeepAlive).iter();
    Ok(workers.flat_map(|&workers| OPEN_CONNECTIONS.map(|open| plan(workers, open))).collect())
}
