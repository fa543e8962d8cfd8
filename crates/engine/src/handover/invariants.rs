//! What always holds between two calls.

use std::collections::BTreeSet;
use std::time::Instant;

use super::limits::Engaged;
use super::seat::{Pending, Purpose, Room};
use super::{SeatId, Switchboard};

impl<C> Switchboard<C> {
    /// Checks everything that holds when all that could be served is served; debug builds do so each time.
    ///
    /// # Panics
    ///
    /// Panics when the switchboard contradicts itself, which nothing from outside can cause.
    pub(super) fn check_invariants(&self, now: Instant) {
        self.check_every_connection_is_somewhere();
        self.check_nobody_waits_in_vain(now);
        self.check_sums();
        for (index, seat) in self.seats.iter().enumerate() {
            let Some(seat) = seat else { continue };
            assert!(seat.unanswered() <= seat.window(), "more hand-overs than the window of seat {index}");
            let seqs: Vec<u64> = seat.pending().map(|pending| pending.seq).collect();
            assert!(seqs.is_sorted_by(|a, b| a < b), "hand-overs are kept in the order of sending: {seqs:?}");
            assert!(seqs.last().is_none_or(|last| *last < self.next_seq), "a number that is not given yet");
            let is_watched = seat.in_rotation && !seat.overdue && seat.owes_since().is_some();
            let is_retried = seat.room == Room::Full;
            assert!(self.next_check.is_some() || !(is_watched || is_retried), "nobody looks at seat {index}");
        }
    }

    fn check_every_connection_is_somewhere(&self) {
        let waiting: usize = self.lines.values().map(|line| line.waiting.len()).sum();
        let looked_at: u64 = self.lines.values().map(|line| line.looked_at).sum();
        let pending = self.seats.iter().flatten().flat_map(super::Seat::pending);
        let of_clients = |pending: &&Pending<C>| matches!(pending.purpose, Purpose::Client(_));
        let unanswered = pending.filter(of_clients).count();
        let tally = self.tally();
        assert_eq!(
            tally.accepted + tally.moved,
            tally.handed_over + tally.dropped + tally.turned_away + looked_at + (waiting + unanswered) as u64,
            "{looked_at} are looked at, {waiting} wait, {unanswered} are unanswered, {tally:?}"
        );
    }

    fn check_sums(&self) {
        let mut engaged = Engaged::default();
        for seat in self.seats.iter().flatten() {
            engaged.replace(None, seat.limits.map(|limits| (limits.app, seat.engaged())));
        }
        assert_eq!(engaged, self.engaged, "an app has another number of connections than its workers");
    }

    fn check_nobody_waits_in_vain(&self, now: Instant) {
        for (id, line) in &self.lines {
            let mut wishes = Vec::new();
            for claim in line.waiting.iter().map(|waiting| waiting.claim) {
                if wishes.contains(&claim) || !self.has_room(*id, claim.origin) {
                    continue;
                }
                wishes.push(claim);
                let taker = line.pick_for(claim, now, |seat| self.seat(seat));
                assert!(taker.is_err(), "a connection of {id:?} waits for {taker:?}: {claim:?}");
            }
            let members: BTreeSet<SeatId> = line.members().collect();
            assert_eq!(members.len(), line.members().count(), "a worker is one member of {id:?}");
            assert!(members.iter().all(|seat| self.seat(*seat).is_some()), "a member of {id:?} is gone");
            for tried in line.tried() {
                let is_out = |seat: &super::Seat<C>| seat.pending().any(|pending| pending.line == *id);
                assert!(self.seat(tried).is_some_and(is_out), "{tried:?} is on trial for ever");
            }
        }
    }
}
