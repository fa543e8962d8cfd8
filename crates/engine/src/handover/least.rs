//! The policy `least`: who has least to do gets the next connection.
//!
//! Workers that leave what they have alone are passed by, at once and without a clock that has to ring, and so are those
//! with a few more unanswered hand-overs than others. Of the rest, the one with the fewest connections is chosen,
//! unanswered ones included; of those with as many, the quicker one; of those, the next in turn.
//!
//! To go by unanswered hand-overs alone would be wrong: in a burst, whoever answers first would be given nearly everything,
//! and long connections stay where they are.

use std::f64::consts::LN_2;
use std::time::{Duration, Instant};

use super::WINDOW;
use super::line::{Line, Origin, Turn};
use super::seat::{Seat, SeatId};

/// How many more unanswered hand-overs than others a worker may have and be given connections: as many as are on their way
/// anyway, because answers are read in batches.
pub(super) const FEW: usize = WINDOW / 2;
/// Answers that take less than this are equally quick: they are read in batches.
const QUICK: Duration = Duration::from_millis(4);

impl<C> Line<C> {
    /// Picks the member that has least to do; the next in turn of those that have equally little.
    pub(super) fn pick_least<'s>(
        &self,
        origin: Origin,
        now: Instant,
        seats: impl Fn(SeatId) -> Option<&'s Seat<C>>,
    ) -> Option<Turn>
    where
        C: 's,
    {
        let limit = self.prompt(origin, now, &seats).map(|(_, seat)| seat.unanswered()).min()? + FEW;
        self.prompt(origin, now, &seats)
            .filter(|(_, seat)| seat.unanswered() <= limit)
            .min_by_key(|(_, seat)| (seat.connections(now), seat.pace_class(now)))
            .map(|(turn, _)| turn)
    }
}

/// What a worker has taken lately, and how quickly.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Habits {
    pub(super) pace: Pace,
    pub(super) lately: Lately,
}

impl<C> Seat<C> {
    fn pace_class(&self, now: Instant) -> u32 {
        self.habits.map_or(0, |habits| habits.pace.class(now))
    }
}

/// How long a worker took for its last answers, smoothed; what it took long ago counts for little.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Pace(Option<(Duration, Instant)>);

impl Pace {
    /// Learns from a connection that the worker has taken after so long.
    pub(super) fn learn(&mut self, took: Duration, now: Instant) {
        let smoothed = if self.0.is_some() { (self.delay(now) * 3 + took) / 4 } else { took };
        self.0 = Some((smoothed, now));
    }

    /// Returns how long it takes for an answer; halved by each second without one.
    pub(super) fn delay(self, now: Instant) -> Duration {
        self.0.map_or(Duration::ZERO, |(delay, at)| {
            let seconds = now.saturating_duration_since(at).as_secs();
            delay / (1 << seconds.min(31))
        })
    }

    /// Returns 0 for a quick worker, and one more for each time that another one is twice as slow.
    fn class(self, now: Instant) -> u32 {
        let times = self.delay(now).as_nanos() / QUICK.as_nanos();
        times.checked_ilog2().map_or(0, |doublings| doublings + 1)
    }
}

/// How many connections a worker has taken lately, each second's counting half as much as the next one's: an estimate of
/// how many are open, for workers that do not tell.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Lately(Option<(f64, Instant)>);

impl Lately {
    pub(super) fn add(&mut self, now: Instant) {
        self.0 = Some((self.at(now) + 1.0, now));
    }

    /// Returns how many they are now, rounded.
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "it is a count that was never negative, and a cast that goes too far saturates"
    )]
    pub(super) fn count(self, now: Instant) -> u64 {
        self.at(now).round() as u64
    }

    fn at(self, now: Instant) -> f64 {
        self.0.map_or(0.0, |(count, at)| count * halved(now.saturating_duration_since(at)))
    }
}

/// Returns 1, halved by each second: 2 to the power of minus so many seconds, within a thousandth.
///
/// `f64::exp2` would be the one thing for which this program needs the library of mathematics, 0.3 MB of it.
fn halved(time: Duration) -> f64 {
    let whole = 1.0 / (1_u64 << time.as_secs().min(63)) as f64;
    let part = f64::from(time.subsec_nanos()) / 1e9;
    whole * (1.0 - part * (LN_2 - part * (0.24023 - part * 0.04708)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pace_is_smoothed_and_forgotten() {
        let (mut pace, now) = (Pace::default(), Instant::now());
        assert_eq!((pace.delay(now), pace.class(now)), (Duration::ZERO, 0));
        pace.learn(Duration::from_millis(40), now);
        assert_eq!((pace.delay(now), pace.class(now)), (Duration::from_millis(40), 4));
        pace.learn(Duration::ZERO, now);
        assert_eq!(pace.delay(now), Duration::from_millis(30));
        let later = now + Duration::from_secs(3);
        assert_eq!((pace.delay(later), pace.class(later)), (Duration::from_micros(3750), 0));
        assert_eq!(pace.delay(now + Duration::from_hours(9)).as_millis(), 0);
    }

    #[test]
    fn what_was_taken_lately_fades() {
        let (mut lately, now) = (Lately::default(), Instant::now());
        (0..8).for_each(|_| lately.add(now));
        assert_eq!(lately.count(now), 8);
        let later = now + Duration::from_secs(2);
        assert_eq!(lately.count(later), 2);
        lately.add(later);
        assert_eq!(lately.count(later), 3);
        assert_eq!(lately.count(later + Duration::from_mins(1)), 0);
    }

    #[test]
    #[expect(clippy::disallowed_methods, reason = "what is to be shown, in a program of its own")]
    fn halving_is_the_power_of_two() {
        for milliseconds in (0..5000).step_by(7) {
            let time = Duration::from_millis(milliseconds);
            let exact = (-time.as_secs_f64()).exp2();
            assert!((halved(time) / exact - 1.0).abs() < 0.002, "{time:?}: {} is not {exact}", halved(time));
        }
        assert!(halved(Duration::from_hours(9)) < 1e-18);
    }
}
