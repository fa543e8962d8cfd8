//! Limits of how many connections may be open, in a worker and in all workers of an app.
//!
//! What counts is what is open ([`OpenCount`](super::open::OpenCount)) and what is handed over and unanswered. New
//! connections wait while a limit is reached. Those that move from one worker to another are open already: they count,
//! and are never refused.

use std::collections::BTreeMap;
use std::time::Instant;

use super::arrivals::MOST_WAITING;
use super::choice::{Awaited, Wish};
use super::line::{Claim, Line, Origin, Turn};
use super::seat::Seat;
use super::{LineId, Notice, SeatId, Switchboard};
use crate::ids::AppId;
use crate::sticky::Key;

/// How many connections of an app may be open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Limits {
    /// Whose workers are counted together.
    pub(crate) app: AppId,
    pub(crate) per_worker: Option<u64>,
    pub(crate) per_app: Option<u64>,
}

/// What a worker has for one more connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reception {
    /// Room, now or when it is less busy.
    Free,
    /// No room. It may wait.
    Full,
    /// No room, and as many wait for it as may.
    Crowded,
}

/// How many connections the limited workers of each app have.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Engaged(BTreeMap<AppId, u64>);

impl Engaged {
    /// Puts what a worker has now in the place of what it had.
    pub(super) fn replace(&mut self, before: Option<(AppId, u64)>, now: Option<(AppId, u64)>) {
        if before == now {
            return;
        }
        if let Some((app, count)) = now.filter(|(_, count)| *count > 0) {
            *self.0.entry(app).or_default() += count;
        }
        if let Some((app, count)) = before
            && let Some(sum) = self.0.get_mut(&app)
        {
            *sum -= count;
            if *sum == 0 {
                self.0.remove(&app);
            }
        }
    }
}

impl<C> Switchboard<C> {
    /// Gives a worker nothing new while as many connections are open as may be.
    pub(crate) fn limit_seat(&mut self, id: SeatId, limits: Limits) {
        if let Some(seat) = self.seat_mut(id) {
            seat.limits = Some(limits);
        }
        self.recount(id);
    }

    /// Lets new connections of a listener wait while as many are open in the app as may be.
    pub(crate) fn limit_line(&mut self, id: LineId, limits: Limits) {
        if let Some(line) = self.lines.get_mut(&id) {
            line.limits = Some(limits);
        }
    }

    /// Notes that a worker will say how many connections it has open.
    ///
    /// One that takes a connection without that cannot be limited, which is [told](Notice::Uncounted).
    pub(crate) fn will_count(&mut self, id: SeatId) {
        if let Some(seat) = self.seat_mut(id) {
            seat.open.is_reported = true;
        }
    }

    /// Notes that a worker will not say how many connections it has open, or not any more.
    pub(crate) fn counts_no_more(&mut self, id: SeatId) {
        if let Some(seat) = self.seat_mut(id) {
            seat.open.is_reported = false;
        }
    }

    /// Counts a connection that a worker has taken, which it was given at `since`.
    pub(super) fn note_open(&mut self, id: SeatId, since: Instant, now: Instant) {
        let Some(seat) = self.seat_mut(id) else { return };
        seat.learn(since, now);
        if !seat.open.is_reported && seat.limits.take().is_some() {
            self.notices.push(Notice::Uncounted(id));
        }
    }

    /// Returns how many connections of an app's workers are open at most, or handed over and unanswered.
    pub(crate) fn engaged(&self, app: AppId) -> u64 {
        self.engaged.0.get(&app).copied().unwrap_or(0)
    }

    /// Counts a worker's connections anew, after each change of them: an app's sum is asked for with each connection.
    pub(super) fn recount(&mut self, id: SeatId) {
        if let Some(seat) = self.seats.get_mut(id.0).and_then(Option::as_mut) {
            let engaged = seat.limits.map(|limits| (limits.app, seat.engaged()));
            let before = std::mem::replace(&mut seat.counted, engaged);
            self.engaged.replace(before, engaged);
        }
    }

    /// Returns true when the worker, or all of its app, may have no more connections.
    pub(crate) fn is_at_limit(&self, id: SeatId) -> bool {
        self.seat(id).is_some_and(|seat| seat.is_at_limit() || self.is_app_full(seat.limits))
    }

    /// Returns true when limits alone keep a listener's next connection from every worker.
    pub(crate) fn is_overloaded(&self, id: LineId, now: Instant) -> bool {
        let Some(line) = self.lines.get(&id).filter(|line| line.limits.is_some()) else { return false };
        let is_app_full = self.is_app_full(line.limits);
        let members = line.willing(now).filter_map(|(_, member)| self.seat(member.seat));
        let mut bidders = members.filter(|seat| seat.bidder().is_some());
        let is_full = |seat: &Seat<C>| is_app_full || seat.is_at_limit();
        bidders.next().is_some_and(is_full) && bidders.all(is_full)
    }

    /// Returns how a connection with this key finds the worker where it belongs, as far as limits go.
    pub(crate) fn reception(&self, id: LineId, key: Key, now: Instant) -> Reception {
        let Some(line) = self.lines.get(&id).filter(|line| line.limits.is_some()) else {
            return Reception::Free;
        };
        // Whoever it is, at a limit or not.
        let claim = Claim { origin: Origin::Moved, wish: Wish::Owner(key) };
        let (Ok(Turn { seat, .. }) | Err(Awaited::Worker(seat))) =
            line.pick_for(claim, now, |seat| self.seat(seat))
        else {
            return Reception::Free;
        };
        if !self.is_app_full(line.limits) && !self.is_at_limit(seat) {
            return Reception::Free;
        }
        let ahead = line.waiting.iter().filter(|waiting| waiting.awaited == Awaited::Worker(seat)).count();
        // Half of what may wait in all, so that full workers never keep others from getting theirs.
        let most = MOST_WAITING / 2 / line.members().count().max(1);
        if ahead < most { Reception::Full } else { Reception::Crowded }
    }

    /// Returns since when a connection has waited for a worker that is at its limit.
    pub(crate) fn kept_out_since(&self, id: LineId) -> Option<Instant> {
        let line = self.lines.get(&id).filter(|line| line.limits.is_some())?;
        let waiting = line.waiting.iter().zip(self.kept_out(line));
        waiting.filter(|(_, is_kept_out)| *is_kept_out).map(|(waiting, _)| waiting.since).min()
    }

    /// Drops the connections that have waited since then for a worker that is at its limit. Returns how many.
    pub(crate) fn drop_kept_out(&mut self, id: LineId, since: Instant) -> u64 {
        let Some(line) = self.lines.get(&id).filter(|line| line.limits.is_some()) else { return 0 };
        let waiting = line.waiting.iter().zip(self.kept_out(line));
        let doomed: Vec<bool> =
            waiting.map(|(waiting, is_kept_out)| is_kept_out && waiting.since <= since).collect();
        let dropped = doomed.iter().filter(|is_doomed| **is_doomed).count() as u64;
        let mut doomed = doomed.into_iter();
        if let Some(line) = self.lines.get_mut(&id) {
            line.waiting.retain(|_| !doomed.next().unwrap_or(false));
            line.tally.dropped += dropped;
        }
        dropped
    }

    /// Tells of each connection that waits whether it does so for a worker that is at its limit.
    fn kept_out<'a>(&'a self, line: &'a Line<C>) -> impl Iterator<Item = bool> + 'a {
        let is_app_full = !line.waiting.is_empty() && self.is_app_full(line.limits);
        let is_full = move |seat| is_app_full || self.seat(seat).is_some_and(Seat::is_at_limit);
        line.waiting.iter().map(move |waiting| match (waiting.claim.origin, waiting.awaited) {
            (Origin::Accepted, Awaited::Worker(seat)) => is_full(seat),
            (Origin::Accepted | Origin::Moved, _) => false,
        })
    }

    /// Notes that a connection was not let in: its client has been told, or will be.
    pub(crate) fn turn_away(&mut self, line: LineId) {
        self.count(line, |tally| {
            tally.accepted += 1;
            tally.turned_away += 1;
        });
    }

    /// Notes that a connection was not let in which had been [looked at](Self::look_at).
    pub(crate) fn turn_looked_at_away(&mut self, line: LineId) {
        self.count(line, |tally| tally.turned_away += 1);
        if let Some(line) = self.lines.get_mut(&line) {
            line.looked_at = line.looked_at.saturating_sub(1);
        }
    }

    /// Returns true when one more connection may come in.
    pub(super) fn has_room(&self, line: LineId, origin: Origin) -> bool {
        match origin {
            Origin::Accepted => !self.is_app_full(self.lines.get(&line).and_then(|line| line.limits)),
            Origin::Moved => true,
        }
    }

    fn is_app_full(&self, limits: Option<Limits>) -> bool {
        limits.is_some_and(|limits| limits.per_app.is_some_and(|most| self.engaged(limits.app) >= most))
    }
}

impl<C> Seat<C> {
    /// Returns how many connections are open at most, or handed over and unanswered.
    pub(super) fn engaged(&self) -> u64 {
        self.open.most() + self.unanswered() as u64
    }

    pub(super) fn is_at_limit(&self) -> bool {
        self.limits.and_then(|limits| limits.per_worker).is_some_and(|most| self.engaged() >= most)
    }
}
