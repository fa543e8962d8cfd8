//! How long a slot waits before it is filled again.

use std::time::Duration;

use crate::spec::RestartPolicy;

/// A seeded source of jitter (splitmix64), so that supervision stays a function of its inputs.
#[derive(Clone, Debug)]
pub(super) struct Jitter(u64);

impl Jitter {
    pub(super) fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// Returns a value that `delay` differs from by at most a quarter.
    fn spread(&mut self, delay: Duration) -> Duration {
        let parts = 768 + (self.next() % 513) as u32;
        delay.saturating_mul(parts) / 1024
    }

    /// Returns a factor between 0.9 and 1.1.
    pub(super) fn about_one(&mut self) -> Factor {
        Factor { parts: 922 + (self.next() % 205) as u32 }
    }

    pub(super) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut bits = self.0;
        bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        bits ^ (bits >> 31)
    }
}

/// A number near 1, exact in parts of 1024.
#[derive(Clone, Copy, Debug)]
pub(super) struct Factor {
    parts: u32,
}

impl Factor {
    /// Multiplies a time.
    pub(super) fn of_time(self, time: Duration) -> Duration {
        (time / 1024).saturating_mul(self.parts)
    }

    /// Multiplies a count; the result is at least 1.
    pub(super) fn of_count(self, count: u64) -> u64 {
        let exact = u128::from(count) * u128::from(self.parts) / 1024;
        u64::try_from(exact).unwrap_or(u64::MAX).max(1)
    }
}

/// Returns how long a slot waits after this many failures in a row: doubled each time, limited, with jitter.
pub(super) fn delay(policy: &RestartPolicy, failures: u32, jitter: &mut Jitter) -> Duration {
    let doublings = failures.saturating_sub(1).min(31);
    let exact = policy.min_delay.saturating_mul(1 << doublings).min(policy.max_delay);
    jitter.spread(exact)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn milliseconds(count: u64) -> Duration {
        Duration::from_millis(count)
    }

    #[test]
    fn doubles_up_to_the_limit_within_a_quarter_of_jitter() {
        let policy = RestartPolicy {
            min_delay: milliseconds(100),
            max_delay: milliseconds(1_000),
            ..RestartPolicy::default()
        };
        for seed in 0..500 {
            let mut jitter = Jitter::new(seed);
            for (failures, exact) in [(1, 100), (2, 200), (3, 400), (4, 800), (5, 1_000), (40, 1_000)] {
                let waits = delay(&policy, failures, &mut jitter);
                let (least, most) = (milliseconds(exact * 3 / 4), milliseconds(exact * 5 / 4));
                assert!(waits >= least && waits <= most, "seed {seed}: {waits:?} after {failures} failures");
            }
        }
    }

    #[test]
    fn jitter_reaches_both_ends_and_depends_on_the_seed() {
        let policy = RestartPolicy::default();
        let delays: Vec<_> = (0..500).map(|seed| delay(&policy, 1, &mut Jitter::new(seed))).collect();
        assert!(delays.iter().any(|waits| *waits < milliseconds(80)));
        assert!(delays.iter().any(|waits| *waits > milliseconds(120)));
    }

    #[test]
    fn a_factor_is_within_a_tenth_and_reaches_both_ends() {
        let products: Vec<_> = (0..500)
            .map(|seed| Jitter::new(seed).about_one())
            .map(|factor| (factor.of_count(1_000), factor.of_time(milliseconds(1_000))))
            .collect();
        assert!(products.iter().all(|(count, _)| (900..=1_100).contains(count)), "{products:?}");
        assert!(products.iter().all(|(_, time)| *time >= milliseconds(900) && *time <= milliseconds(1_100)));
        assert!(products.iter().any(|(count, time)| *count < 920 && *time < milliseconds(920)));
        assert!(products.iter().any(|(count, time)| *count > 1_080 && *time > milliseconds(1_080)));
    }

    #[test]
    fn absurd_limits_do_not_overflow() {
        let policy =
            RestartPolicy { min_delay: Duration::MAX, max_delay: Duration::MAX, ..RestartPolicy::default() };
        assert!(delay(&policy, u32::MAX, &mut Jitter::new(1)) > Duration::from_hours(24));
        let factor = Jitter::new(1).about_one();
        assert!(factor.of_time(Duration::MAX) > Duration::from_hours(24));
        assert!(factor.of_count(u64::MAX) > u64::MAX / 2);
        assert_eq!(factor.of_count(1), 1, "a limit of nothing would be passed at once");
    }
}
