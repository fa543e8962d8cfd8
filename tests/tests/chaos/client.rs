//! A client that opens connections without pause and says exactly what became of each.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use worksong_testkit::eventually;

/// How many connections are open at a time, besides those that wait for long.
const LANES: usize = 16;
/// After this a lane leaves its connection to a thread of its own and opens the next one: a client that waits for a
/// stopped worker must not stop asking the others.
const IMPATIENCE: Duration = Duration::from_millis(500);
/// A connection that has no answer after this counts as lost.
const LOST_AFTER: Duration = Duration::from_secs(15);

const REQUEST: &[u8] = b"GET / HTTP/1.1\r\nhost: chaos\r\nconnection: close\r\n\r\n";

/// The number of a connection. Each goes to an address of its own in 127.0.0.0/8, and so both ends know it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct ConnectionId(u32);

impl ConnectionId {
    /// The address of the first connection; those of the system lie below.
    const FIRST: u32 = 0x7f01_0000;

    fn address(self) -> Ipv4Addr {
        let address = Ipv4Addr::from(Self::FIRST + self.0);
        assert!(address.is_loopback(), "a run has fewer than 16 million connections");
        address
    }

    /// Returns the connection to this address; `None` for one of another client.
    pub(crate) fn of(address: Ipv4Addr) -> Option<Self> {
        u32::from(address).checked_sub(Self::FIRST).filter(|_| address.is_loopback()).map(Self)
    }
}

/// What became of a connection.
#[derive(Debug)]
pub(crate) enum Outcome {
    /// Answered completely, by this worker.
    Served { worker: u32 },
    /// Not even opened.
    Refused(io::Error),
    /// Ended before the first byte of an answer.
    Reset(io::Error),
    /// Ended within the answer.
    Cut,
    /// Without an end after [`LOST_AFTER`].
    Lost,
}

/// One connection from its beginning to its end.
#[derive(Debug)]
pub(crate) struct Exchange {
    pub(crate) id: ConnectionId,
    pub(crate) outcome: Outcome,
    pub(crate) took: Duration,
    pub(crate) ended: Instant,
}

impl Exchange {
    fn ends_now(id: ConnectionId, outcome: Outcome, began: Instant) -> Self {
        let ended = Instant::now();
        Self { id, outcome, took: ended.duration_since(began), ended }
    }
}

/// A running client.
#[derive(Debug)]
pub(crate) struct Client {
    shared: Arc<Shared>,
    lanes: Vec<JoinHandle<Vec<Exchange>>>,
}

#[derive(Debug)]
struct Shared {
    port: u16,
    /// How long a lane rests after each connection.
    rest: Duration,
    opened: AtomicU32,
    stopped: AtomicBool,
}

impl Client {
    /// Starts to open connections to this port; each lane rests so long after each of its own.
    pub(crate) fn start(port: u16, rest: Duration) -> Self {
        let shared =
            Arc::new(Shared { port, rest, opened: AtomicU32::new(0), stopped: AtomicBool::new(false) });
        let lane = |_| {
            let shared = Arc::clone(&shared);
            thread::spawn(move || shared.run())
        };
        let lanes = (0..LANES).map(lane).collect();
        Self { shared, lanes }
    }

    /// Returns how many connections were begun.
    pub(crate) fn opened(&self) -> u32 {
        self.shared.opened.load(Ordering::Relaxed)
    }

    /// Waits until so many more connections were begun: the clock of a run.
    pub(crate) fn wait_for_more(&self, count: u32) {
        let goal = self.opened() + count;
        eventually("further connections", || (self.opened() >= goal).then_some(()));
    }

    /// Opens no more connections, and returns all when the last one has its end.
    pub(crate) fn finish(self) -> Vec<Exchange> {
        self.shared.stopped.store(true, Ordering::Relaxed);
        let lanes = self.lanes.into_iter();
        lanes.flat_map(|lane| lane.join().expect("a lane does not panic")).collect()
    }
}

impl Shared {
    fn run(&self) -> Vec<Exchange> {
        let mut ended = Vec::new();
        let mut waiting = Vec::new();
        while !self.stopped.load(Ordering::Relaxed) {
            if !self.rest.is_zero() {
                thread::park_timeout(self.rest);
            }
            let id = ConnectionId(self.opened.fetch_add(1, Ordering::Relaxed));
            let began = Instant::now();
            let mut attempt = match open(id, self.port) {
                Ok(stream) => Attempt { id, began, stream, answer: Vec::new() },
                Err(outcome) => {
                    ended.push(Exchange::ends_now(id, outcome, began));
                    continue;
                }
            };
            match attempt.read_for(IMPATIENCE) {
                Some(outcome) => ended.push(attempt.end(outcome)),
                None => waiting.push(thread::spawn(move || attempt.wait())),
            }
        }
        ended.extend(waiting.into_iter().map(|late| late.join().expect("a client does not panic")));
        ended
    }
}

/// Connects and asks.
fn open(id: ConnectionId, port: u16) -> Result<TcpStream, Outcome> {
    let address = SocketAddr::from((id.address(), port));
    let mut stream =
        TcpStream::connect_timeout(&address, LOST_AFTER).map_err(|error| match error.kind() {
            ErrorKind::TimedOut => Outcome::Lost,
            ErrorKind::ConnectionReset => Outcome::Reset(error),
            _ => Outcome::Refused(error),
        })?;
    stream.write_all(REQUEST).map_err(Outcome::Reset)?;
    Ok(stream)
}

/// A connection that waits for its answer.
#[derive(Debug)]
struct Attempt {
    id: ConnectionId,
    began: Instant,
    stream: TcpStream,
    answer: Vec<u8>,
}

impl Attempt {
    /// Reads to the end, with all the patience that there is.
    fn wait(mut self) -> Exchange {
        let outcome = self.read_for(LOST_AFTER).unwrap_or(Outcome::Lost);
        self.end(outcome)
    }

    /// Reads to the end; `None` when so much time has passed since the beginning.
    fn read_for(&mut self, limit: Duration) -> Option<Outcome> {
        let mut buffer = [0; 1024];
        loop {
            let left = limit.checked_sub(self.began.elapsed()).filter(|left| !left.is_zero())?;
            self.stream.set_read_timeout(Some(left)).expect("a time above zero");
            match self.stream.read(&mut buffer) {
                Ok(0) => return Some(self.judge(ErrorKind::UnexpectedEof.into())),
                Ok(count) => self.answer.extend_from_slice(&buffer[..count]),
                // The time is over, or a signal came.
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {}
                Err(error) => return Some(self.judge(error)),
            }
        }
    }

    /// Says what an ended connection came to. Complete is complete, however it ended then.
    fn judge(&self, error: io::Error) -> Outcome {
        match served_by(&self.answer) {
            Some(worker) => Outcome::Served { worker },
            None if self.answer.is_empty() => Outcome::Reset(error),
            None => Outcome::Cut,
        }
    }

    fn end(self, outcome: Outcome) -> Exchange {
        Exchange::ends_now(self.id, outcome, self.began)
    }
}

/// Returns the worker that a complete answer names. Its last line is written in one piece.
fn served_by(answer: &[u8]) -> Option<u32> {
    let answer = std::str::from_utf8(answer).ok()?;
    let (head, body) = answer.split_once("\r\n\r\n")?;
    let worker = body.strip_prefix("worker ")?.parse().ok()?;
    head.starts_with("HTTP/1.1 200 ").then_some(worker)
}
