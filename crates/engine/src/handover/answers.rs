//! What workers answer to what they were handed.

use std::collections::VecDeque;
use std::time::Instant;

use super::line::{Claim, Waiting};
use super::seat::{Pending, Purpose};
use super::{Deliver, Handle, Notice, SeatId, Switchboard};

impl<C> Switchboard<C> {
    /// Handles a worker's `NODE_HANDLE_ACK`: the oldest handle on its way arrived. Returns which, if there was one.
    pub(crate) fn acked(
        &mut self,
        id: SeatId,
        now: Instant,
        deliver: &mut impl Deliver<C>,
    ) -> Option<Handle> {
        let arrived = self.seat_mut(id)?.take_oldest_sent()?;
        self.heard_from(id, now);
        self.serve(now, deliver);
        Some(arrived)
    }

    /// Handles a worker's `NODE_HANDLE_NACK`: the oldest handle on its way did not arrive. Returns which, if there
    /// was one; a connection is offered again, whatever else it was is the caller's.
    pub(crate) fn nacked(
        &mut self,
        id: SeatId,
        now: Instant,
        deliver: &mut impl Deliver<C>,
    ) -> Option<Handle> {
        let seat = self.seat_mut(id)?;
        let lost = seat.take_oldest_sent()?;
        match lost {
            Handle::Connection { seq } => {
                if let Some(pending) = seat.take(seq) {
                    self.answered(pending, id, false, now);
                }
            }
            Handle::Other => {}
        }
        self.heard_from(id, now);
        self.serve(now, deliver);
        Some(lost)
    }

    /// Handles a worker's answer to the connection sent as `seq`. `false`: it has no such connection.
    pub(crate) fn replied(
        &mut self,
        id: SeatId,
        seq: u64,
        accepted: bool,
        now: Instant,
        deliver: &mut impl Deliver<C>,
    ) -> bool {
        let Some(pending) = self.seat_mut(id).and_then(|seat| seat.take(seq)) else {
            return false;
        };
        self.answered(pending, id, accepted, now);
        self.heard_from(id, now);
        self.serve(now, deliver);
        true
    }

    /// Draws the conclusions of a worker's answer to a connection.
    fn answered(&mut self, pending: Pending<C>, by: SeatId, accepted: bool, now: Instant) {
        self.note_answered(pending.since);
        if accepted {
            self.note_open(by, pending.since, now);
        }
        self.recount(by);
        match (pending.purpose, accepted) {
            (Purpose::Probe, _) => self.notices.push(Notice::Probed { seat: by, accepted }),
            (Purpose::Client(claim), true) => {
                self.count(pending.line, |tally| tally.handed_over += 1);
                if let Some(taken) = self.seat_mut(by).and_then(|seat| seat.note_taken(claim)) {
                    self.notices.push(Notice::TookEnough(by, taken));
                }
                if let Some(line) = self.lines.get_mut(&pending.line) {
                    line.answered_by(by, pending.since, true, now);
                }
            }
            (Purpose::Client(claim), false) => self.refuse(pending, claim, by, now),
        }
    }

    /// Lets the worker rest from this line and offers the connection again, behind those that nobody refused:
    /// one that everybody refuses must not stand in the way of the others.
    fn refuse(&mut self, pending: Pending<C>, claim: Claim, by: SeatId, now: Instant) {
        self.count(pending.line, |tally| tally.refused += 1);
        if let Some(line) = self.lines.get_mut(&pending.line) {
            line.answered_by(by, pending.since, false, now);
        }
        self.take_back(pending, claim, VecDeque::push_back);
    }

    /// Offers a connection again that its worker did not take.
    pub(super) fn take_back(
        &mut self,
        pending: Pending<C>,
        claim: Claim,
        queue: impl FnOnce(&mut VecDeque<Waiting<C>>, Waiting<C>),
    ) {
        if self.lines.contains_key(&pending.line) {
            self.count(pending.line, |tally| tally.redispatched += 1);
        }
        self.wait(pending.line, Waiting::new(pending.connection, claim, pending.since), queue);
    }
}
