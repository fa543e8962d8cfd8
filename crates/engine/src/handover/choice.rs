//! Which worker gets a connection that belongs somewhere.
//!
//! Connections with a key go to the slot that the key wants most (rendezvous hashing) of those that have a worker in
//! rotation. When it is busy they wait for it, and hold up nobody else. One that stands still, refuses, or was told to leave
//! is passed by; one that ended all of a sudden is waited for, for a while: its successor is on its way.

use std::time::{Duration, Instant};

use super::SeatId;
use super::line::{Line, Turn};
use crate::ids::Slot;
use crate::sticky::Key;

/// How long connections wait for the successor of a worker that ended all of a sudden.
const EXPECTED_FOR: Duration = Duration::from_secs(2);

/// How the workers of a listener share its connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Choice {
    /// One after the other.
    InTurn,
    /// By their keys.
    ByKey,
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

impl<C> Line<C> {
    /// Picks the member where the connection belongs; none when it has to wait for it.
    ///
    /// `bidder` tells of a worker whether it could be given connections, `load` how busy it is, and nothing when it takes
    /// no more.
    pub(super) fn pick_for(
        &self,
        wish: Wish,
        now: Instant,
        bidder: impl Fn(SeatId) -> Option<Bidder>,
        load: impl Fn(SeatId) -> Option<usize>,
    ) -> Option<Turn> {
        let bidders = || {
            self.willing(now)
                .filter_map(|(at, member)| Some((Turn { at, seat: member.seat }, bidder(member.seat)?)))
        };
        let expected = |slot: Slot| {
            let is_waited_for =
                |one: &&Expected| one.until > now && bidders().all(|(_, bidder)| bidder.slot != one.slot);
            self.expected.iter().filter(is_waited_for).any(|one| one.slot == slot)
        };
        let turn = match wish {
            Wish::Anyone => return self.pick(now, load),
            Wish::Owner(key) => {
                let weight = |slot: Slot| key.weight(slot.0);
                let (best, bidder) =
                    bidders().max_by_key(|(_, bidder)| (weight(bidder.slot), bidder.rank))?;
                let is_outbid = |one: &Expected| weight(one.slot) > weight(bidder.slot) && expected(one.slot);
                if self.expected.iter().any(is_outbid) {
                    return None;
                }
                best
            }
            Wish::Slot(slot) => {
                let of_slot = bidders().filter(|(_, bidder)| bidder.slot == slot);
                match of_slot.max_by_key(|(_, bidder)| bidder.rank) {
                    Some((turn, _)) => turn,
                    None if expected(slot) => return None,
                    None => return self.pick(now, load),
                }
            }
        };
        load(turn.seat).map(|_takes_one| turn)
    }

    /// Waits for the successor of a worker that ended.
    pub(super) fn expect(&mut self, slot: Slot, now: Instant) {
        if self.choice == Choice::InTurn {
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
