//! One connection of the load generator: `connecting → waiting → ending`, and again for keep-alive.

use std::net::{Ipv4Addr, SocketAddrV4};
use std::os::fd::OwnedFd;
use std::time::Instant;

use rustix::event::epoll::{self, EventData, EventFlags};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SendFlags, SocketFlags, SocketType};

use crate::load::Mode;
use crate::load::requests::Tag;
use crate::response::{self, Answer};

/// What an event brought.
#[derive(Debug)]
pub(crate) enum Step {
    /// More events have to come.
    Pending,
    /// The answer is whole and right; in [`Mode::Close`] the server has closed, too.
    Done {
        /// The process that answered.
        pid: u32,
    },
    /// The connection is of no more use.
    Failed(String),
}

/// How far a connection is.
#[derive(Debug)]
enum Stage {
    /// The handshake is not done; the request is not sent.
    Connecting,
    /// The request is sent.
    Waiting,
    /// The answer is there, the server has yet to close.
    Ending { pid: u32 },
    /// The answer is there, and nothing else is to happen.
    Held,
}

/// The answers of the benchmark's workers have fewer than 200 bytes.
const ANSWER_LIMIT: usize = 1024;

/// One connection and the answer that it is reading; dropping it closes it.
#[derive(Debug)]
pub(crate) struct Connection {
    socket: OwnedFd,
    stage: Stage,
    since: Instant,
    tag: Tag,
    was_answered: bool,
    filled: usize,
    buffer: [u8; ANSWER_LIMIT],
}

/// Returns what to wait for: where the server closes, its FIN alone, which comes after the whole answer, so that each
/// connection costs the client one wake-up and not two.
fn interest_in_answer(mode: Mode) -> EventFlags {
    match mode {
        Mode::Close => EventFlags::RDHUP,
        Mode::KeepAlive | Mode::Hold => EventFlags::IN | EventFlags::RDHUP,
    }
}

/// The two ends of a connection.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ends {
    /// The server's.
    pub(crate) server: SocketAddrV4,
    /// The client's, where it is not left to the kernel.
    pub(crate) client: Option<Ipv4Addr>,
}

/// The first request of a connection.
#[derive(Clone, Copy, Debug)]
pub(crate) struct First<'r> {
    /// Which it is.
    pub(crate) tag: Tag,
    /// Its bytes.
    pub(crate) bytes: &'r [u8],
    /// When it was made, or should have been.
    pub(crate) since: Instant,
}

impl Connection {
    /// Opens a connection and, where the handshake is done at once as it is over loopback, sends the request.
    pub(crate) fn open(
        epoll: &OwnedFd,
        token: u64,
        ends: Ends,
        first: First<'_>,
        mode: Mode,
    ) -> Result<Self, String> {
        let First { tag, bytes, since } = first;
        let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
        let socket = rustix::net::socket_with(AddressFamily::INET, SocketType::STREAM, flags, None)
            .map_err(|error| format!("socket: {error}"))?;
        if let Some(client) = ends.client {
            rustix::net::bind(&socket, &SocketAddrV4::new(client, 0))
                .map_err(|error| format!("bind to {client}: {error}"))?;
        }
        match rustix::net::connect(&socket, &ends.server) {
            Ok(()) | Err(Errno::INPROGRESS) => {}
            Err(error) => return Err(format!("connect: {error}")),
        }
        let mut connection = Self {
            socket,
            stage: Stage::Connecting,
            since,
            tag,
            was_answered: false,
            filled: 0,
            buffer: [0; ANSWER_LIMIT],
        };
        let interest = match rustix::net::send(&connection.socket, bytes, SendFlags::NOSIGNAL) {
            Ok(_) => {
                connection.stage = Stage::Waiting;
                interest_in_answer(mode)
            }
            Err(Errno::AGAIN) => EventFlags::OUT,
            Err(error) => return Err(format!("send: {error}")),
        };
        epoll::add(epoll, &connection.socket, EventData::new_u64(token), interest)
            .map_err(|error| format!("epoll add: {error}"))?;
        Ok(connection)
    }

    /// Returns when the request was made, or should have been.
    pub(crate) fn since(&self) -> Instant {
        self.since
    }

    /// Returns true when it was answered and is to stay as it is.
    pub(crate) fn is_held(&self) -> bool {
        matches!(self.stage, Stage::Held)
    }

    /// Returns true when it had a whole answer.
    pub(crate) fn was_answered(&self) -> bool {
        self.was_answered
    }

    /// Returns which request is under way.
    pub(crate) fn tag(&self) -> Tag {
        self.tag
    }

    /// Sends the next request on an open connection.
    pub(crate) fn send(&mut self, tag: Tag, request: &[u8], now: Instant) -> Result<(), String> {
        self.stage = Stage::Waiting;
        self.since = now;
        self.tag = tag;
        self.filled = 0;
        // A request is far smaller than an empty socket buffer, so it is sent whole or not at all.
        match rustix::net::send(&self.socket, request, SendFlags::NOSIGNAL) {
            Ok(_) => Ok(()),
            Err(error) => Err(format!("send: {error}")),
        }
    }

    /// Goes on as far as the event allows; `request` is sent when it was not yet.
    pub(crate) fn advance(
        &mut self,
        epoll: &OwnedFd,
        token: u64,
        flags: EventFlags,
        request: &[u8],
        mode: Mode,
    ) -> Step {
        if matches!(self.stage, Stage::Connecting) {
            let since = self.since;
            let interest = interest_in_answer(mode);
            let sent = self.send(self.tag, request, since).and_then(|()| {
                epoll::modify(epoll, &self.socket, EventData::new_u64(token), interest)
                    .map_err(|error| format!("epoll modify: {error}"))
            });
            return match sent {
                Ok(()) => Step::Pending,
                Err(failure) => Step::Failed(failure),
            };
        }
        // Without the server's FIN a second read could only say EAGAIN.
        let closed = flags.intersects(EventFlags::RDHUP | EventFlags::HUP | EventFlags::ERR);
        loop {
            let step = self.read(mode);
            if !closed || !matches!(step, Some(Step::Pending)) {
                return step.unwrap_or(Step::Pending);
            }
        }
    }

    /// Reads once; `None` means that there was nothing to read.
    fn read(&mut self, mode: Mode) -> Option<Step> {
        let count = match rustix::io::read(&self.socket, &mut self.buffer[self.filled..]) {
            Ok(count) => count,
            Err(Errno::AGAIN | Errno::INTR) => return None,
            Err(error) => return Some(Step::Failed(format!("read: {error}"))),
        };
        Some(match (&self.stage, count) {
            (Stage::Ending { pid }, 0) => Step::Done { pid: *pid },
            (Stage::Ending { .. } | Stage::Held, _) => {
                Step::Failed("something follows the answer".to_owned())
            }
            (Stage::Connecting | Stage::Waiting, 0) => {
                Step::Failed(format!("closed after {} bytes, before a whole answer", self.filled))
            }
            (Stage::Connecting | Stage::Waiting, count) => {
                self.filled += count;
                self.judge(mode)
            }
        })
    }

    fn judge(&mut self, mode: Mode) -> Step {
        match response::read(&self.buffer[..self.filled]) {
            Answer::Whole { length, .. } if length < self.filled => {
                Step::Failed("bytes follow the answer".to_owned())
            }
            Answer::Whole { pid, .. } => {
                self.was_answered = true;
                match mode {
                    Mode::KeepAlive => Step::Done { pid },
                    Mode::Hold => {
                        self.stage = Stage::Held;
                        Step::Done { pid }
                    }
                    Mode::Close => {
                        // One byte of room is needed to tell the end of the stream from a full buffer.
                        self.filled = 0;
                        self.stage = Stage::Ending { pid };
                        Step::Pending
                    }
                }
            }
            Answer::Partial if self.filled == ANSWER_LIMIT => {
                Step::Failed(format!("the answer has more than {ANSWER_LIMIT} bytes"))
            }
            Answer::Partial => Step::Pending,
            Answer::Wrong(why) => Step::Failed(why.to_owned()),
        }
    }
}
