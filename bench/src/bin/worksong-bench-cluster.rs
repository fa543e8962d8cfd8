//! A library program with hooks in its primary: it prints every event as a line of JSON, and does what it reads.
//!
//! `worksong-bench-cluster --workers N [--policy POLICY] [--answer-slot] [--stall]`; then, on standard input,
//! `resize N`, `reload` and `kill SLOT`.

use std::collections::BTreeMap;
use std::io::{BufRead, Write};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use worksong::{BoxError, Cluster, Event, Policy, Record};

/// How long the thread that supervises is blocked, and how long it is free then.
const STALL: Duration = Duration::from_secs(1);

/// What was typed.
#[derive(Debug)]
struct Arguments {
    workers: usize,
    policy: Policy,
    answer_slot: bool,
    stall: bool,
}

/// The process of each slot.
type Processes = Arc<Mutex<BTreeMap<u32, u32>>>;

fn main() -> Result<(), BoxError> {
    let Arguments { workers, policy, answer_slot, stall } = Arguments::read(std::env::args().skip(1))?;
    let processes = Processes::default();
    let known = Arc::clone(&processes);
    Cluster::builder()
        .workers(workers)
        .policy(policy)
        .on_start(move |cluster| {
            let cluster = cluster.clone();
            std::thread::spawn(move || obey(&cluster, &known));
            if stall {
                tokio::spawn(stall_again_and_again());
            }
        })
        .on_event(move |_cluster, record| report(record, &processes))
        .run(async move |worker| {
            let slot = worker.slot().filter(|_| answer_slot);
            worksong_bench::serve(worker, slot.unwrap_or(std::process::id())).await
        })?;
    Ok(())
}

impl Arguments {
    fn read(mut arguments: impl Iterator<Item = String>) -> Result<Self, BoxError> {
        let mut read = Self { workers: 2, policy: Policy::default(), answer_slot: false, stall: false };
        while let Some(argument) = arguments.next() {
            let mut value = || arguments.next().ok_or_else(|| format!("{argument} needs a value after it"));
            match argument.as_str() {
                "--workers" => read.workers = value()?.parse()?,
                "--policy" => read.policy = value()?.parse()?,
                "--answer-slot" => read.answer_slot = true,
                "--stall" => read.stall = true,
                _ => return Err(format!("there is no argument {argument:?}").into()),
            }
        }
        Ok(read)
    }
}

/// Blocks the thread that it runs on, which is the one of the control plane, for one second in every two, and tells for how
/// many milliseconds that thread did nothing else.
async fn stall_again_and_again() {
    loop {
        tokio::time::sleep(STALL).await;
        let begin = Instant::now();
        #[expect(clippy::disallowed_methods, reason = "to be blocked is what is measured")]
        std::thread::sleep(STALL);
        let (ms, thread) = (begin.elapsed().as_millis(), rustix::thread::gettid().as_raw_pid());
        let is_main = thread == rustix::process::getpid().as_raw_pid();
        drop(writeln!(std::io::stdout(), r#"{{"event":"stalled","ms":{ms},"is_main":{is_main}}}"#));
    }
}

/// Prints an event, and keeps in mind who fills which slot.
fn report(record: &Record, processes: &Processes) {
    if let Event::Ready { worker, .. } = &record.event {
        let mut processes = processes.lock().unwrap_or_else(PoisonError::into_inner);
        processes.insert(worker.slot.0, worker.pid);
    }
    if let Ok(line) = serde_json::to_string(record) {
        // Nobody reads any more when the benchmark has ended; then this program is about to.
        drop(writeln!(std::io::stdout(), "{line}"));
    }
}

/// Does what it reads, line by line, to the end of the input.
fn obey(cluster: &Cluster, processes: &Processes) {
    for line in std::io::stdin().lock().lines() {
        let Ok(line) = line else { return };
        if let Err(error) = obey_line(&line, cluster, processes) {
            drop(writeln!(std::io::stderr(), "could not do {line:?}: {error}"));
        }
    }
}

fn obey_line(line: &str, cluster: &Cluster, processes: &Processes) -> Result<(), BoxError> {
    match line.split_once(' ') {
        None if line == "reload" => cluster.reload()?,
        Some(("resize", workers)) => cluster.resize(workers.parse()?)?,
        Some(("kill", slot)) => {
            let pid = processes.lock().unwrap_or_else(PoisonError::into_inner).get(&slot.parse()?).copied();
            let pid = pid.and_then(|pid| Pid::from_raw(pid.cast_signed())).ok_or("nobody fills that slot")?;
            kill_process(pid, Signal::KILL)?;
        }
        _ => return Err("there is no such command".into()),
    }
    Ok(())
}
