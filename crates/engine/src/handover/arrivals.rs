//! How connections come: from the kernel, and from workers that give them back.

use std::collections::VecDeque;
use std::time::Instant;

use super::choice::Wish;
use super::line::{Claim, Origin, Waiting};
use super::seat::Seat;
use super::{Choice, Deliver, LineId, SeatId, Switchboard};
use crate::sticky::Key;

/// How many connections of a listener may wait for the workers that their keys have chosen.
pub(super) const MOST_WAITING: usize = 1024;

/// A connection that comes from the kernel.
#[derive(Debug)]
pub(crate) struct Arrival<C> {
    connection: C,
    key: Option<Key>,
    counted: Counted,
}

/// When a connection is counted as accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Counted {
    Now,
    WhenLookedAt,
}

impl<C> Arrival<C> {
    /// Returns one that was just accepted.
    pub(crate) fn new(connection: C, key: Option<Key>) -> Self {
        Self { connection, key, counted: Counted::Now }
    }

    /// Returns one that was [looked at](Switchboard::look_at) until now.
    pub(crate) fn looked_at(connection: C, key: Option<Key>) -> Self {
        Self { connection, key, counted: Counted::WhenLookedAt }
    }
}

impl<C> Switchboard<C> {
    /// Returns true when a connection of this line would find a worker now.
    ///
    /// While it is false, connections are better left to the kernel's queue: what waits here is bounded by that. Where
    /// keys choose, some wait for busy workers; as long as they are few they hold up nobody else.
    /// It is false, too, while as many are open as may be.
    pub(crate) fn can_accept(&self, id: LineId, now: Instant) -> bool {
        let Some(line) = self.lines.get(&id) else { return false };
        match line.choice {
            _ if !self.has_room(id, Origin::Accepted) => false,
            Choice::InTurn | Choice::Least | Choice::Asked => {
                let mut takers = line.takers(Origin::Accepted, now, |seat| self.seat(seat));
                line.waiting.is_empty() && takers.next().is_some()
            }
            Choice::ByKey => {
                let within_limit = |seat| self.seat(seat).filter(|seat| !seat.is_at_limit())?.bidder();
                line.waiting.len() < MOST_WAITING && line.has_bidder(now, within_limit)
            }
        }
    }

    /// Counts a connection that was just accepted, and is looked at to find out where it belongs.
    pub(crate) fn look_at(&mut self, line: LineId) {
        self.count(line, |tally| tally.accepted += 1);
        if let Some(line) = self.lines.get_mut(&line) {
            line.looked_at += 1;
        }
    }

    /// Takes a connection from the kernel, which goes where its key belongs, if it has one.
    pub(crate) fn connect(
        &mut self,
        line: LineId,
        arrival: Arrival<C>,
        now: Instant,
        deliver: &mut impl Deliver<C>,
    ) {
        match (arrival.counted, self.lines.get_mut(&line)) {
            (Counted::Now, _) => self.count(line, |tally| tally.accepted += 1),
            (Counted::WhenLookedAt, Some(line)) => line.looked_at = line.looked_at.saturating_sub(1),
            (Counted::WhenLookedAt, None) => {}
        }
        let claim = Claim { origin: Origin::Accepted, wish: arrival.key.map_or(Wish::Anyone, Wish::Owner) };
        self.wait(line, Waiting::new(arrival.connection, claim, now), VecDeque::push_back);
        self.serve(now, deliver);
    }

    /// Takes a connection that the worker at `from` gave back: it had taken it before.
    ///
    /// Where keys choose, it stays with the slot; elsewhere it goes to a newer worker, if one takes it.
    pub(crate) fn take_over(
        &mut self,
        line: LineId,
        connection: C,
        from: SeatId,
        now: Instant,
        deliver: &mut impl Deliver<C>,
    ) {
        self.count(line, |tally| tally.moved += 1);
        let given = |wish| Waiting::new(connection, Claim { origin: Origin::Moved, wish }, now);
        let rest = match (self.lines.get(&line).map(|line| line.choice), self.seat(from)) {
            (Some(Choice::ByKey), Some(seat)) => Err(given(Wish::Slot(seat.slot))),
            (Some(Choice::InTurn | Choice::Least | Choice::Asked) | None, Some(seat)) => {
                let (rank, slot) = (seat.rank, seat.slot);
                let is_newer = |seat: &Seat<C>| seat.rank > rank;
                let is_successor = |seat: &Seat<C>| is_newer(seat) && seat.slot == slot;
                match self.hand(line, given(Wish::Anyone), is_successor, now, deliver) {
                    // Another newer one may be replaced itself soon; still it is more likely to stay than an older one.
                    Err(given) => self.hand(line, given, is_newer, now, deliver),
                    handed => handed,
                }
            }
            (_, None) => Err(given(Wish::Anyone)),
        };
        if let Err(given) = rest {
            self.wait(line, given, VecDeque::push_back);
        }
        self.serve(now, deliver);
    }
}
