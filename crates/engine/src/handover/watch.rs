//! Whether workers answer in time, and what else the time brings.

use std::time::{Duration, Instant};

use super::line::{Line, Origin};
use super::seat::Handle;
use super::{Deliver, LineId, Notice, SeatId, Switchboard};

/// A worker in rotation that leaves its oldest hand-over alone for longer than this gets no new ones.
pub(super) const OVERDUE_AFTER: Duration = Duration::from_secs(1);
/// How often workers are checked for being overdue, and full channels tried again, while there are any.
pub(super) const CHECK_EVERY: Duration = Duration::from_millis(250);

impl<C> Switchboard<C> {
    /// Notes that a handle message other than a connection went to the worker; it is acknowledged in turn.
    pub(crate) fn sent_other(&mut self, id: SeatId, now: Instant) {
        if let Some(seat) = self.seat_mut(id) {
            seat.note_sent(Handle::Other, now);
            self.check_soon(now);
        }
    }

    /// Notes that a worker in rotation was pinged, unless it owes the answer to an earlier ping; returns false then.
    pub(crate) fn pinged(&mut self, id: SeatId, now: Instant) -> bool {
        let Some(seat) = self.seat_mut(id).filter(|seat| seat.in_rotation && seat.pinged.is_none()) else {
            return false;
        };
        seat.pinged = Some(now);
        self.check_soon(now);
        true
    }

    /// Returns true when another worker than this one would take a connection of this line now.
    pub(crate) fn has_other_taker(&self, line: LineId, but: SeatId, now: Instant) -> bool {
        let others = |id: SeatId| self.seat(id).filter(|_| id != but);
        self.has_room(line, Origin::Accepted)
            && self.lines.get(&line).is_some_and(|line| {
                line.waiting.is_empty() && line.takers(Origin::Accepted, now, others).next().is_some()
            })
    }

    /// Gives a worker nothing new, of any listener, until then.
    pub(crate) fn rest(&mut self, id: SeatId, until: Instant) {
        if let Some(seat) = self.seat_mut(id) {
            seat.rests_until = Some(until);
            seat.still = true;
        }
    }

    /// Gives a worker nothing new, of any listener, when it has left its ping alone for so long, until it answers, or while
    /// it [rests](Self::rest).
    pub(crate) fn let_rest(&mut self, id: SeatId, after: Duration, now: Instant) {
        if let Some(seat) = self.seat_mut(id) {
            let owes = |since: Instant| now.saturating_duration_since(since) >= after;
            seat.still = seat.rests_until.is_some() || seat.pinged.is_some_and(owes);
        }
    }

    /// Returns true when a worker gets nothing new because it stands still.
    pub(crate) fn is_still(&self, id: SeatId) -> bool {
        self.seat(id).is_some_and(|seat| seat.still)
    }

    /// Notes that a worker answered its ping.
    pub(crate) fn ponged(&mut self, id: SeatId, now: Instant, deliver: &mut impl Deliver<C>) {
        if let Some(seat) = self.seat_mut(id) {
            seat.still = false;
            if let Some(since) = seat.pinged.take() {
                self.note_answered(since);
            }
            self.heard_from(id, now);
        }
        self.serve(now, deliver);
    }

    /// Returns when [`tick`](Self::tick) has something to do; after a tick at that time it lies in the future.
    pub(crate) fn next_deadline(&self) -> Option<Instant> {
        let trial = self.lines.values().filter_map(Line::next_trial).min();
        let disappointment = self.lines.values().filter_map(Line::next_disappointment).min();
        let rested = self.seats.iter().flatten().filter_map(|seat| seat.rests_until).min();
        [self.next_check, trial, disappointment, rested].into_iter().flatten().min()
    }

    /// Looks for overdue workers, and retries what was refused and what found channels full.
    pub(crate) fn tick(&mut self, now: Instant, deliver: &mut impl Deliver<C>) {
        if let Some(due) = self.next_check.filter(|at| *at <= now) {
            self.check_seats(due, now);
        }
        for seat in self.seats.iter_mut().flatten() {
            seat.end_rest(now);
        }
        for line in self.lines.values_mut() {
            line.end_back_offs(now);
            line.end_expectations(now);
        }
        self.serve(now, deliver);
    }

    /// Notes that a worker answered what it was sent at `since`: whoever owes more than that is behind.
    pub(super) fn note_answered(&mut self, since: Instant) {
        self.lines.values_mut().for_each(|line| line.progress.note(since));
    }

    /// Notes that a worker acknowledged or answered something: it has read its channel.
    pub(super) fn heard_from(&mut self, id: SeatId, now: Instant) {
        let Some(seat) = self.seat_mut(id) else { return };
        seat.retry_when_full();
        seat.heard(now);
        let is_late = seat.owes_since().is_some_and(|since| is_overdue(since, now));
        if seat.overdue && !is_late {
            seat.overdue = false;
            self.notices.push(Notice::Answering(id));
            self.check_soon(now);
        }
    }

    fn check_seats(&mut self, due: Instant, now: Instant) {
        // A primary that did not run itself (SIGSTOP, a frozen container) has nobody to blame.
        let was_asleep = now.saturating_duration_since(due) >= CHECK_EVERY;
        let mut is_any_watched = false;
        for (index, seat) in self.seats.iter_mut().enumerate() {
            let Some(seat) = seat else { continue };
            // Writability may come without a new event, or not for what the kernel was short of.
            seat.retry_when_full();
            if was_asleep {
                seat.judge_from(now);
            }
            if !seat.in_rotation || seat.overdue {
                continue;
            }
            let Some(since) = seat.owes_since() else { continue };
            if is_overdue(since, now) {
                seat.overdue = true;
                let waiting = now.saturating_duration_since(since);
                self.notices.push(Notice::Overdue(SeatId(index), waiting));
            } else {
                is_any_watched = true;
            }
        }
        self.next_check = is_any_watched.then(|| now + CHECK_EVERY);
    }

    pub(super) fn check_soon(&mut self, now: Instant) {
        self.next_check.get_or_insert(now + CHECK_EVERY);
    }
}

fn is_overdue(since: Instant, now: Instant) -> bool {
    now.saturating_duration_since(since) >= OVERDUE_AFTER
}
