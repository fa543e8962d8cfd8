//! New connections while thousands of clients say nothing, or drip (slow-loris).
//!
//! A policy that looks at first bytes has to wait for them. The same system is loaded without such clients, with silent ones
//! and with ones that send a byte now and then and never a whole head, in turn; all of them come anew for each measurement,
//! which is over before anybody gives them up. Every connection is waited for: nothing slow is left out.

use std::io::Write;
use std::net::TcpStream;
use std::sync::mpsc::{RecvTimeoutError, sync_channel};
use std::time::Duration;

use serde_json::{Value, json};

use crate::cluster::Cluster;
use crate::error::{Error, Result};
use crate::load::{Ask, Load, Mode, Sample, Shape};
use crate::options::Benchmark;
use crate::rounds::start_all;
use crate::session::{self, Session};
use crate::stats::{Spread, percentile};
use crate::system::{Script, System};
use crate::table::{Table, spread};

/// New connections per second, where nothing is typed.
const RATE: u32 = 1000;
/// Those that drip do so by parts, one after the other, so that each sends a byte in every second.
const PARTS: usize = 50;
const EVERY: Duration = Duration::from_millis(20);
/// Under load before a run, so that all is as it will be.
const WARM_UP: Duration = Duration::from_millis(300);
/// Busy connections while Node's compiler does its work.
const BUSY: usize = 32;

/// What slow clients do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Crowd {
    None,
    Silent,
    Dripping,
}

const CROWDS: [Crowd; 3] = [Crowd::None, Crowd::Silent, Crowd::Dripping];

/// What was measured of one system with one crowd.
struct Row {
    system: &'static System,
    crowd: Crowd,
    samples: Vec<Sample>,
}

/// Runs the benchmark, prints its tables and returns all rounds.
pub(crate) fn run(session: &Session) -> Result<Vec<Value>> {
    let systems = session.all_systems(Benchmark::Slow)?;
    let rounds = session.options.rounds(Benchmark::Slow);
    let rate = session.options.rate(RATE);
    let mut results = Vec::new();
    for &workers in session.options.workers(Benchmark::Slow) {
        session.progress(&format!("slow, {workers} workers: {rounds} rounds of {} systems", systems.len()));
        let warm_up = Shape::closed(Mode::Close, BUSY);
        let clusters = start_all(session, Benchmark::Slow, &systems, workers, Script::Hello, warm_up)?;
        let row = |&system| CROWDS.map(|crowd| Row { system, crowd, samples: Vec::new() });
        let mut rows: Vec<Row> = systems.iter().flat_map(row).collect();
        for round in 0..rounds {
            for turn in 0..rows.len() {
                let place = (round + turn) % rows.len();
                let sample = measure(session, rows[place].crowd, rate, &clusters[place / CROWDS.len()])?;
                rows[place].samples.push(sample);
            }
            session.progress(&format!("  round {} of {rounds}", round + 1));
        }
        let title = format!(
            "{} slow clients, {workers} workers, {rate} other connections per second",
            session.options.slow_clients
        );
        session::print(&to_markdown(&title, &rows))?;
        results.push(to_json(&title, &rows));
    }
    Ok(results)
}

impl Crowd {
    fn title(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Silent => "silent",
            Self::Dripping => "dripping",
        }
    }
}

fn measure(session: &Session, crowd: Crowd, rate: u32, cluster: &Cluster<'_>) -> Result<Sample> {
    let mut load = Load::new(cluster.port(), Shape::open(rate, Ask::Hello))?;
    let duration = session.options.measure(Benchmark::Slow);
    let count = if crowd == Crowd::None { 0 } else { session.options.slow_clients };
    let clients: Vec<TcpStream> = (0..count)
        .map(|_| TcpStream::connect(("127.0.0.1", cluster.port())))
        .collect::<std::io::Result<_>>()
        .map_err(Error::system("connect slow clients"))?;
    let sample = while_they_drip(crowd, &clients, || {
        load.drive_to_end(WARM_UP)?;
        load.drive_to_end(duration)
    })?;
    session.tell_failures(cluster.system(), &sample);
    Ok(sample)
}

/// Runs `work` while the clients send what may be the begin of a request.
fn while_they_drip<T>(crowd: Crowd, clients: &[TcpStream], work: impl FnOnce() -> Result<T>) -> Result<T> {
    if crowd != Crowd::Dripping {
        return work();
    }
    std::thread::scope(|scope| {
        let (done, is_done) = sync_channel::<()>(1);
        scope.spawn(move || {
            for part in clients.chunks(clients.len().div_ceil(PARTS)).cycle() {
                for mut client in part {
                    // Who was given up is counted by nobody.
                    let _closed = client.write(b"G");
                }
                if is_done.recv_timeout(EVERY) != Err(RecvTimeoutError::Timeout) {
                    return;
                }
            }
        });
        let result = work();
        drop(done);
        result
    })
}

fn to_markdown(title: &str, rows: &[Row]) -> String {
    let mut table = Table::new([
        "system",
        "slow clients",
        "p50 ms",
        "× none",
        "p99 ms",
        "× none",
        "longest ms",
        "connections",
        "failed",
    ]);
    for (place, row) in rows.iter().enumerate() {
        let alone = &rows[place - place % CROWDS.len()];
        let ratio = |share: f64| Spread::of_ratios(&row.column(share), &alone.column(share));
        table.row(vec![
            row.system.title.to_owned(),
            row.crowd.title().to_owned(),
            spread(Spread::of(row.column(0.5)), 2),
            spread(ratio(0.5), 2),
            spread(Spread::of(row.column(0.99)), 2),
            spread(ratio(0.99), 2),
            spread(Spread::of(row.column(1.0)), 1),
            row.samples.iter().map(|sample| sample.latencies_us.len()).sum::<usize>().to_string(),
            row.samples.iter().map(|sample| sample.failed).sum::<u64>().to_string(),
        ]);
    }
    table.to_markdown(title)
}

impl Row {
    /// Returns, of every round, the latency in milliseconds that this share does not exceed.
    fn column(&self, share: f64) -> Vec<f64> {
        let at = |sample: &Sample| f64::from(percentile(&sample.latencies_us, share)) / 1000.0;
        self.samples.iter().map(at).collect()
    }
}

fn to_json(title: &str, rows: &[Row]) -> Value {
    let round = |sample: &Sample| {
        let at = |share: f64| percentile(&sample.latencies_us, share);
        json!({
            "p50_us": at(0.5),
            "p99_us": at(0.99),
            "longest_us": at(1.0),
            "answered": sample.completed,
            "failed": sample.failed,
        })
    };
    let rows: Vec<Value> = rows
        .iter()
        .map(|row| {
            let rounds: Vec<Value> = row.samples.iter().map(round).collect();
            json!({ "system": row.system.name, "slow_clients": row.crowd.title(), "rounds": rounds })
        })
        .collect();
    json!({ "title": title, "rows": rows })
}
