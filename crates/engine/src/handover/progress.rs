//! Who is late: a worker that leaves alone what it was given, while others answer what they were given later, or
//! at the same time.
//!
//! One that blocks cannot say so. It shows where others go on: they answer what was sent since its last sign of life, or owe
//! nothing. Where all are silent the machine is slow, and nobody is late.
//!
//! It is looked up when a connection comes. Nothing waits because of it, and no clock has to ring.

use std::cell::LazyCell;
use std::time::{Duration, Instant};

use super::line::{Line, Origin, Turn};
use super::seat::{Seat, SeatId};

/// How long a worker may leave alone what it was given, at least. Answers are read every 2 ms, so this is one look more than
/// an answer in time needs.
pub(super) const LATE_AFTER: Duration = Duration::from_millis(4);
/// How many times as long as answers take a worker may leave alone what it was given, where all others owe something, too.
/// With more workers than cores each of them has to wait for others before it can answer.
const MUCH_LONGER: u32 = 2;
/// How much one more answer changes what is usual: one part of so many.
const SMOOTHING: u32 = 4;

/// What answers show of all workers together.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Progress {
    /// When the one was sent that was sent last, of those that are answered.
    answered_up_to: Option<Instant>,
    /// How long answers to this listener's connections take, smoothed.
    usual: Duration,
}

impl<C> Line<C> {
    /// Returns what tells who is late of the workers that take a connection now.
    pub(super) fn late<'s>(
        &self,
        origin: Origin,
        now: Instant,
        seats: &impl Fn(SeatId) -> Option<&'s Seat<C>>,
    ) -> impl Fn(&Seat<C>) -> bool
    where
        C: 's,
    {
        let is_idle = |seat: &Seat<C>| seat.silent_since().is_none();
        let is_any_idle =
            LazyCell::new(move || self.takers(origin, now, seats).any(|(_, seat)| is_idle(seat)));
        move |seat| {
            let since = seat.silent_since();
            self.progress.is_behind(since, now) || is_silent(since, LATE_AFTER, now) && *is_any_idle
        }
    }

    /// Returns the members that take a connection now and are not late, beginning with the one whose turn it is; those that
    /// are, when there is no other.
    pub(super) fn prompt<'s>(
        &self,
        origin: Origin,
        now: Instant,
        seats: &impl Fn(SeatId) -> Option<&'s Seat<C>>,
    ) -> impl Iterator<Item = (Turn, &'s Seat<C>)>
    where
        C: 's,
    {
        let is_late = self.late(origin, now, seats);
        let is_any_prompt = self.takers(origin, now, seats).any(|(_, seat)| !is_late(seat));
        self.takers(origin, now, seats).filter(move |(_, seat)| !(is_any_prompt && is_late(seat)))
    }
}

impl Progress {
    /// Notes that something was answered that was sent at `since`, for this listener or another one.
    pub(super) fn note(&mut self, since: Instant) {
        self.answered_up_to = self.answered_up_to.max(Some(since));
    }

    /// Learns from an answer to what was sent for this listener at `since`.
    pub(super) fn learn(&mut self, since: Instant, now: Instant) {
        // What takes longer comes from a worker that was blocked, and shows little of the others.
        let took = now.saturating_duration_since(since).min(self.patience());
        self.usual = (self.usual * (SMOOTHING - 1) + took) / SMOOTHING;
    }

    /// Returns true when a worker has been silent for too long, and others have answered what was sent since then.
    fn is_behind(self, silent_since: Option<Instant>, now: Instant) -> bool {
        let has_gone_on = |since| self.answered_up_to.is_some_and(|up_to| up_to >= since);
        silent_since.is_some_and(has_gone_on) && is_silent(silent_since, self.patience(), now)
    }

    /// Returns how long a worker may leave alone what it was given.
    fn patience(self) -> Duration {
        LATE_AFTER.max(self.usual * MUCH_LONGER)
    }
}

/// Returns true when a worker that owes something has shown no sign of life for so long.
fn is_silent(since: Option<Instant>, patience: Duration, now: Instant) -> bool {
    since.is_some_and(|since| now.saturating_duration_since(since) >= patience)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MILLISECOND: Duration = Duration::from_millis(1);

    #[test]
    fn behind_is_who_is_silent_while_others_answer_what_came_later() {
        let (mut progress, begin) = (Progress::default(), Instant::now());
        assert!(!progress.is_behind(Some(begin), begin + LATE_AFTER * 100), "nobody has answered anything");
        progress.note(begin + MILLISECOND);
        progress.note(begin);
        assert!(!progress.is_behind(None, begin + LATE_AFTER * 100), "it owes nothing");
        assert!(progress.is_behind(Some(begin + MILLISECOND), begin + MILLISECOND + LATE_AFTER));
        assert!(!progress.is_behind(Some(begin + MILLISECOND), begin + LATE_AFTER));
        assert!(!progress.is_behind(Some(begin + MILLISECOND * 2), begin + LATE_AFTER * 100));
    }

    #[test]
    fn where_answers_take_long_one_may_take_longer() {
        let (mut progress, begin) = (Progress::default(), Instant::now());
        let long = LATE_AFTER * 10;
        progress.note(begin);
        (0..50).for_each(|_| progress.learn(begin, begin + long));
        assert!(!progress.is_behind(Some(begin), begin + long * 3 / 2));
        assert!(progress.is_behind(Some(begin), begin + long * 2));
        (0..50).for_each(|_| progress.learn(begin, begin + MILLISECOND));
        assert!(progress.is_behind(Some(begin), begin + LATE_AFTER));
    }

    #[test]
    fn one_that_was_blocked_for_long_does_not_change_what_is_usual() {
        let (mut progress, begin) = (Progress::default(), Instant::now());
        progress.note(begin);
        for _ in 0..100 {
            (0..30).for_each(|_| progress.learn(begin, begin + MILLISECOND));
            (0..2).for_each(|_| progress.learn(begin, begin + Duration::from_secs(2)));
            assert!(progress.is_behind(Some(begin), begin + LATE_AFTER * 2));
        }
    }
}
