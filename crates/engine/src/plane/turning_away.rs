//! The last words to connections that are not let in: `503 Service Unavailable` for those that speak HTTP/1.
//!
//! What a client speaks is seen in its first bytes, which are looked at and not read. An answer is lost when its connection
//! is reset, and closing one with bytes that nobody has read resets it; so after the answer only our half is closed, and what
//! the client still sends is read and thrown away, for a while.

use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags, Shutdown, recv, send, shutdown};
use socket2::SockRef;

use super::Plane;
use super::poll::{Interest, Token};

/// How long the first bytes are waited for, and how long a client has to close its half after the answer.
const PATIENCE: Duration = Duration::from_secs(1);
/// How many connections get last words at a time; for each further one the oldest is closed.
const MOST: usize = 1024;
/// How many bytes are read of what a client sends that has its answer.
const MOST_READ: usize = 64 * 1024;
/// As long as any name of a method.
const LONGEST_METHOD: usize = 24;
const ANSWER: &[u8] =
    b"HTTP/1.1 503 Service Unavailable\r\nretry-after: 1\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";

/// A connection that is not let in.
#[derive(Debug)]
pub(super) struct TurnedAway {
    connection: OwnedFd,
    stage: Stage,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// Its first bytes are waited for.
    Silent,
    /// It has its answer; so many more bytes are read from it.
    Answered { more: usize },
}

/// A connection that is not let in; the number is free for another one after that.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct TurnedAwayId(pub(super) usize);

/// What a client speaks, as far as its first bytes show.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Speech {
    Unknown,
    Http1,
    Other,
}

impl Plane {
    /// Answers a connection that is not let in, if it speaks HTTP/1.
    pub(super) fn answer_unavailable(&mut self, connection: OwnedFd) {
        if self.turned_away.count() >= MOST {
            self.end_oldest_turned_away(1);
        }
        let turned_away = TurnedAway { connection, stage: Stage::Silent };
        let id = TurnedAwayId(self.turned_away.add(turned_away, self.now + PATIENCE));
        let Some(known) = self.turned_away.get(id.0) else { return };
        if self.poll.add(&known.connection, Token::TurnedAway(id), Interest::NEWS).is_err() {
            return self.end_turned_away(id);
        }
        self.on_turned_away(id);
    }

    /// Hears a connection that is not let in.
    pub(super) fn on_turned_away(&mut self, id: TurnedAwayId) {
        let Some(known) = self.turned_away.get_mut(id.0) else { return };
        match known.stage {
            Stage::Silent => match speech_of(&known.connection) {
                Speech::Unknown => {}
                Speech::Http1 => self.say_unavailable(id),
                Speech::Other => self.end_turned_away(id),
            },
            Stage::Answered { more } => match read_off(&known.connection, more) {
                Some(more) => known.stage = Stage::Answered { more },
                None => self.end_turned_away(id),
            },
        }
    }

    fn say_unavailable(&mut self, id: TurnedAwayId) {
        let Some(TurnedAway { connection, .. }) = self.turned_away.take(id.0) else { return };
        // A new connection has room for so little; one that is broken needs no answer.
        let is_said = send(&connection, ANSWER, SendFlags::NOSIGNAL) == Ok(ANSWER.len())
            && shutdown(&connection, Shutdown::Write).is_ok();
        if !is_said {
            return reset(connection);
        }
        let answered = TurnedAway { connection, stage: Stage::Answered { more: MOST_READ } };
        let id = TurnedAwayId(self.turned_away.add(answered, self.now + PATIENCE));
        if let Some(known) = self.turned_away.get(id.0) {
            self.poll.modify(&known.connection, Token::TurnedAway(id), Interest::NEWS);
        }
        self.on_turned_away(id);
    }

    fn end_turned_away(&mut self, id: TurnedAwayId) {
        let Some(TurnedAway { connection, stage }) = self.turned_away.take(id.0) else { return };
        match stage {
            Stage::Silent => reset(connection),
            Stage::Answered { .. } => drop(connection),
        }
    }

    /// Returns when the next one has had its time.
    pub(super) fn next_turned_away_over(&self) -> Option<Instant> {
        self.turned_away.next_end()
    }

    /// Closes those that have had their time.
    pub(super) fn end_turned_away_over(&mut self) {
        while let Some(index) = self.turned_away.ended(self.now) {
            self.end_turned_away(TurnedAwayId(index));
        }
    }

    /// Closes those that have had the most time, at most so many.
    pub(super) fn end_oldest_turned_away(&mut self, count: usize) {
        for _ in 0..count {
            let Some(index) = self.turned_away.oldest() else { return };
            self.end_turned_away(TurnedAwayId(index));
        }
    }
}

/// Closes a connection so that its client sees that it was refused.
pub(super) fn reset(connection: OwnedFd) {
    // A Unix socket knows no reset: it is closed.
    let _no_tcp = SockRef::from(&connection).set_linger(Some(Duration::ZERO));
    drop(connection);
}

fn speech_of(connection: &OwnedFd) -> Speech {
    let mut buffer = [const { MaybeUninit::<u8>::uninit() }; LONGEST_METHOD + 1];
    match recv(connection, &mut buffer, RecvFlags::PEEK) {
        // It has closed its half without a word.
        Ok((([], _rest), _length)) => Speech::Other,
        Ok(((bytes, _rest), _length)) => speech(bytes),
        Err(Errno::AGAIN | Errno::INTR) => Speech::Unknown,
        Err(_broken) => Speech::Other,
    }
}

/// Recognises a request line by its method, which is a word before a space. HTTP/2 begins with `PRI *`.
fn speech(bytes: &[u8]) -> Speech {
    let word = bytes.iter().take_while(|byte| byte.is_ascii_alphabetic() || **byte == b'-').count();
    match bytes.get(word) {
        Some(b' ') if word > 0 && &bytes[..word] != b"PRI" => Speech::Http1,
        None if word <= LONGEST_METHOD => Speech::Unknown,
        Some(_) | None => Speech::Other,
    }
}

/// Throws away what the client sends; returns how much more may come, unless it is time to close.
fn read_off(connection: &OwnedFd, mut more: usize) -> Option<usize> {
    let mut unread = [0; 4096];
    loop {
        match rustix::io::read(connection, &mut unread) {
            Ok(0) => return None,
            Ok(length) => more = more.checked_sub(length)?,
            Err(Errno::AGAIN | Errno::INTR) => return Some(more),
            Err(_broken) => return None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_http1_is_answered() {
        for request in ["GET / HTTP/1.1\r\n", "POST /", "OPTIONS *", "M-SEARCH * HTTP/1.1"] {
            assert_eq!(speech(request.as_bytes()), Speech::Http1, "{request}");
        }
        for part in ["G", "GET", "PRI"] {
            assert_eq!(speech(part.as_bytes()), Speech::Unknown, "{part}");
        }
        for other in [
            &b"\x16\x03\x01\x02\x00"[..],
            b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
            b" GET /",
            b"\r\n\r\n\0\r\nQUIT\n",
            b"{\"id\":1}",
            b"ABCDEFGHIJKLMNOPQRSTUVWXYZ",
        ] {
            assert_eq!(speech(&other[..other.len().min(LONGEST_METHOD + 1)]), Speech::Other, "{other:?}");
        }
    }
}
