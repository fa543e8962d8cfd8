//! The load generator: one thread, one epoll, so little work per connection that two cores of servers are the limit.
//!
//! A [`Load`] keeps its connections between two calls of [`Load::drive`]; a caller warms up with one call and measures
//! with the next, and what is in flight at both ends of the measured time cancels out.
//!
//! Ports: the server closes first in [`Mode::Close`], so the `TIME_WAIT` is at its end and only the open connections
//! hold a port of the client. Nothing has to be spread over source addresses, which costs a system call for each
//! connection ([`Sources::Many`]). A server that leaves closing to the client would use up the ports; its run fails with
//! the error of `connect`.

mod connection;
mod requests;

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use rustix::buffer::spare_capacity;
use rustix::event::{Timespec, epoll};

use crate::error::{Error, Result};
use crate::load::connection::{Connection, Ends, First, Step};
pub(crate) use crate::load::requests::Ask;
use crate::load::requests::{Kind, Requests, Tag};

/// What happens on a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    /// Open, send, read to the end, close: one request per connection.
    Close,
    /// Request after request on connections that stay open.
    KeepAlive,
    /// One request on each connection, which then stays open without another.
    Hold,
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

/// How the connections of a closed loop are opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Opening {
    /// All at once: who is quicker for a moment may get more of them.
    AtOnce,
    /// Each when the one before it has its first answer, so that their number alone decides who gets how many.
    InTurn,
}

/// Where connections come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sources {
    /// One address, which the kernel chooses.
    One,
    /// Addresses of 127.0.0.0/8 by the key of the request: as many users.
    Many,
}

/// What a load is like.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Shape {
    /// What happens on a connection.
    pub(crate) mode: Mode,
    /// When requests are made.
    pub(crate) arrival: Arrival,
    /// How many connections are open at most.
    pub(crate) connections: usize,
    /// How those of a closed loop are opened.
    pub(crate) opening: Opening,
    /// What is asked.
    pub(crate) ask: Ask,
    /// Where connections come from.
    pub(crate) sources: Sources,
}

impl Shape {
    /// Returns a load of so many connections that are always busy.
    pub(crate) fn closed(mode: Mode, connections: usize) -> Self {
        Self {
            mode,
            arrival: Arrival::Closed,
            connections,
            opening: Opening::AtOnce,
            ask: Ask::Hello,
            sources: Sources::One,
        }
    }

    /// Returns a load of so many new connections each second.
    pub(crate) fn open(per_second: u32, ask: Ask) -> Self {
        Self {
            mode: Mode::Close,
            arrival: Arrival::Open { per_second },
            connections: OPEN_LOOP_CONNECTIONS,
            opening: Opening::AtOnce,
            ask,
            sources: Sources::One,
        }
    }
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
    /// The latency of each answered request that is measured, in microseconds, sorted.
    pub(crate) latencies_us: Vec<u32>,
    /// How many answers each process gave.
    pub(crate) answers: BTreeMap<u32, u64>,
    /// The key and the answer of each request, for [`Ask::Sweep`].
    pub(crate) by_key: Vec<(u32, u32)>,
}

/// A connection without an answer for this long has failed.
const ANSWER_DEADLINE: Duration = Duration::from_secs(10);
/// How often connections are checked against [`ANSWER_DEADLINE`].
const CHECK_EVERY: Duration = Duration::from_millis(250);
/// After so many failures a run is given up.
const MOST_FAILURES: u64 = 1000;
/// Open loops may fall behind by this many connections.
const OPEN_LOOP_CONNECTIONS: usize = 2048;

/// A number of connections to one port; dropping it closes them.
#[derive(Debug)]
pub(crate) struct Load {
    epoll: OwnedFd,
    server: SocketAddrV4,
    shape: Shape,
    requests: Requests,
    slots: Vec<Option<Connection>>,
    /// The slots without a connection; the most recently used, whose memory is warm, last.
    idle: Vec<usize>,
    /// How many requests have no answer yet.
    unanswered: usize,
    /// How many more requests are to be made.
    budget: u64,
    /// When the next request of an open loop is due.
    due: Instant,
    sample: Sample,
}

impl Load {
    /// Prepares a load of one port; nothing is opened yet.
    pub(crate) fn new(port: u16, shape: Shape) -> Result<Self> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC).map_err(Error::system("make an epoll"))?;
        let connection = match shape.mode {
            Mode::Close => "close",
            Mode::KeepAlive | Mode::Hold => "keep-alive",
        };
        Ok(Self {
            epoll,
            server: SocketAddrV4::new(Ipv4Addr::LOCALHOST, port),
            shape,
            requests: Requests::new(shape.ask, port, connection),
            slots: (0..shape.connections).map(|_| None).collect(),
            idle: (0..shape.connections).rev().collect(),
            unanswered: 0,
            budget: 0,
            due: Instant::now(),
            sample: Sample::default(),
        })
    }

    /// Keeps the load up for `duration`, or longer until there is a first answer, and returns what was seen in that time.
    ///
    /// # Errors
    ///
    /// When nothing was answered, or far too many requests failed.
    pub(crate) fn drive(&mut self, duration: Duration) -> Result<Sample> {
        self.run(u64::MAX, Some(duration), AtEnd::Leave)
    }

    /// Makes requests for `duration`, and returns when all of them are answered: no slow one is left out.
    ///
    /// # Errors
    ///
    /// As for [`drive`](Self::drive).
    pub(crate) fn drive_to_end(&mut self, duration: Duration) -> Result<Sample> {
        self.due = Instant::now();
        self.run(u64::MAX, Some(duration), AtEnd::Wait)
    }

    /// Makes so many requests, and returns when all of them are answered.
    ///
    /// # Errors
    ///
    /// As for [`drive`](Self::drive).
    pub(crate) fn make(&mut self, requests: u64) -> Result<Sample> {
        self.run(requests, None, AtEnd::Wait)
    }

    fn run(&mut self, requests: u64, duration: Option<Duration>, at_end: AtEnd) -> Result<Sample> {
        self.sample = Sample::default();
        self.budget = requests;
        let begin = Instant::now();
        let mut end = duration.map(|duration| begin + duration);
        let mut check = begin + CHECK_EVERY;
        let mut events = Vec::with_capacity(self.slots.len());
        loop {
            let now = Instant::now();
            if end.is_some_and(|end| now >= end) {
                match at_end {
                    AtEnd::Leave if self.sample.completed == 0 && self.sample.failed == 0 => {
                        end = Some(now + CHECK_EVERY);
                    }
                    AtEnd::Leave => break,
                    AtEnd::Wait => (self.budget, end) = (0, None),
                }
            }
            if self.budget == 0 && self.unanswered == 0 {
                break;
            }
            if now >= check {
                self.expire(now);
                check = now + CHECK_EVERY;
            }
            self.launch_due(now);
            events.clear();
            let latest = end.map_or(check, |end| end.min(check));
            let timeout = self.wake_up(latest).saturating_duration_since(Instant::now());
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
                port: self.server.port(),
                failed: sample.failed,
                first: sample.first_failure.unwrap_or_else(|| "no answer".to_owned()),
            });
        }
        sample.elapsed = elapsed;
        sample.latencies_us.sort_unstable();
        Ok(sample)
    }

    /// Opens what is due: idle slots of a closed loop, what the clock asks for of an open one.
    fn launch_due(&mut self, now: Instant) {
        match self.shape.arrival {
            Arrival::Closed => {
                let due = match self.shape.opening {
                    // Only what was idle at the start: a slot whose connect fails is tried again in the next turn.
                    Opening::AtOnce => self.idle.len(),
                    Opening::InTurn => usize::from(self.all_open_ones_have_an_answer()),
                };
                for _ in 0..due {
                    self.launch(now);
                }
            }
            Arrival::Open { per_second } => {
                let interval = Duration::from_secs(1) / per_second;
                while self.due <= now && self.budget > 0 && !self.idle.is_empty() {
                    self.launch(self.due);
                    self.due += interval;
                }
            }
        }
    }

    fn all_open_ones_have_an_answer(&self) -> bool {
        self.slots.iter().flatten().all(Connection::was_answered)
    }

    /// Returns when the loop has to run again even if no connection has news.
    fn wake_up(&self, latest: Instant) -> Instant {
        match self.shape.arrival {
            Arrival::Open { .. } if self.budget > 0 && !self.idle.is_empty() => self.due.min(latest),
            Arrival::Open { .. } | Arrival::Closed => latest,
        }
    }

    /// Opens a connection, if there is room and it is wanted.
    fn launch(&mut self, since: Instant) {
        if self.budget == 0 {
            return;
        }
        let Some(slot) = self.idle.pop() else { return };
        self.budget -= 1;
        self.unanswered += 1;
        let tag = self.requests.next();
        let client = match self.shape.sources {
            Sources::One => None,
            Sources::Many => Some(user_address(tag)),
        };
        let ends = Ends { server: self.server, client };
        let first = First { tag, bytes: self.requests.render(tag), since };
        match Connection::open(&self.epoll, slot as u64, ends, first, self.shape.mode) {
            Ok(connection) => self.slots[slot] = Some(connection),
            Err(failure) => self.fail(slot, failure),
        }
    }

    fn advance(&mut self, slot: usize, flags: epoll::EventFlags) {
        let Some(connection) = &mut self.slots[slot] else { return };
        if connection.is_held() {
            self.slots[slot] = None;
            self.sample.failed += 1;
            self.sample.first_failure.get_or_insert("a held connection was closed".to_owned());
            return;
        }
        let tag = connection.tag();
        let request = self.requests.render(tag);
        match connection.advance(&self.epoll, slot as u64, flags, request, self.shape.mode) {
            Step::Pending => {}
            Step::Done { pid } => self.complete(slot, tag, pid),
            Step::Failed(failure) => self.fail(slot, failure),
        }
    }

    fn complete(&mut self, slot: usize, tag: Tag, pid: u32) {
        let now = Instant::now();
        let Some(connection) = &mut self.slots[slot] else { return };
        let latency = now.saturating_duration_since(connection.since());
        match tag.kind {
            Kind::Measured => {
                self.sample.latencies_us.push(u32::try_from(latency.as_micros()).unwrap_or(u32::MAX));
            }
            Kind::Burden => {}
        }
        if self.requests.are_told_apart() {
            self.sample.by_key.push((tag.key, pid));
        }
        self.sample.completed += 1;
        *self.sample.answers.entry(pid).or_default() += 1;
        self.unanswered -= 1;
        match (self.shape.mode, self.shape.arrival) {
            (Mode::KeepAlive, Arrival::Closed) if self.budget > 0 => {
                self.budget -= 1;
                self.unanswered += 1;
                let tag = self.requests.next();
                if let Err(failure) = connection.send(tag, self.requests.render(tag), now) {
                    self.fail(slot, failure);
                }
            }
            (Mode::Close, Arrival::Closed) => {
                self.slots[slot] = None;
                self.idle.push(slot);
                self.launch(now);
            }
            (Mode::Close | Mode::KeepAlive, Arrival::Closed | Arrival::Open { .. }) => {
                self.slots[slot] = None;
                self.idle.push(slot);
            }
            (Mode::Hold, Arrival::Closed | Arrival::Open { .. }) => {}
        }
    }

    fn fail(&mut self, slot: usize, failure: String) {
        self.slots[slot] = None;
        self.idle.push(slot);
        self.unanswered -= 1;
        self.sample.failed += 1;
        self.sample.first_failure.get_or_insert(failure);
    }

    /// Fails the connections that have waited too long; without this a lost one would just lower the rate.
    fn expire(&mut self, now: Instant) {
        for slot in 0..self.slots.len() {
            let waits_too_long = |connection: &Connection| {
                !connection.is_held() && now.saturating_duration_since(connection.since()) > ANSWER_DEADLINE
            };
            if self.slots[slot].as_ref().is_some_and(waits_too_long) {
                self.fail(slot, format!("no answer within {} s", ANSWER_DEADLINE.as_secs()));
            }
        }
    }
}

/// Whether a run ends with the requests that have no answer yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum AtEnd {
    /// It leaves them to the next run.
    Leave,
    /// It waits for their answers.
    Wait,
}

/// Returns the address of the user whose key a request carries.
fn user_address(tag: Tag) -> Ipv4Addr {
    let [_, first, second, third] = tag.key.to_be_bytes();
    // Not 127.0.0.0 and not the broadcast address of the network.
    Ipv4Addr::new(127, first.clamp(1, 254), second, third)
}

fn timespec(duration: Duration) -> Timespec {
    Timespec {
        tv_sec: i64::try_from(duration.as_secs()).unwrap_or(i64::MAX),
        tv_nsec: i64::from(duration.subsec_nanos()),
    }
}

#[cfg(test)]
mod tests;
