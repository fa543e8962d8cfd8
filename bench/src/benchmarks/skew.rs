//! How long new connections wait while one worker is blocked, or while some requests are slow.
//!
//! Latency counts from the time at which a connection was due, and every connection is waited for: nothing slow is left
//! out.

use std::sync::mpsc::{RecvTimeoutError, sync_channel};
use std::time::Duration;

use rustix::process::Signal;
use serde_json::{Value, json};

use crate::cluster::Cluster;
use crate::error::Result;
use crate::load::{Ask, Load, Mode, Sample, Shape};
use crate::options::Benchmark;
use crate::rounds::start_all;
use crate::session::{self, Session};
use crate::stats::{Spread, percentile};
use crate::system::{Script, System};
use crate::table::{Table, spread};

/// New connections per second, where nothing is typed.
const RATE: u32 = 400;
/// A connection that waits longer than this has stalled, in microseconds.
const STALLED_US: u32 = 100_000;
/// How often a worker is blocked for a short time.
const EVERY: Duration = Duration::from_secs(1);
/// Under load before a run, so that all is as it will be.
const WARM_UP: Duration = Duration::from_millis(300);
/// Busy connections while Node's compiler does its work.
const BUSY: usize = 32;

/// What makes the load uneven.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Trouble {
    /// One worker is blocked for 200 ms in every second.
    Often,
    /// One worker is blocked for 2 s.
    Once,
    /// Some requests compute for 500 ms, the others for 1 ms.
    Computing,
    /// Some requests wait for 500 ms, the others for 1 ms, without blocking their worker.
    Waiting,
}

const TROUBLES: [Trouble; 4] = [Trouble::Often, Trouble::Once, Trouble::Computing, Trouble::Waiting];

/// Runs the benchmark, prints its tables and returns all rounds.
pub(crate) fn run(session: &Session) -> Result<Vec<Value>> {
    let systems = session.all_systems(Benchmark::Skew)?;
    let rounds = session.options.rounds(Benchmark::Skew);
    let rate = session.options.rate(RATE);
    let mut results = Vec::new();
    for &workers in session.options.workers(Benchmark::Skew) {
        session.progress(&format!("skew, {workers} workers: {rounds} rounds of {} systems", systems.len()));
        let warm_up = Shape::closed(Mode::Close, BUSY);
        let clusters = start_all(session, Benchmark::Skew, &systems, workers, Script::Busy, warm_up)?;
        for trouble in TROUBLES {
            let mut rows: Vec<Vec<Sample>> = systems.iter().map(|_| Vec::new()).collect();
            for round in 0..rounds {
                for turn in 0..clusters.len() {
                    let place = (round + turn) % clusters.len();
                    rows[place].push(measure(session, trouble, rate, &clusters[place])?);
                }
            }
            let title = format!("{}, {workers} workers, {rate} connections per second", trouble.title());
            session.progress(&format!("  {title}: done"));
            session::print(&to_markdown(&title, &systems, &rows))?;
            results.push(to_json(&title, &systems, &rows));
        }
    }
    Ok(results)
}

impl Trouble {
    fn title(self) -> &'static str {
        match self {
            Self::Often => "One worker blocked for 200 ms in every second",
            Self::Once => "One worker blocked for 2 s",
            Self::Computing => "One request in 400 computes for 500 ms, the others for 1 ms",
            Self::Waiting => "One request in 20 takes 500 ms, the others 1 ms, without blocking",
        }
    }

    fn ask(self) -> Ask {
        match self {
            Self::Often | Self::Once => Ask::Hello,
            Self::Computing => Ask::Mixed { fast: "/busy/1", slow: "/busy/500", one_in: 400 },
            Self::Waiting => Ask::Mixed { fast: "/wait/1", slow: "/wait/500", one_in: 20 },
        }
    }
}

fn measure(session: &Session, trouble: Trouble, rate: u32, cluster: &Cluster<'_>) -> Result<Sample> {
    let mut load = Load::new(cluster.port(), Shape::open(rate, trouble.ask()))?;
    let duration = session.options.measure(Benchmark::Skew);
    load.drive_to_end(WARM_UP)?;
    let sample = match trouble {
        Trouble::Often => while_blocked(cluster, Signal::USR2, Some(EVERY), || load.drive_to_end(duration)),
        Trouble::Once => while_blocked(cluster, Signal::HUP, None, || load.drive_to_end(duration)),
        Trouble::Computing | Trouble::Waiting => load.drive_to_end(duration),
    }?;
    session.tell_failures(cluster.system(), &sample);
    Ok(sample)
}

/// Runs `work` while a worker is told, at once and then again and again, to block its thread.
fn while_blocked<T>(
    cluster: &Cluster<'_>,
    signal: Signal,
    every: Option<Duration>,
    work: impl FnOnce() -> Result<T>,
) -> Result<T> {
    let worker = cluster.first_worker()?;
    worker.signal(signal);
    let Some(every) = every else { return work() };
    std::thread::scope(|scope| {
        let (done, is_done) = sync_channel::<()>(1);
        scope.spawn(move || {
            while is_done.recv_timeout(every) == Err(RecvTimeoutError::Timeout) {
                worker.signal(signal);
            }
        });
        let result = work();
        drop(done);
        result
    })
}

/// Returns the part, 0 to 1, of the measured connections that stalled.
fn stalled(sample: &Sample) -> f64 {
    let first = sample.latencies_us.partition_point(|latency| *latency <= STALLED_US);
    (sample.latencies_us.len() - first) as f64 / sample.latencies_us.len() as f64
}

fn to_markdown(title: &str, systems: &[&System], rows: &[Vec<Sample>]) -> String {
    let mut table = Table::new([
        "system",
        "p50 ms",
        "p99 ms",
        "p99.9 ms of all rounds",
        "over 100 ms %",
        "longest ms",
        "connections",
        "failed",
    ]);
    for (system, samples) in systems.iter().zip(rows) {
        let of_rounds = |figure: &dyn Fn(&Sample) -> f64| Spread::of(samples.iter().map(figure));
        let at =
            |share: f64| move |sample: &Sample| f64::from(percentile(&sample.latencies_us, share)) / 1000.0;
        let mut all: Vec<u32> =
            samples.iter().flat_map(|sample| sample.latencies_us.iter().copied()).collect();
        all.sort_unstable();
        table.row(vec![
            system.title.to_owned(),
            spread(of_rounds(&at(0.5)), 1),
            spread(of_rounds(&at(0.99)), 1),
            format!("{:.1}", f64::from(percentile(&all, 0.999)) / 1000.0),
            spread(of_rounds(&|sample| stalled(sample) * 100.0), 2),
            spread(of_rounds(&at(1.0)), 0),
            all.len().to_string(),
            samples.iter().map(|sample| sample.failed).sum::<u64>().to_string(),
        ]);
    }
    table.to_markdown(title)
}

fn to_json(title: &str, systems: &[&System], rows: &[Vec<Sample>]) -> Value {
    let round = |sample: &Sample| {
        let at = |share: f64| percentile(&sample.latencies_us, share);
        json!({
            "p50_us": at(0.5),
            "p99_us": at(0.99),
            "p999_us": at(0.999),
            "longest_us": at(1.0),
            "stalled": stalled(sample),
            "answered": sample.completed,
            "failed": sample.failed,
        })
    };
    let rows: Vec<Value> = systems
        .iter()
        .zip(rows)
        .map(|(system, samples)| {
            json!({ "system": system.name, "rounds": samples.iter().map(round).collect::<Vec<_>>() })
        })
        .collect();
    json!({ "title": title, "rows": rows })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_waits_longer_has_stalled() {
        let latencies_us = vec![1, 100_000, 100_001, 2_000_000];
        assert!((stalled(&Sample { latencies_us, ..Sample::default() }) - 0.5).abs() < 1e-12);
    }
}
