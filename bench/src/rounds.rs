//! Interleaved rounds under load: every system is up, one at a time is loaded, in another order each round.

use std::time::Duration;

use serde_json::{Value, json};

use crate::cluster::Cluster;
use crate::error::Result;
use crate::load::{Arrival, Load, Sample, Shape};
use crate::options::Benchmark;
use crate::process;
use crate::session::Session;
use crate::stats::{Spread, percentile};
use crate::system::{Script, System};
use crate::table::{Table, median, spread};

/// One table: what is loaded, and how.
#[derive(Debug)]
pub(crate) struct Plan {
    /// The benchmark that it belongs to.
    pub(crate) benchmark: Benchmark,
    /// The systems that are compared.
    pub(crate) systems: Vec<&'static System>,
    /// The table's title.
    pub(crate) title: String,
    /// What one unit of work is called in the table: `connection`, `request`.
    pub(crate) unit: &'static str,
    /// How many workers each system has.
    pub(crate) workers: u32,
    /// What the load is like.
    pub(crate) shape: Shape,
    /// Whether every round starts the systems anew.
    pub(crate) processes: Processes,
}

/// How long the processes of a system live.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Processes {
    /// For all rounds.
    Kept,
    /// For one round: Node workers differ by up to 30 % between instances, by what their compiler happened to do.
    FreshEachRound,
}

/// What one run of one system measured. Times are microseconds of CPU per unit of work.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Round {
    pub(crate) per_second: f64,
    pub(crate) front_us: f64,
    /// How often the primary went to sleep per unit of work.
    pub(crate) front_sleeps: f64,
    workers_us: f64,
    client_us: f64,
    pub(crate) p50_us: f64,
    pub(crate) p99_us: f64,
    /// The latency that one of a thousand exceeds.
    pub(crate) p999_us: f64,
    /// The longest latency.
    pub(crate) longest_us: f64,
    /// The share of the worker that answered most.
    pub(crate) busiest: f64,
    pub(crate) failed: f64,
}

/// All rounds of one system.
#[derive(Debug)]
pub(crate) struct Row {
    pub(crate) system: &'static System,
    rounds: Vec<Round>,
}

/// Under load before anything is measured, so that Node's compiler has done its work.
const COMPILE: Duration = Duration::from_millis(1500);
/// Under load before each measurement, so that queues and caches are as they will be.
const WARM_UP: Duration = Duration::from_millis(300);
/// What an open loop may have open at a time is far more than a warm-up needs.
const MOST_CONNECTIONS_TO_WARM_UP: usize = 512;

/// Carries plans out on the same processes, and returns their tables as Markdown and as JSON.
///
/// Only their loads may differ.
pub(crate) fn run(session: &Session, plans: &[Plan]) -> Result<Vec<(String, Value)>> {
    let rows = collect_together(session, plans)?;
    Ok(plans.iter().zip(rows).map(|(plan, rows)| (to_markdown(plan, &rows), to_json(plan, &rows))).collect())
}

/// Carries a plan out and returns what each system did.
pub(crate) fn collect(session: &Session, plan: &Plan) -> Result<Vec<Row>> {
    Ok(collect_together(session, std::slice::from_ref(plan))?.into_iter().flatten().collect())
}

fn collect_together(session: &Session, plans: &[Plan]) -> Result<Vec<Vec<Row>>> {
    let Some(first) = plans.first() else { return Ok(Vec::new()) };
    let rounds = session.options.rounds(first.benchmark);
    for plan in plans {
        session.progress(&format!("{}: {rounds} rounds of {} systems", plan.title, plan.systems.len()));
    }
    let row = |&system: &&'static System| Row { system, rounds: Vec::new() };
    let mut tables: Vec<Vec<Row>> = plans.iter().map(|plan| plan.systems.iter().map(row).collect()).collect();
    let mut clusters = Vec::new();
    for round in 0..rounds {
        if clusters.is_empty() {
            let shape = Shape { arrival: Arrival::Closed, ..first.shape };
            clusters =
                start_all(session, first.benchmark, &first.systems, first.workers, Script::Hello, shape)?;
        }
        for (plan, rows) in plans.iter().zip(&mut tables) {
            for turn in 0..clusters.len() {
                let place = (round + turn) % clusters.len();
                rows[place].rounds.push(measure(session, plan, &clusters[place])?);
            }
        }
        if first.processes == Processes::FreshEachRound {
            clusters.clear();
        }
        session.progress(&format!("  round {} of {rounds}", round + 1));
    }
    Ok(tables)
}

/// Starts all systems and loads each for a while, so that Node's compiler has done its work.
pub(crate) fn start_all<'s>(
    session: &'s Session,
    benchmark: Benchmark,
    systems: &[&'static System],
    workers: u32,
    script: Script,
    shape: Shape,
) -> Result<Vec<Cluster<'s>>> {
    // Who asks for less precision than that wants to see whether it works.
    let warm_up = COMPILE.min(session.options.measure(benchmark));
    let mut clusters = Vec::with_capacity(systems.len());
    for system in systems {
        let cluster = session.start(system, workers, script)?;
        session.progress(&format!("  {} listens on port {}", system.name, cluster.port()));
        let connections = shape.connections.min(MOST_CONNECTIONS_TO_WARM_UP);
        Load::new(cluster.port(), Shape { connections, ..shape })?.drive(warm_up)?;
        clusters.push(cluster);
    }
    Ok(clusters)
}

fn measure(session: &Session, plan: &Plan, cluster: &Cluster<'_>) -> Result<Round> {
    let own_time = || {
        let own = std::process::id();
        process::cpu_nanoseconds(own).map_err(crate::error::Error::system("read the own CPU time"))
    };
    let mut load = Load::new(cluster.port(), plan.shape)?;
    load.drive(WARM_UP)?;
    let sleeps_before = cluster.front_sleeps()?;
    let (before, own_before) = (cluster.cpu_time()?, own_time()?);
    let sample = load.drive(session.options.measure(plan.benchmark))?;
    let (after, own_after) = (cluster.cpu_time()?, own_time()?);
    let sleeps = cluster.front_sleeps()? - sleeps_before;
    session.tell_failures(cluster.system(), &sample);
    let per_unit = |before: u64, after: u64| (after - before) as f64 / 1000.0 / sample.completed as f64;
    Ok(Round {
        per_second: sample.completed as f64 / sample.elapsed.as_secs_f64(),
        front_us: per_unit(before.front, after.front),
        front_sleeps: sleeps as f64 / sample.completed as f64,
        workers_us: per_unit(before.workers, after.workers),
        client_us: per_unit(own_before, own_after),
        p50_us: f64::from(percentile(&sample.latencies_us, 0.5)),
        p99_us: f64::from(percentile(&sample.latencies_us, 0.99)),
        p999_us: f64::from(percentile(&sample.latencies_us, 0.999)),
        longest_us: f64::from(percentile(&sample.latencies_us, 1.0)),
        busiest: busiest_share(&sample),
        failed: sample.failed as f64,
    })
}

fn busiest_share(sample: &Sample) -> f64 {
    sample.answers.values().max().copied().unwrap_or(0) as f64 / sample.completed as f64
}

impl Row {
    /// Returns a figure of every round.
    pub(crate) fn column(&self, figure: impl Fn(&Round) -> f64) -> Vec<f64> {
        self.rounds.iter().map(figure).collect()
    }

    /// Returns the spread of a figure over the rounds.
    pub(crate) fn spread(&self, figure: impl Fn(&Round) -> f64) -> Option<Spread> {
        Spread::of(self.column(figure))
    }

    /// Compares a figure with the same rounds of the baseline.
    fn ratio(&self, rows: &[Self], figure: impl Fn(&Round) -> f64) -> Option<Spread> {
        let baseline = rows.iter().find(|row| row.system.is_baseline())?;
        Spread::of_ratios(&self.column(&figure), &baseline.column(&figure))
    }
}

impl Round {
    fn total_us(&self) -> f64 {
        self.front_us + self.workers_us
    }
}

fn to_markdown(plan: &Plan, rows: &[Row]) -> String {
    let rate = format!("{}s/s", plan.unit);
    let mut table = Table::new([
        "system",
        &rate,
        "× RR",
        "primary µs",
        "× RR",
        "workers µs",
        "primary + workers µs",
        "× RR",
        "p50 ms",
        "best p99 ms",
        "busiest worker",
        "failed",
        "client µs",
    ]);
    for row in rows {
        let best_p99 = row.spread(|round| round.p99_us / 1000.0).map(|spread| spread.min);
        table.row(vec![
            row.system.title.to_owned(),
            spread(row.spread(|round| round.per_second), 0),
            spread(row.ratio(rows, |round| round.per_second), 2),
            spread(row.spread(|round| round.front_us), 1),
            spread(row.ratio(rows, |round| round.front_us), 2),
            spread(row.spread(|round| round.workers_us), 1),
            median(row.spread(Round::total_us), 1),
            spread(row.ratio(rows, Round::total_us), 2),
            median(row.spread(|round| round.p50_us / 1000.0), 2),
            best_p99.map_or_else(String::new, |p99| format!("{p99:.2}")),
            format!("{} %", median(row.spread(|round| round.busiest * 100.0), 0)),
            format!("{:.0}", row.column(|round| round.failed).iter().sum::<f64>()),
            median(row.spread(|round| round.client_us), 1),
        ]);
    }
    table.to_markdown(&plan.title)
}

/// Returns everything that was measured.
pub(crate) fn to_json(plan: &Plan, rows: &[Row]) -> Value {
    let ratio = |spread: Option<Spread>| spread.map(Spread::to_json);
    let rows: Vec<Value> = rows
        .iter()
        .map(|row| {
            let rounds: Vec<Value> = row.rounds.iter().copied().map(Round::to_json).collect();
            json!({
                "system": row.system.name,
                "rate_ratio": ratio(row.ratio(rows, |round| round.per_second)),
                "front_ratio": ratio(row.ratio(rows, |round| round.front_us)),
                "total_ratio": ratio(row.ratio(rows, Round::total_us)),
                "rounds": rounds,
            })
        })
        .collect();
    json!({ "title": plan.title, "workers": plan.workers, "connections": plan.shape.connections, "rows": rows })
}

impl Round {
    fn to_json(self) -> Value {
        json!({
            "per_second": self.per_second,
            "front_us": self.front_us,
            "front_sleeps": self.front_sleeps,
            "workers_us": self.workers_us,
            "client_us": self.client_us,
            "p50_us": self.p50_us,
            "p99_us": self.p99_us,
            "p999_us": self.p999_us,
            "longest_us": self.longest_us,
            "busiest": self.busiest,
            "failed": self.failed,
        })
    }
}
