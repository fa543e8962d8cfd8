//! A connection of the primary's own, for one worker only.

use std::time::Instant;

use super::seat::{Pending, Purpose, Room};
use super::watch::CHECK_EVERY;
use super::{Deliver, Delivery, LineId, SeatId, Switchboard};

/// Whether a probe is on its way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ProbeSent {
    /// [`Notice::Probed`](super::Notice::Probed) tells what the worker says, unless it is removed before.
    Yes,
    /// The worker has not answered what it was given before.
    Busy,
    /// Its channel takes nothing now.
    Full,
}

impl<C> Switchboard<C> {
    /// Hands a connection to this worker, in rotation or not. It counts nowhere, and no other worker ever gets it: what
    /// is refused or left behind is dropped.
    pub(crate) fn probe(
        &mut self,
        line: LineId,
        id: SeatId,
        connection: C,
        now: Instant,
        deliver: &mut impl Deliver<C>,
    ) -> ProbeSent {
        let seq = self.next_seq;
        let Some(seat) = self.seat_mut(id) else { return ProbeSent::Full };
        if seat.unanswered() > 0 {
            return ProbeSent::Busy;
        }
        if seat.room != Room::Free {
            return ProbeSent::Full;
        }
        match deliver.deliver(id, line, seq, &connection) {
            Delivery::Sent => {
                seat.hand(Pending { seq, line, connection, since: now, purpose: Purpose::Probe });
                self.next_seq += 1;
                self.recount(id);
                self.next_check.get_or_insert(now + CHECK_EVERY);
                return ProbeSent::Yes;
            }
            Delivery::Full => seat.room = Room::Full,
            Delivery::Broken => seat.room = Room::Broken,
        }
        self.next_check.get_or_insert(now + CHECK_EVERY);
        ProbeSent::Full
    }
}
