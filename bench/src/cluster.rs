//! One running system: started, watched until all its workers listen, measured, and ended by pid.

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt;
use std::process::Child;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Signal, pidfd_send_signal};
use serde_json::Value;

use crate::error::{Error, Result};
use crate::guard::{self, Guard};
use crate::process;
use crate::system::{EventStream, Programs, System};

/// How long a system may take until all its workers listen.
const READY_DEADLINE: Duration = Duration::from_mins(1);
/// How long a system may take to end after SIGTERM.
const END_DEADLINE: Duration = Duration::from_secs(10);
/// How many lines that are no events are kept to explain a failure.
const EVIDENCE_LINES: usize = 20;

/// A system whose workers all listen; dropping it ends every process of it.
#[derive(Debug)]
pub(crate) struct Cluster<'g> {
    system: &'static System,
    guard: &'g Guard,
    primary: Child,
    /// The primary, and helpers that it has besides the workers.
    front: Vec<u32>,
    workers: Vec<Worker>,
    port: u16,
    ready_after: Duration,
}

#[derive(Debug)]
struct Worker {
    pid: u32,
    descriptor: OwnedFd,
}

/// The CPU time that a system has used, in nanoseconds.
#[derive(Clone, Copy, Debug)]
pub(crate) struct CpuTime {
    /// Of the primary and its helpers.
    pub(crate) front: u64,
    /// Of all workers.
    pub(crate) workers: u64,
}

/// What the reader of an event stream found.
#[derive(Debug, PartialEq, Eq)]
enum Line {
    /// A worker listens, seen at this time.
    Listening { pid: u32, port: u16, at: Instant },
    /// Something that is no event.
    Other(String),
}

impl<'g> Cluster<'g> {
    /// Starts a system and waits until all its workers listen.
    pub(crate) fn start(
        system: &'static System,
        programs: &Programs,
        workers: u32,
        guard: &'g Guard,
    ) -> Result<Self> {
        let mut command = system.command(programs, workers);
        // In a group of its own a Ctrl-C reaches the benchmark alone, and the guard ends the rest in order.
        command.process_group(0);
        let started = Instant::now();
        let mut primary = command.spawn().map_err(Error::system(format!(
            "start {} for {}",
            command.get_program().display(),
            system.name
        )))?;
        let events: Option<Box<dyn Read + Send>> = match system.event_stream() {
            EventStream::Stdout => primary.stdout.take().map(|stream| Box::new(stream) as _),
            EventStream::Stderr => primary.stderr.take().map(|stream| Box::new(stream) as _),
        };
        let front = vec![primary.id()];
        // From here on a failure drops the half-built cluster, which ends the primary.
        let mut cluster =
            Self { system, guard, primary, front, workers: Vec::new(), port: 0, ready_after: Duration::ZERO };
        guard.watch(cluster.primary.id())?;
        let (sender, lines) = sync_channel(1024);
        if let Some(events) = events {
            std::thread::spawn(move || follow(BufReader::new(events), &sender));
        }
        cluster.wait_until_ready(&lines, started, workers)?;
        cluster.find_helpers()?;
        Ok(cluster)
    }

    fn wait_until_ready(&mut self, lines: &Receiver<Line>, started: Instant, workers: u32) -> Result<()> {
        let mut evidence = Vec::new();
        while self.workers.len() < workers as usize {
            match lines.recv_timeout(READY_DEADLINE.saturating_sub(started.elapsed())) {
                Ok(Line::Listening { pid, port, at }) => {
                    self.ready_after = at - started;
                    self.port = port;
                    self.add_worker(pid)?;
                }
                Ok(Line::Other(line)) => {
                    if evidence.len() == EVIDENCE_LINES {
                        evidence.remove(0);
                    }
                    evidence.push(line);
                }
                Err(reason) => {
                    return Err(Error::NotReady {
                        system: self.system.name,
                        workers,
                        listening: self.workers.len(),
                        after: started.elapsed(),
                        ended: reason == RecvTimeoutError::Disconnected,
                        evidence,
                    });
                }
            }
        }
        Ok(())
    }

    fn add_worker(&mut self, pid: u32) -> Result<()> {
        if self.workers.iter().any(|worker| worker.pid == pid) {
            return Ok(());
        }
        let descriptor = guard::open(pid).ok_or(Error::Gone { system: self.system.name, pid })?;
        self.workers.push(Worker { pid, descriptor });
        self.guard.watch(pid)
    }

    /// Counts what the primary runs besides its workers as part of the primary: nothing may hide in a helper.
    fn find_helpers(&mut self) -> Result<()> {
        let workers: BTreeSet<u32> = self.workers.iter().map(|worker| worker.pid).collect();
        let children = process::children(self.primary.id())
            .map_err(Error::system(format!("list the children of process {}", self.primary.id())))?;
        for helper in children.into_iter().filter(|pid| !workers.contains(pid)) {
            self.guard.watch(helper)?;
            self.front.push(helper);
        }
        Ok(())
    }

    /// Returns the port that all workers share.
    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// Returns the system that runs here.
    pub(crate) fn system(&self) -> &'static System {
        self.system
    }

    /// Returns the time from the start of the primary until its last worker listened.
    pub(crate) fn ready_after(&self) -> Duration {
        self.ready_after
    }

    /// Returns the CPU time used so far.
    pub(crate) fn cpu_time(&self) -> Result<CpuTime> {
        let sum = |pids: &mut dyn Iterator<Item = u32>| {
            pids.map(|pid| self.read(pid, process::cpu_nanoseconds)).sum::<Result<u64>>()
        };
        Ok(CpuTime {
            front: sum(&mut self.front.iter().copied())?,
            workers: sum(&mut self.workers.iter().map(|worker| worker.pid))?,
        })
    }

    /// Returns the memory of the primary with its helpers.
    pub(crate) fn front_memory(&self) -> Result<process::Memory> {
        let mut total = process::Memory::default();
        for &pid in &self.front {
            let memory = self.read(pid, process::memory)?;
            total.rss += memory.rss;
            total.pss += memory.pss;
            total.private += memory.private;
        }
        Ok(total)
    }

    /// Returns the resident memory of a worker, in kB: the median of all.
    pub(crate) fn worker_rss(&self) -> Result<u64> {
        let mut all = Vec::with_capacity(self.workers.len());
        for worker in &self.workers {
            all.push(self.read(worker.pid, process::memory)?.rss);
        }
        all.sort_unstable();
        Ok(all.get(all.len() / 2).copied().unwrap_or(0))
    }

    /// Waits until the primary has used no more than a millisecond of CPU for `quiet`, at most ten times as long.
    pub(crate) fn settle(&self, quiet: Duration) -> Result<()> {
        let mut before = self.cpu_time()?.front;
        for _ in 0..10 {
            if let Some(primary) = guard::open(self.primary.id())
                && ended_within(&primary, quiet)
            {
                return Err(Error::Gone { system: self.system.name, pid: self.primary.id() });
            }
            let after = self.cpu_time()?.front;
            if after - before < 1_000_000 {
                break;
            }
            before = after;
        }
        Ok(())
    }

    fn read<T>(&self, pid: u32, figure: impl FnOnce(u32) -> std::io::Result<T>) -> Result<T> {
        figure(pid).map_err(|error| {
            if process::is_gone(&error) {
                Error::Gone { system: self.system.name, pid }
            } else {
                Error::system(format!("read the figures of process {pid}"))(error)
            }
        })
    }
}

impl Drop for Cluster<'_> {
    fn drop(&mut self) {
        if let Some(primary) = guard::open(self.primary.id()) {
            end(&primary, self.primary.id(), self.system.name);
        }
        drop(self.primary.wait());
        for worker in &self.workers {
            // A worker ends when its channel does; one that does not is a fault worth seeing.
            if !ended_within(&worker.descriptor, END_DEADLINE) {
                end(&worker.descriptor, worker.pid, self.system.name);
            }
        }
        // Helpers stay on the guard's list: they are the primary's to end, and this does not wait for them.
        self.guard.forget(self.primary.id());
        for worker in &self.workers {
            self.guard.forget(worker.pid);
        }
    }
}

/// Ends a process: SIGTERM, a deadline, SIGKILL.
fn end(descriptor: &OwnedFd, pid: u32, system: &str) {
    // Both signals may find that the process has just ended.
    pidfd_send_signal(descriptor, Signal::TERM).ok();
    if !ended_within(descriptor, END_DEADLINE) {
        let seconds = END_DEADLINE.as_secs();
        drop(writeln!(
            std::io::stderr(),
            "{system}: process {pid} ignored SIGTERM for {seconds} s and was killed"
        ));
        pidfd_send_signal(descriptor, Signal::KILL).ok();
    }
}

/// Waits for the end of a process; a pid descriptor is readable from then on.
fn ended_within(descriptor: &OwnedFd, wait: Duration) -> bool {
    let timeout = Timespec { tv_sec: wait.as_secs().cast_signed(), tv_nsec: i64::from(wait.subsec_nanos()) };
    let mut watched = [PollFd::new(descriptor, PollFlags::IN)];
    poll(&mut watched, Some(&timeout)).is_ok_and(|ready| ready > 0)
}

/// Reads an event stream to its end, also when nobody listens any more: a full pipe would stop the primary.
fn follow(stream: impl BufRead, lines: &SyncSender<Line>) {
    for line in stream.lines() {
        let Ok(line) = line else { return };
        if let Some(line) = interpret(line, Instant::now()) {
            drop(lines.send(line));
        }
    }
}

/// Returns what a line of an event stream says that matters here.
fn interpret(line: String, at: Instant) -> Option<Line> {
    let Ok(event) = serde_json::from_str::<Value>(&line) else { return Some(Line::Other(line)) };
    match event["event"].as_str() {
        Some("listening") => {
            let pid = u32::try_from(event["pid"].as_u64()?).ok()?;
            let port = u16::try_from(event["port"].as_u64()?).ok()?;
            Some(Line::Listening { pid, port, at })
        }
        // These explain why the rest of the workers never listen.
        Some("exit" | "spawn_failed" | "listen_failed" | "errored") | None => Some(Line::Other(line)),
        Some(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn event_lines_of_both_primaries_are_understood() {
        let at = Instant::now();
        for line in [
            r#"{"event":"listening","pid":77,"port":8080}"#,
            r#"{"seq":4,"at_ms":1,"app":"hello","event":"listening","worker":1,"slot":0,"generation":1,"pid":77,"address":"127.0.0.1:8080","port":8080}"#,
        ] {
            assert_eq!(interpret(line.to_owned(), at), Some(Line::Listening { pid: 77, port: 8080, at }));
        }
    }

    #[test]
    fn what_explains_a_failure_is_kept_and_the_rest_is_not() {
        let at = Instant::now();
        for line in ["Error: no such file", r#"{"event":"exit","pid":7,"code":1}"#, r#"{"level":"warn"}"#] {
            assert_eq!(interpret(line.to_owned(), at), Some(Line::Other(line.to_owned())));
        }
        assert_eq!(interpret(r#"{"event":"forked","pid":7}"#.to_owned(), at), None);
        assert_eq!(interpret(r#"{"event":"listening","pid":7,"address":"/run/x"}"#.to_owned(), at), None);
    }
}
