//! Lines whose workers somebody else chooses: a policy of the program's own.

use std::time::Instant;

use super::choice::{Choice, Wish};
use super::line::{Line, Turn, Waiting};
use super::seat::{Seat, SeatId};
use super::{Deliver, LineId};
use crate::balance::Candidate;

impl<C> Line<C> {
    /// Asks for the member that gets a connection, of those that take one; nothing without an answer that can be used.
    pub(super) fn ask<'s>(
        &self,
        id: LineId,
        waiting: &Waiting<C>,
        now: Instant,
        seats: impl Fn(SeatId) -> Option<&'s Seat<C>>,
        deliver: &mut impl Deliver<C>,
    ) -> Option<Turn>
    where
        C: 's,
    {
        if self.choice != Choice::Asked || waiting.claim.wish != Wish::Anyone {
            return None;
        }
        let origin = waiting.claim.origin;
        let is_late = self.late(origin, now, &seats);
        let takers = self.takers(origin, now, &seats);
        let (turns, candidates): (Vec<Turn>, Vec<Candidate>) =
            takers.map(|(turn, seat)| (turn, seat.candidate(is_late(seat), now))).unzip();
        if candidates.is_empty() {
            return None;
        }
        let chosen = deliver.advise(id, &waiting.connection, &candidates)?;
        turns.get(chosen).copied()
    }
}
