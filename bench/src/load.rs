//! The load generator: one thread, one epoll, so little work per connection that two cores of servers are the limit.
//!
//! A [`Load`] keeps its connections between two calls of [`Load::drive`]; a caller warms up with one call and measures
//! with the next, and what is in flight at both ends of the measured time cancels out.
//!
//! Ports: the server closes first in [`Mode::Close`], so the `TIME_WAIT` is at its end and only the open connections
//! hold a port of the client. Nothing has to be spread over source addresses, which would cost two system calls for
//! each connection. A server that leaves closing to the client would use up the ports; its run fails with the error
//! of `connect`.

mod connection;

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use rustix::buffer::spare_capacity;
use rustix::event::{Timespec, epoll};

use crate::error::{Error, Result};
use crate::load::connection::{Connection, Step};

/// What happens on a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    /// Open, send, read to the end, close: one request per connection.
    Close,
    /// Request after request on connections that stay open.
    KeepAlive,
}

/// When the next request is made.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Arrival {
    /// As soon as the one before it is answered: as fast as the servers can.
    Closed,
    /// At fixed times; latency counts from that time, also when the client is late.
    Open {
        /// How many each second.
        per_second: u32,
    },
}

/// What one call of [`Load::drive`] saw.
#[derive(Debug, Default)]
pub(crate) struct Sample {
    /// How many requests were answered as they should.
    pub(crate) completed: u64,
    /// How many were not.
    pub(crate) failed: u64,
    /// How the first failed.
    pub(crate) first_failure: Option<String>,
    /// How long it took.
    pub(crate) elapsed: Duration,
    /// The latency of each answered request in microseconds, sorted.
    pub(crate) latencies_us: Vec<u32>,
    /// How many answers each process gave.
    pub(crate) answers: BTreeMap<u32, u64>,
}

/// A connection without an answer for this long has failed.
const ANSWER_DEADLINE: Duration = Duration::from_secs(5);
/// How often connections are checked against [`ANSWER_DEADLINE`].
const CHECK_EVERY: Duration = Duration::from_millis(250);
/// After so many failures a run is given up.
const MOST_FAILURES: u64 = 1000;

/// A number of connections to one port; dropping it closes them.
#[derive(Debug)]
pub(crate) struct Load {
    epoll: OwnedFd,
    address: SocketAddrV4,
    request: Vec<u8>,
    mode: Mode,
    arrival: Arrival,
    slots: Vec<Option<Connection>>,
    /// The slots without a connection; the most recently used, whose memory is warm, last.
    idle: Vec<usize>,
    /// When the next request of an open loop is due.
    due: Instant,
    sample: Sample,
}

impl Load {
    /// Prepares a load of at most `connections` at a time; nothing is opened yet.
    pub(crate) fn new(port: u16, mode: Mode, arrival: Arrival, connections: usize) -> Result<Self> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC).map_err(Error::system("make an epoll"))?;
        let connection = match mode {
            Mode::Close => "close",
            Mode::KeepAlive => "keep-alive",
        };
        Ok(Self {
            epoll,
            address: SocketAddrV4::new(Ipv4Addr::LOCALHOST, port),
            request: format!("GET / HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nConnection: {connection}\r\n\r\n")
                .into(),
            mode,
            arrival,
            slots: (0..connections).map(|_| None).collect(),
            idle: (0..connections).rev().collect(),
            due: Instant::now(),
            sample: Sample::default(),
        })
    }

    /// Keeps the load up for `duration` and returns what was seen in that time.
    ///
    /// # Errors
    ///
    /// When nothing was answered, or far too many requests failed.
    pub(crate) fn drive(&mut self, duration: Duration) -> Result<Sample> {
        self.sample = Sample::default();
        let begin = Instant::now();
        let end = begin + duration;
        let mut check = begin + CHECK_EVERY;
        let mut events = Vec::with_capacity(self.slots.len());
        loop {
            let now = Instant::now();
            if now >= end {
                break;
            }
            if now >= check {
                self.expire(now);
                check = now + CHECK_EVERY;
            }
            self.launch_due(now);
            events.clear();
            let timeout = self.wake_up(end.min(check)).saturating_duration_since(Instant::now());
            match epoll::wait(&self.epoll, spare_capacity(&mut events), Some(&timespec(timeout))) {
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(Error::system("wait for connections")(error)),
            }
            for event in &events {
                self.advance(event.data.u64() as usize, event.flags);
            }
            if self.sample.failed > MOST_FAILURES {
                break;
            }
        }
        self.finish(begin.elapsed())
    }

    fn finish(&mut self, elapsed: Duration) -> Result<Sample> {
        let mut sample = std::mem::take(&mut self.sample);
        if sample.completed == 0 || sample.failed > MOST_FAILURES {
            return Err(Error::Load {
                port: self.address.port(),
                failed: sample.failed,
                first: sample.first_failure.unwrap_or_else(|| "no answer".to_owned()),
            });
        }
        sample.elapsed = elapsed;
        sample.latencies_us.sort_unstable();
        Ok(sample)
    }

    /// Opens what is due: every idle slot of a closed loop, what the clock asks for of an open one.
    fn launch_due(&mut self, now: Instant) {
        match self.arrival {
            Arrival::Closed => {
                // Only what was idle at the start: a slot whose connect fails is tried again in the next turn.
                for _ in 0..self.idle.len() {
                    if let Some(slot) = self.idle.pop() {
                        self.launch(slot, now);
                    }
                }
            }
            Arrival::Open { per_second } => {
                let interval = Duration::from_secs(1) / per_second;
                while self.due <= now {
                    let Some(slot) = self.idle.pop() else { break };
                    self.launch(slot, self.due);
                    self.due += interval;
                }
            }
        }
    }

    /// Returns when the loop has to run again even if no connection has news.
    fn wake_up(&self, latest: Instant) -> Instant {
        match self.arrival {
            Arrival::Open { .. } if !self.idle.is_empty() => self.due.min(latest),
            Arrival::Open { .. } | Arrival::Closed => latest,
        }
    }

    fn launch(&mut self, slot: usize, since: Instant) {
        match Connection::open(&self.epoll, slot as u64, self.address, &self.request, self.mode, since) {
            Ok(connection) => self.slots[slot] = Some(connection),
            Err(failure) => self.fail(slot, failure),
        }
    }

    fn advance(&mut self, slot: usize, flags: epoll::EventFlags) {
        let Some(connection) = &mut self.slots[slot] else { return };
        match connection.advance(&self.epoll, slot as u64, flags, &self.request, self.mode) {
            Step::Pending => {}
            Step::Done { pid } => self.complete(slot, pid),
            Step::Failed(failure) => self.fail(slot, failure),
        }
    }

    fn complete(&mut self, slot: usize, pid: u32) {
        let now = Instant::now();
        let Some(connection) = &mut self.slots[slot] else { return };
        let latency = now.saturating_duration_since(connection.since());
        self.sample.latencies_us.push(u32::try_from(latency.as_micros()).unwrap_or(u32::MAX));
        self.sample.completed += 1;
        *self.sample.answers.entry(pid).or_default() += 1;
        match (self.mode, self.arrival) {
            (Mode::KeepAlive, Arrival::Closed) => {
                if let Err(failure) = connection.send(&self.request, now) {
                    self.fail(slot, failure);
                }
            }
            (Mode::Close, Arrival::Closed) => {
                self.slots[slot] = None;
                self.launch(slot, now);
            }
            (Mode::Close | Mode::KeepAlive, Arrival::Open { .. }) => {
                self.slots[slot] = None;
                self.idle.push(slot);
            }
        }
    }

    fn fail(&mut self, slot: usize, failure: String) {
        self.slots[slot] = None;
        self.idle.push(slot);
        self.sample.failed += 1;
        self.sample.first_failure.get_or_insert(failure);
    }

    /// Fails the connections that have waited too long; without this a lost one would just lower the rate.
    fn expire(&mut self, now: Instant) {
        for slot in 0..self.slots.len() {
            let waits = |connection: &Connection| now.saturating_duration_since(connection.since());
            if self.slots[slot].as_ref().map(waits).is_some_and(|waited| waited > ANSWER_DEADLINE) {
                self.fail(slot, format!("no answer within {} s", ANSWER_DEADLINE.as_secs()));
            }
        }
    }
}

fn timespec(duration: Duration) -> Timespec {
    Timespec {
        tv_sec: i64::try_from(duration.as_secs()).unwrap_or(i64::MAX),
        tv_nsec: i64::from(duration.subsec_nanos()),
    }
}

#[cfg(test)]
mod tests;
