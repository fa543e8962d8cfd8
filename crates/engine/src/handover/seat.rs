//! A worker as the switchboard sees it.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use super::choice::Bidder;
use super::least::Habits;
use super::limits::Limits;
use super::line::{Claim, LineId, Origin};
use super::open::OpenCount;
use crate::balance::Candidate;
use crate::ids::{AppId, Slot};

/// A worker with a channel; the number is free for another one as soon as the seat is removed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct SeatId(pub(crate) usize);

/// A connection that a worker was given and has not answered.
#[derive(Debug)]
pub(super) struct Pending<C> {
    pub(super) seq: u64,
    pub(super) line: LineId,
    pub(super) connection: C,
    pub(super) since: Instant,
    pub(super) purpose: Purpose,
}

/// Whose connection it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Purpose {
    /// Some worker has to serve it.
    Client(Claim),
    /// The primary's own: it asks this worker and no other.
    Probe,
}

/// A handle message that a worker has not acknowledged.
#[derive(Clone, Copy, Debug)]
struct Sent {
    what: Handle,
    since: Instant,
}

/// What a handle message carried.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Handle {
    /// The connection sent as message number `seq`.
    Connection { seq: u64 },
    /// A shared listening socket.
    Other,
}

/// What the worker's channel takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Room {
    Free,
    /// Nothing for now.
    Full,
    /// Nothing ever again.
    Broken,
}

#[derive(Debug)]
pub(super) struct Seat<C> {
    pub(super) in_rotation: bool,
    /// What it owes counts from here on at the earliest.
    judged_from: Option<Instant>,
    pub(super) room: Room,
    /// The oldest hand-over was left alone for too long.
    pub(super) overdue: bool,
    /// It owes the answer to a ping, and others are quicker; or it rests.
    pub(super) still: bool,
    /// It leaves alone what waits for it, and knows no pings: until then it gets nothing new.
    pub(super) rests_until: Option<Instant>,
    window: usize,
    /// How new the worker is.
    pub(super) rank: u32,
    pub(super) slot: Slot,
    /// How many connections it has open.
    pub(super) open: OpenCount,
    /// What it has taken lately, and how quickly; nothing where nobody asks for it.
    pub(super) habits: Option<Habits>,
    /// How many it may have; nothing while that does not matter.
    pub(super) limits: Option<Limits>,
    /// What of it is in the sum of its app.
    pub(super) counted: Option<(AppId, u64)>,
    /// How many new connections it has taken.
    taken: u64,
    /// How many of them are news.
    enough: Option<u64>,
    /// What is not acknowledged, in the order of sending, which is the order of the acknowledgements.
    sent: VecDeque<Sent>,
    /// Since when it owes the answer to a ping.
    pub(super) pinged: Option<Instant>,
    /// When it was heard from last.
    heard_at: Option<Instant>,
    /// What is not answered, in the order of sending; answers come nearly in this order.
    pending: VecDeque<Pending<C>>,
}

impl<C> Seat<C> {
    pub(super) fn new(window: usize, rank: u32, slot: Slot) -> Self {
        Self {
            in_rotation: false,
            judged_from: None,
            room: Room::Free,
            overdue: false,
            still: false,
            rests_until: None,
            window: window.max(1),
            rank,
            slot,
            open: OpenCount::default(),
            habits: None,
            limits: None,
            counted: None,
            taken: 0,
            enough: None,
            sent: VecDeque::new(),
            pinged: None,
            heard_at: None,
            pending: VecDeque::new(),
        }
    }

    /// Returns true when the worker can be given a connection now that comes from there.
    ///
    /// What is not acknowledged counts against the window too: a worker that answers and never acknowledges
    /// would make `sent` grow without end.
    pub(super) fn takes_more(&self, origin: Origin) -> bool {
        let is_within_limit = match origin {
            Origin::Accepted => !self.is_at_limit(),
            Origin::Moved => true,
        };
        is_within_limit
            && self.in_rotation
            && self.room == Room::Free
            && !self.overdue
            && !self.still
            && self.pending.len().max(self.sent.len()) < self.window
    }

    /// Returns how many connections the worker has, as far as that is known, with those that it has not answered.
    pub(super) fn connections(&self, now: Instant) -> u64 {
        self.open(now) + self.pending.len() as u64
    }

    /// Returns how many connections the worker has open, estimated where it does not tell.
    fn open(&self, now: Instant) -> u64 {
        if self.open.is_reported {
            self.open.most()
        } else {
            self.habits.map_or(0, |habits| habits.lately.count(now))
        }
    }

    /// Returns what others may know of the worker who choose for us.
    pub(super) fn candidate(&self, is_late: bool, now: Instant) -> Candidate {
        Candidate {
            slot: self.slot,
            number: self.rank,
            unanswered: self.unanswered(),
            open: self.open(now),
            delay: self.habits.map_or(Duration::ZERO, |habits| habits.pace.delay(now)),
            is_late,
        }
    }

    /// Returns what the worker is as one that could be given connections, busy or not.
    pub(super) fn bidder(&self) -> Option<Bidder> {
        let serves = self.in_rotation && self.room != Room::Broken && !self.overdue && !self.still;
        serves.then_some(Bidder { slot: self.slot, rank: self.rank })
    }

    /// Lets a full channel be tried once more.
    pub(super) fn retry_when_full(&mut self) {
        match self.room {
            Room::Full => self.room = Room::Free,
            Room::Free | Room::Broken => {}
        }
    }

    /// Ends a rest that is over.
    pub(super) fn end_rest(&mut self, now: Instant) {
        if self.rests_until.take_if(|until| *until <= now).is_some() {
            self.still = false;
        }
    }

    pub(super) fn unanswered(&self) -> usize {
        self.pending.len()
    }

    /// Forgives how long the worker has owed what it owes.
    pub(super) fn judge_from(&mut self, now: Instant) {
        self.judged_from = Some(now);
    }

    /// Returns since when the worker owes its oldest acknowledgement or answer, also to a ping.
    pub(super) fn owes_since(&self) -> Option<Instant> {
        let unacknowledged = self.sent.front().map(|sent| sent.since);
        let unanswered = self.pending.front().map(|pending| pending.since);
        let oldest = [unacknowledged, unanswered, self.pinged].into_iter().flatten().min()?;
        Some(self.judged_from.map_or(oldest, |from| oldest.max(from)))
    }

    /// Returns since when the worker owes something and has shown no sign of life.
    pub(super) fn silent_since(&self) -> Option<Instant> {
        self.owes_since().map(|since| self.heard_at.map_or(since, |at| since.max(at)))
    }

    /// Notes a sign of life: what it has answered shows that it reads its channel.
    pub(super) fn heard(&mut self, now: Instant) {
        self.heard_at = Some(now);
    }

    pub(super) fn hand(&mut self, pending: Pending<C>) {
        self.note_sent(Handle::Connection { seq: pending.seq }, pending.since);
        self.pending.push_back(pending);
    }

    pub(super) fn note_sent(&mut self, what: Handle, since: Instant) {
        self.sent.push_back(Sent { what, since });
    }

    /// Takes what the next acknowledgement, positive or negative, is about.
    pub(super) fn take_oldest_sent(&mut self) -> Option<Handle> {
        self.sent.pop_front().map(|sent| sent.what)
    }

    pub(super) fn take(&mut self, seq: u64) -> Option<Pending<C>> {
        let at = self.pending.iter().position(|pending| pending.seq == seq)?;
        self.pending.remove(at)
    }

    /// Learns from a connection that the worker has taken, which it was given at `since`.
    pub(super) fn learn(&mut self, since: Instant, now: Instant) {
        if let Some(habits) = &mut self.habits {
            habits.pace.learn(now.saturating_duration_since(since), now);
            habits.lately.add(now);
        }
        self.open.add();
    }

    /// Lets [`note_taken`](Self::note_taken) tell when this many new connections were taken.
    pub(super) fn count_to(&mut self, connections: u64) {
        self.enough = Some(connections);
    }

    /// Counts a connection that the worker took, and returns how many they are when these are enough.
    ///
    /// Those of other workers do not count: long-lived ones would wear out one worker after the other.
    pub(super) fn note_taken(&mut self, claim: Claim) -> Option<u64> {
        match claim.origin {
            Origin::Accepted => self.taken += 1,
            Origin::Moved => return None,
        }
        (self.enough == Some(self.taken)).then_some(self.taken)
    }

    pub(super) fn pending(&self) -> impl Iterator<Item = &Pending<C>> {
        self.pending.iter()
    }

    pub(super) fn window(&self) -> usize {
        self.window
    }

    pub(super) fn into_pending(self) -> impl DoubleEndedIterator<Item = Pending<C>> {
        self.pending.into_iter()
    }
}
