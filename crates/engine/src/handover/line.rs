//! A listener as the switchboard sees it.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use super::seat::SeatId;

/// How long a worker that refused a connection gets no other of the same listener; doubled by each refusal
/// in a row. Without it a connection that nobody takes would bounce between the workers in a busy loop.
const FIRST_BACK_OFF: Duration = Duration::from_millis(1);
const LONGEST_BACK_OFF: Duration = Duration::from_millis(128);

/// A listener whose connections the primary accepts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct LineId(pub(crate) usize);

#[derive(Debug)]
pub(super) struct Line<C> {
    pub(super) members: Vec<Member>,
    /// Whose turn it is: an index into `members`, one past the last one that was picked.
    pub(super) next: usize,
    pub(super) waiting: VecDeque<Waiting<C>>,
}

/// A connection that no worker could take.
#[derive(Debug)]
pub(super) struct Waiting<C> {
    pub(super) connection: C,
    /// The worker that just refused it.
    pub(super) not_to: Option<SeatId>,
}

/// A worker that has a server for the line open.
#[derive(Debug)]
pub(super) struct Member {
    pub(super) seat: SeatId,
    refusals: u32,
    closed_until: Option<Instant>,
}

impl Member {
    /// Returns true when the worker did not just refuse a connection of this line.
    pub(super) fn open(&self, now: Instant) -> bool {
        self.closed_until.is_none_or(|until| until <= now)
    }
}

impl<C> Line<C> {
    pub(super) fn new() -> Self {
        Self { members: Vec::new(), next: 0, waiting: VecDeque::new() }
    }

    pub(super) fn join(&mut self, seat: SeatId) {
        debug_assert!(
            self.members.iter().all(|member| member.seat != seat),
            "a worker has one server per key"
        );
        self.members.push(Member { seat, refusals: 0, closed_until: None });
    }

    pub(super) fn leave(&mut self, seat: SeatId) {
        if let Some(at) = self.members.iter().position(|member| member.seat == seat) {
            self.members.remove(at);
            if at < self.next {
                self.next -= 1;
            }
        }
    }

    /// Returns the members from the one whose turn it is, with their indexes.
    pub(super) fn in_turn(&self) -> impl Iterator<Item = (usize, &Member)> {
        let start = if self.next < self.members.len() { self.next } else { 0 };
        let (before, from) = self.members.split_at(start);
        from.iter().enumerate().map(move |(at, member)| (at + start, member)).chain(before.iter().enumerate())
    }

    pub(super) fn accepted_by(&mut self, seat: SeatId) {
        if let Some(member) = self.member_mut(seat) {
            member.refusals = 0;
        }
    }

    pub(super) fn refused_by(&mut self, seat: SeatId, now: Instant) {
        if let Some(member) = self.member_mut(seat) {
            let back_off = FIRST_BACK_OFF.saturating_mul(1 << member.refusals.min(16)).min(LONGEST_BACK_OFF);
            member.refusals += 1;
            member.closed_until = Some(now + back_off);
        }
    }

    /// Forgets back-offs that are over.
    pub(super) fn reopen(&mut self, now: Instant) {
        for member in &mut self.members {
            member.closed_until = member.closed_until.filter(|until| *until > now);
        }
    }

    /// Returns when the first back-off is over.
    pub(super) fn next_retry(&self) -> Option<Instant> {
        self.members.iter().filter_map(|member| member.closed_until).min()
    }

    fn member_mut(&mut self, seat: SeatId) -> Option<&mut Member> {
        self.members.iter_mut().find(|member| member.seat == seat)
    }
}
