//! The benchmarks: each is a list of plans, or a loop of its own.

pub(crate) mod memory;
pub(crate) mod start;

use serde_json::Value;

use crate::error::Result;
use crate::load::{Arrival, Mode};
use crate::options::Benchmark;
use crate::rounds::{self, Plan, Processes};
use crate::session::{self, Session};

/// Open loops may fall behind by this many connections.
const OPEN_LOOP_CONNECTIONS: usize = 512;
/// Closed loops keep this many connections busy per worker.
const CONNECTIONS_PER_WORKER: u32 = 16;

/// Runs one benchmark: prints its tables and writes its file.
pub(crate) fn run(session: &Session, benchmark: Benchmark) -> Result<()> {
    let results = match benchmark {
        Benchmark::Accept => follow(session, &accept(session))?,
        Benchmark::KeepAlive => follow(session, &keep_alive(session))?,
        Benchmark::Memory => vec![memory::run(session)?],
        Benchmark::Start => vec![start::run(session)?],
    };
    session.write_json(benchmark, &results)
}

fn follow(session: &Session, plans: &[Plan]) -> Result<Vec<Value>> {
    let mut results = Vec::with_capacity(plans.len());
    for plan in plans {
        let (markdown, json) = rounds::run(session, plan)?;
        session::print(&markdown)?;
        results.push(json);
    }
    Ok(results)
}

/// New connections as fast as they are taken, then at a fixed rate, for each number of workers.
fn accept(session: &Session) -> Vec<Plan> {
    let rate = session.options.rate;
    let plan = |workers: u32, arrival: Arrival| {
        let (connections, manner) = match arrival {
            Arrival::Closed => {
                let connections = (workers * CONNECTIONS_PER_WORKER) as usize;
                (connections, format!("saturated, {connections} connections"))
            }
            Arrival::Open { per_second } => (OPEN_LOOP_CONNECTIONS, format!("{per_second} per second")),
        };
        Plan {
            title: format!("New connections, {workers} workers, {manner}"),
            unit: "connection",
            workers,
            connections,
            mode: Mode::Close,
            arrival,
            rounds: session.options.rounds(Benchmark::Accept),
            processes: Processes::Kept,
        }
    };
    let arrivals = [Arrival::Closed, Arrival::Open { per_second: rate }];
    let workers = session.options.workers(Benchmark::Accept);
    workers.iter().flat_map(|&workers| arrivals.map(|arrival| plan(workers, arrival))).collect()
}

fn keep_alive(session: &Session) -> Vec<Plan> {
    let plan = |&workers: &u32| {
        let connections = (workers * CONNECTIONS_PER_WORKER) as usize;
        Plan {
            title: format!("Keep-alive requests, {workers} workers, {connections} connections"),
            unit: "request",
            workers,
            connections,
            mode: Mode::KeepAlive,
            arrival: Arrival::Closed,
            rounds: session.options.rounds(Benchmark::KeepAlive),
            processes: Processes::FreshEachRound,
        }
    };
    session.options.workers(Benchmark::KeepAlive).iter().map(plan).collect()
}
