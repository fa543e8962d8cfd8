//! epoll and a way to interrupt it.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, epoll, eventfd, poll};
use rustix::io::Errno;

use super::looking::LookedId;
use super::port::EntranceId;
use super::turning_away::TurnedAwayId;
use crate::handover::{LineId, SeatId};

/// How many events one wait returns; more come with the next.
const BATCH: usize = 128;
/// The shortest time that `epoll_wait` can wait.
const COARSE: Duration = Duration::from_millis(1);

/// What is registered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Token {
    Wake,
    /// A connection has come where workers accept without our hearing of it.
    Arrivals,
    Peer(SeatId),
    Entrance(EntranceId),
    Looked(LookedId),
    TurnedAway(TurnedAwayId),
}

impl Token {
    fn encode(self) -> epoll::EventData {
        let (kind, index) = match self {
            Self::Wake => (0, 0),
            Self::Arrivals => (0, 1),
            Self::Peer(seat) => (1, seat.0),
            Self::Looked(looked) => (2, looked.0),
            Self::TurnedAway(turned_away) => (3, turned_away.0),
            Self::Entrance(EntranceId { line, index }) => (4 + index as u64, line.0),
        };
        epoll::EventData::new_u64(kind << 32 | index as u64)
    }

    fn decode(data: epoll::EventData) -> Self {
        let index = (data.u64() & u64::from(u32::MAX)) as usize;
        match data.u64() >> 32 {
            0 if index == 0 => Self::Wake,
            0 => Self::Arrivals,
            1 => Self::Peer(SeatId(index)),
            2 => Self::Looked(LookedId(index)),
            3 => Self::TurnedAway(TurnedAwayId(index)),
            entrance => Self::Entrance(EntranceId { line: LineId(index), index: (entrance - 4) as usize }),
        }
    }
}

/// A registered thing that can be read, written or both, or has ended.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ready {
    pub(super) token: Token,
    pub(super) writable: bool,
    /// Nothing more will come: the other end is closed, or the connection is broken.
    pub(super) closed: bool,
}

/// What to wait for. Errors and hang-ups are reported in any case.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Interest {
    pub(super) read: bool,
    pub(super) write: bool,
    pub(super) repeat: Repeat,
}

/// How often the same is reported.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Repeat {
    /// As long as it is so.
    Always,
    /// When there is more of it.
    News,
    /// Once, and then nothing until it is asked for again.
    Never,
}

impl Interest {
    pub(super) const READ: Self = Self { read: true, write: false, repeat: Repeat::Always };
    /// More to read each time.
    pub(super) const NEWS: Self = Self { read: true, write: false, repeat: Repeat::News };
    pub(super) const READ_ONCE: Self = Self { read: true, write: false, repeat: Repeat::Never };
    pub(super) const NONE: Self = Self { read: false, write: false, repeat: Repeat::Always };

    fn flags(self) -> epoll::EventFlags {
        let mut flags = epoll::EventFlags::empty();
        flags.set(epoll::EventFlags::IN, self.read);
        flags.set(epoll::EventFlags::OUT, self.write);
        match self.repeat {
            Repeat::Always => {}
            Repeat::News => flags.insert(epoll::EventFlags::ET),
            Repeat::Never => flags.insert(epoll::EventFlags::ONESHOT),
        }
        flags
    }
}

/// An epoll instance with an eventfd that interrupts it.
#[derive(Debug)]
pub(super) struct Poll {
    epoll: OwnedFd,
    waker: Arc<Waker>,
}

/// Interrupts the wait of a [`Poll`] from any thread.
#[derive(Debug)]
pub(super) struct Waker(OwnedFd);

impl Waker {
    pub(super) fn wake(&self) {
        // Full means that a wake-up is pending already.
        let _pending = rustix::io::write(&self.0, &1_u64.to_ne_bytes());
    }
}

impl Poll {
    pub(super) fn new() -> io::Result<Self> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        let waker = Waker(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?);
        let poll = Self { epoll, waker: Arc::new(waker) };
        poll.add(&poll.waker.0, Token::Wake, Interest::READ)?;
        Ok(poll)
    }

    pub(super) fn waker(&self) -> Arc<Waker> {
        Arc::clone(&self.waker)
    }

    pub(super) fn clear_wake(&self) {
        let mut count = [0; 8];
        let _empty = rustix::io::read(&self.waker.0, &mut count);
    }

    pub(super) fn add(&self, fd: impl AsFd, token: Token, interest: Interest) -> io::Result<()> {
        Ok(epoll::add(&self.epoll, fd, token.encode(), interest.flags())?)
    }

    pub(super) fn modify(&self, fd: impl AsFd, token: Token, interest: Interest) {
        let changed = epoll::modify(&self.epoll, fd, token.encode(), interest.flags());
        debug_assert!(changed.is_ok(), "only what was added is modified: {changed:?}");
    }

    /// Must come before the descriptor is closed or handed over: the registration lives with the socket.
    pub(super) fn remove(&self, fd: impl AsFd) {
        let removed = epoll::delete(&self.epoll, fd);
        debug_assert!(removed.is_ok(), "only what was added is removed: {removed:?}");
    }

    /// Waits for less than what `epoll_wait` can count, which is whole milliseconds. Returns what is left to wait; nothing
    /// when it is over and there is nothing to ask for.
    ///
    /// `epoll_pwait2` counts finer, but only since Linux 5.11, and not where a container's filter does not know it.
    fn wait_finely(&self, timeout: Duration) -> Option<Duration> {
        if timeout.is_zero() || timeout >= COARSE {
            return Some(timeout);
        }
        let timespec = Timespec::try_from(timeout).ok()?;
        match poll(&mut [PollFd::new(&self.epoll, PollFlags::IN)], Some(&timespec)) {
            Ok(0) => None,
            // Also after a signal: the epoll itself knows what is ready.
            Ok(_) | Err(_) => Some(Duration::ZERO),
        }
    }

    /// Waits until something is ready or the time is over, and appends what is ready.
    pub(super) fn wait(&self, timeout: Option<Duration>, ready: &mut Vec<Ready>) {
        let rest = match timeout.map(|timeout| self.wait_finely(timeout)) {
            None => None,
            Some(Some(rest)) => Timespec::try_from(rest).ok(),
            Some(None) => return,
        };
        let mut room = [const { MaybeUninit::uninit() }; BATCH];
        let events = match epoll::wait(&self.epoll, &mut room[..], rest.as_ref()) {
            Ok((events, _rest)) => events,
            // A signal: the caller looks at the time and comes back.
            Err(Errno::INTR) => return,
            Err(error) => unreachable!("invariant: waiting on an own epoll instance cannot fail: {error}"),
        };
        ready.extend(events.iter().map(|event| {
            // The kernel's struct is packed: its fields can be copied, not borrowed.
            let flags = event.flags;
            Ready {
                token: Token::decode(event.data),
                writable: flags.contains(epoll::EventFlags::OUT),
                closed: flags.intersects(epoll::EventFlags::HUP | epoll::EventFlags::ERR),
            }
        }));
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;

    #[test]
    fn less_than_a_millisecond_is_waited_for_as_such() {
        let poll = Poll::new().expect("a poll");
        let mut ready = Vec::new();
        let mut waited = || {
            let begin = Instant::now();
            poll.wait(Some(Duration::from_micros(200)), &mut ready);
            begin.elapsed()
        };
        // The quickest of many: a busy machine can only make it longer.
        let quickest = (0..200).map(|_| waited()).min().expect("some");
        assert!(quickest >= Duration::from_micros(200), "{quickest:?}");
        assert!(quickest < COARSE, "{quickest:?}");
    }

    #[test]
    fn what_is_ready_ends_a_short_wait() {
        let poll = Poll::new().expect("a poll");
        poll.waker().wake();
        let mut ready = Vec::new();
        poll.wait(Some(Duration::from_micros(900)), &mut ready);
        assert_eq!(ready.iter().map(|ready| ready.token).collect::<Vec<_>>(), [Token::Wake]);
    }
}
