//! What the switchboard asks of the data plane, and what it tells.

use std::iter::Sum;
use std::ops::AddAssign;
use std::time::Duration;

use super::{LineId, SeatId};
use crate::balance::Candidate;

/// Carries one connection to a worker.
pub(crate) trait Deliver<C> {
    /// Sends the connection for the line to the worker at the seat, as message number `seq`.
    ///
    /// A number that was not [`Sent`](Delivery::Sent) is used again; one that was never comes again.
    fn deliver(&mut self, seat: SeatId, line: LineId, seq: u64, connection: &C) -> Delivery;

    /// Returns which of these workers gets a connection of a line by [`Choice::Asked`](super::Choice::Asked); nothing, or an
    /// index that is none, for the next in turn.
    fn advise(&mut self, line: LineId, connection: &C, workers: &[Candidate]) -> Option<usize>;
}

/// What became of a delivery.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Delivery {
    /// It is on its way.
    Sent,
    /// The worker's channel takes nothing now; it is tried again when the worker is heard from, at
    /// [`Switchboard::writable`](super::Switchboard::writable), and at the next check in any case.
    Full,
    /// The channel is broken; the seat will be removed soon.
    Broken,
}

/// Something that others have to know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Notice {
    /// The worker has left its oldest hand-over alone for this long; it gets no new ones.
    Overdue(SeatId, Duration),
    /// The worker has caught up, or is judged anew, and gets hand-overs again.
    Answering(SeatId),
    /// The worker has answered the connection of a probe.
    Probed { seat: SeatId, accepted: bool },
    /// The worker has taken as many new connections as were [counted](super::Switchboard::count_to): this many.
    TookEnough(SeatId, u64),
    /// The worker has taken a connection and does not say how many it has: no limit is kept for it.
    Uncounted(SeatId),
}

/// What happened to connections so far.
///
/// What was accepted or moved, and neither handed over nor dropped, is still held.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Accepted from the kernel.
    pub accepted: u64,
    /// Given back by a worker that had taken it, while nothing was going on on it.
    pub moved: u64,
    /// Taken by a worker: the first of the two ways to end.
    pub handed_over: u64,
    /// Closed before a worker took them, because their listener was, or nobody was ready for too long: the second one.
    pub dropped: u64,
    /// Closed, some with an answer, because as many were open as may be; never offered to a worker.
    pub turned_away: u64,
    /// Refusals by workers, and deliveries that failed there (`accepted: false`, NACK).
    pub refused: u64,
    /// Taken back from a worker, after a refusal or at its end, and offered again.
    pub redispatched: u64,
}

impl AddAssign for Tally {
    fn add_assign(&mut self, more: Self) {
        let Self { accepted, moved, handed_over, dropped, turned_away, refused, redispatched } = more;
        self.accepted += accepted;
        self.moved += moved;
        self.handed_over += handed_over;
        self.dropped += dropped;
        self.turned_away += turned_away;
        self.refused += refused;
        self.redispatched += redispatched;
    }
}

impl Sum for Tally {
    fn sum<I: Iterator<Item = Self>>(tallies: I) -> Self {
        tallies.fold(Self::default(), |mut sum, more| {
            sum += more;
            sum
        })
    }
}
