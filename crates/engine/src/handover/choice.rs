//! Which worker gets a connection that belongs somewhere.
//!
//! Connections with a key go to the slot that the key wants most (rendezvous hashing) of those that have a worker in
//! rotation. When it is busy they wait for it, and hold up nobody else. One that stands still, refuses, or was told to leave
//! is passed by; one that ended all of a sudden is waited for, for a while: its successor is on its way.

use std::time::{Duration, Instant};

use super::SeatId;
use super::line::{Claim, Line, Turn};
use super::seat::Seat;
use crate::ids::Slot;
use crate::sticky::Key;

/// How long connections wait for the successor of a worker that ended all of a sudden.
pub(super) const EXPECTED_FOR: Duration = Duration::from_secs(2);

/// How the workers of a listener share its connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Choice {
    /// One after the other.
    InTurn,
    /// By who has least to do.
    Least,
    /// By their keys.
    ByKey,
    /// As somebody else says, who is [asked](super::Deliver::advise); in turn otherwise.
    Asked,
}

impl Choice {
    /// Returns true when it matters what workers have taken lately, and how quickly.
    pub(super) fn asks_for_habits(self) -> bool {
        match self {
            Self::Least | Self::Asked => true,
            Self::InTurn | Self::ByKey => false,
        }
    }
}

/// Where a connection belongs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wish {
    /// To any worker.
    Anyone,
    /// To the slot that its key wants most.
    Owner(Key),
    /// To this one: it was there before.
    Slot(Slot),
}

/// A slot whose worker has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Expected {
    slot: Slot,
    until: Instant,
}

/// A worker that could be given connections, busy or not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Bidder {
    pub(super) slot: Slot,
    pub(super) rank: u32,
}

/// Whom a connection waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Awaited {
    /// The first one that takes it.
    Anyone,
    /// This one, which takes no more for now.
    Worker(SeatId),
    /// Somebody who is not there yet.
    Newcomer,
}

/// Whom connections with keys choose from. As long as it is the same, each of them waits for the same worker.
#[derive(Debug, Default)]
pub(super) struct Crowd {
    bidders: Vec<(SeatId, Bidder)>,
    /// Slots whose next worker is waited for.
    expected: Vec<Slot>,
}

impl<C> Line<C> {
    /// Picks the member where the connection belongs, or whom it has to wait for. `seats` tells of the workers that come
    /// into question.
    pub(super) fn pick_for<'s>(
        &self,
        claim: Claim,
        now: Instant,
        seats: impl Fn(SeatId) -> Option<&'s Seat<C>>,
    ) -> Result<Turn, Awaited>
    where
        C: 's,
    {
        let Claim { origin, wish } = claim;
        let bidder = |id| seats(id)?.bidder();
        let (best, expected) = match wish {
            Wish::Anyone => (None, None),
            Wish::Owner(key) => {
                let weight = |slot: Slot| key.weight(slot.0);
                let best = self.bidders(now, &bidder).max_by_key(|(_, one)| (weight(one.slot), one.rank));
                let expected = self.expected(now, &bidder).max_by_key(|slot| weight(*slot));
                let is_outbid = |slot: &Slot| best.is_none_or(|(_, one)| weight(*slot) > weight(one.slot));
                (best, expected.filter(is_outbid))
            }
            Wish::Slot(slot) => {
                let of_slot = self.bidders(now, &bidder).filter(|(_, one)| one.slot == slot);
                (
                    of_slot.max_by_key(|(_, one)| one.rank),
                    self.expected(now, &bidder).find(|one| *one == slot),
                )
            }
        };
        match (wish, best, expected) {
            (_, _, Some(_)) | (Wish::Owner(_), None, None) => Err(Awaited::Newcomer),
            (_, Some((turn, _)), None) => {
                let takes_one = seats(turn.seat).is_some_and(|seat| seat.takes_more(origin));
                if takes_one { Ok(turn) } else { Err(Awaited::Worker(turn.seat)) }
            }
            (Wish::Anyone | Wish::Slot(_), None, None) => {
                self.pick(origin, now, seats).ok_or(Awaited::Anyone)
            }
        }
    }

    /// Returns true when a connection of this slot, given back, would stand behind others that wait for a worker.
    pub(super) fn is_congested(&self, slot: Slot, slot_of: impl Fn(SeatId) -> Option<Slot>) -> bool {
        self.waiting.iter().any(|waiting| match waiting.awaited {
            Awaited::Anyone => true,
            Awaited::Worker(seat) => slot_of(seat) == Some(slot),
            // Of a slot without a worker, to which nobody gives any.
            Awaited::Newcomer => false,
        })
    }

    /// Lets connections that wait by key choose anew when there are others to choose from; returns whether there are.
    pub(super) fn look_round(&mut self, now: Instant, bidder: impl Fn(SeatId) -> Option<Bidder>) -> bool {
        if self.choice != Choice::ByKey || self.waiting.is_empty() {
            return false;
        }
        if self.is_the_same_crowd(now, &bidder) {
            return false;
        }
        let crowd = Crowd {
            bidders: self.bidders(now, &bidder).map(|(turn, bidder)| (turn.seat, bidder)).collect(),
            expected: self.expected(now, &bidder).collect(),
        };
        self.crowd = crowd;
        self.waiting.iter_mut().for_each(|waiting| waiting.awaited = Awaited::Anyone);
        true
    }

    /// It is asked for each answer of a worker, so nothing is allocated to find out.
    fn is_the_same_crowd(&self, now: Instant, bidder: impl Fn(SeatId) -> Option<Bidder>) -> bool {
        let bidders = self.bidders(now, &bidder).map(|(turn, bidder)| (turn.seat, bidder));
        self.crowd.bidders.iter().copied().eq(bidders)
            && self.crowd.expected.iter().copied().eq(self.expected(now, &bidder))
    }

    /// Returns true when somebody is there to choose from, busy or not.
    pub(super) fn has_bidder(&self, now: Instant, bidder: impl Fn(SeatId) -> Option<Bidder>) -> bool {
        self.bidders(now, bidder).next().is_some()
    }

    fn bidders(
        &self,
        now: Instant,
        bidder: impl Fn(SeatId) -> Option<Bidder>,
    ) -> impl Iterator<Item = (Turn, Bidder)> {
        self.willing(now)
            .filter_map(move |(at, member)| Some((Turn { at, seat: member.seat }, bidder(member.seat)?)))
    }

    /// Returns the slots whose next worker is waited for.
    fn expected(
        &self,
        now: Instant,
        bidder: impl Fn(SeatId) -> Option<Bidder>,
    ) -> impl Iterator<Item = Slot> {
        let is_waited_for = move |one: &&Expected| {
            one.until > now && self.bidders(now, &bidder).all(|(_, bidder)| bidder.slot != one.slot)
        };
        self.expected.iter().filter(is_waited_for).map(|one| one.slot)
    }

    /// Waits for the successor of a worker that ended.
    pub(super) fn expect(&mut self, slot: Slot, now: Instant) {
        if self.choice != Choice::ByKey {
            return;
        }
        self.expected.retain(|one| one.slot != slot);
        self.expected.push(Expected { slot, until: now + EXPECTED_FOR });
    }

    /// Waits no more for what did not come.
    pub(super) fn end_expectations(&mut self, now: Instant) {
        self.expected.retain(|one| one.until > now);
    }

    /// Returns when the first successor is waited for no more.
    pub(super) fn next_disappointment(&self) -> Option<Instant> {
        self.expected.iter().map(|one| one.until).min()
    }
}
