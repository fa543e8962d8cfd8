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
use crate::system::{EventStream, Programs, Script, System};

/// How long a system may take until all its workers listen.
const READY_DEADLINE: Duration = Duration::from_mins(1);
/// How long a system may take to end after SIGTERM.
const END_DEADLINE: Duration = Duration::from_secs(10);
/// How many lines wait for whoever is interested in them; those that find no room are thrown away.
const LINES: usize = 16 * 1024;
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
    lines: Receiver<Line>,
}

/// A process that listens.
#[derive(Debug)]
pub(crate) struct Worker {
    pid: u32,
    descriptor: OwnedFd,
}

impl Worker {
    /// Sends a signal to it; one that has ended gets none.
    pub(crate) fn signal(&self, signal: Signal) {
        pidfd_send_signal(&self.descriptor, signal).ok();
    }
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
    /// Another event.
    Event(Value),
    /// Something that is no event, or one that explains a failure.
    Other(String),
}

impl<'g> Cluster<'g> {
    /// Starts a system and waits until all its workers listen.
    pub(crate) fn start(
        system: &'static System,
        programs: &Programs,
        workers: u32,
        script: Script,
        guard: &'g Guard,
    ) -> Result<Self> {
        let mut command = system.command(programs, workers, script);
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
        let (sender, lines) = sync_channel(LINES);
        // From here on a failure drops the half-built cluster, which ends the primary.
        let mut cluster = Self {
            system,
            guard,
            primary,
            front,
            workers: Vec::new(),
            port: 0,
            ready_after: Duration::ZERO,
            lines,
        };
        guard.watch(cluster.primary.id())?;
        if let Some(events) = events {
            std::thread::spawn(move || follow(BufReader::new(events), &sender));
        }
        cluster.wait_until_ready(started, workers)?;
        cluster.find_helpers(cluster.primary.id())?;
        Ok(cluster)
    }

    fn wait_until_ready(&mut self, started: Instant, workers: u32) -> Result<()> {
        let mut evidence = Vec::new();
        while self.workers.len() < workers as usize {
            match self.lines.recv_timeout(READY_DEADLINE.saturating_sub(started.elapsed())) {
                Ok(Line::Listening { pid, port, at }) => {
                    self.ready_after = at - started;
                    self.port = port;
                    self.add_worker(pid)?;
                }
                Ok(Line::Event(_)) => {}
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

    /// Writes a line to the standard input of a primary that is told what to do there.
    pub(crate) fn tell(&mut self, line: &str) -> Result<()> {
        let (system, pid) = (self.system.name, self.primary.id());
        let input = self.primary.stdin.as_mut().ok_or(Error::Gone { system, pid })?;
        writeln!(input, "{line}").map_err(Error::system(format!("tell {system} to {line}")))
    }

    /// Shows events to `is_last` until it returns true; workers that begin to listen become part of the cluster.
    ///
    /// # Errors
    ///
    /// When that takes longer than a minute; `what` is what is waited for.
    pub(crate) fn wait_for(&mut self, what: &str, mut is_last: impl FnMut(&Value) -> bool) -> Result<()> {
        let begin = Instant::now();
        loop {
            match self.lines.recv_timeout(READY_DEADLINE.saturating_sub(begin.elapsed())) {
                Ok(Line::Listening { pid, .. }) => self.add_worker(pid)?,
                Ok(Line::Event(event)) if is_last(&event) => return Ok(()),
                Ok(Line::Event(_) | Line::Other(_)) => {}
                Err(_) => return Err(Error::Late { system: self.system.name, what: what.to_owned() }),
            }
        }
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
    fn find_helpers(&mut self, parent: u32) -> Result<()> {
        let workers: BTreeSet<u32> = self.workers.iter().map(|worker| worker.pid).collect();
        let children = process::children(parent)
            .map_err(Error::system(format!("list the children of process {parent}")))?;
        for helper in children.into_iter().filter(|pid| !workers.contains(pid)) {
            self.guard.watch(helper)?;
            self.front.push(helper);
            self.find_helpers(helper)?;
        }
        Ok(())
    }

    /// Returns the port that all workers share.
    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// Returns the worker that began to listen first.
    pub(crate) fn first_worker(&self) -> Result<&Worker> {
        self.workers.first().ok_or(Error::Gone { system: self.system.name, pid: self.primary.id() })
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

    /// Returns how often the primary and its helpers have gone to sleep so far.
    pub(crate) fn front_sleeps(&self) -> Result<u64> {
        self.front.iter().map(|&pid| self.read(pid, process::sleeps)).sum()
    }

    /// Returns the memory of the primary alone.
    pub(crate) fn primary_memory(&self) -> Result<process::Memory> {
        self.read(self.primary.id(), process::memory)
    }

    /// Returns the memory of the primary with its helpers.
    pub(crate) fn front_memory(&self) -> Result<process::Memory> {
        let mut total = process::Memory::default();
        for &pid in &self.front {
            let memory = self.read(pid, process::memory)?;
            total.rss += memory.rss;
            total.pss += memory.pss;
            total.private += memory.private;
            total.anonymous += memory.anonymous;
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
        for line in interpret(line, Instant::now()) {
            // Nobody listens any more, or so many wait that nobody looks.
            drop(lines.try_send(line));
        }
    }
}

/// Returns what a line of an event stream says: nothing, one thing, or an event and its text as an explanation.
fn interpret(line: String, at: Instant) -> Vec<Line> {
    let Ok(event) = serde_json::from_str::<Value>(&line) else { return vec![Line::Other(line)] };
    let number = |name: &str| event[name].as_u64();
    match event["event"].as_str() {
        Some("listening") => {
            let pid = number("pid").and_then(|pid| u32::try_from(pid).ok());
            let port = number("port").and_then(|port| u16::try_from(port).ok());
            pid.zip(port).map(|(pid, port)| Line::Listening { pid, port, at }).into_iter().collect()
        }
        // These explain why the rest of the workers never listen.
        Some("exit" | "spawn_failed" | "listen_failed" | "errored") => {
            vec![Line::Event(event), Line::Other(line)]
        }
        Some(_) => vec![Line::Event(event)],
        None => vec![Line::Other(line)],
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn event_lines_of_both_primaries_are_understood() {
        let at = Instant::now();
        for line in [
            r#"{"event":"listening","pid":77,"port":8080}"#,
            r#"{"seq":4,"at_ms":1,"app":"hello","event":"listening","worker":1,"slot":0,"generation":1,"pid":77,"address":"127.0.0.1:8080","port":8080}"#,
        ] {
            assert_eq!(interpret(line.to_owned(), at), [Line::Listening { pid: 77, port: 8080, at }]);
        }
    }

    #[test]
    fn what_explains_a_failure_is_kept_as_text() {
        let at = Instant::now();
        for line in ["Error: no such file", r#"{"level":"warn"}"#] {
            assert_eq!(interpret(line.to_owned(), at), [Line::Other(line.to_owned())]);
        }
        let exit = r#"{"event":"exit","pid":7,"code":1}"#;
        let event = Line::Event(json!({ "event": "exit", "pid": 7, "code": 1 }));
        assert_eq!(interpret(exit.to_owned(), at), [event, Line::Other(exit.to_owned())]);
        let online = interpret(r#"{"event":"online","pid":7}"#.to_owned(), at);
        assert_eq!(online, [Line::Event(json!({ "event": "online", "pid": 7 }))]);
    }
}
