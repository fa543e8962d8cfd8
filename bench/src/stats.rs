//! Medians, spreads, ratios and evenness: the only statistics that these benchmarks use.

use serde_json::{Value, json};

/// The median of some rounds, with the smallest and the largest.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Spread {
    /// The middle value, or the mean of the two middle values.
    pub(crate) median: f64,
    /// The smallest value.
    pub(crate) min: f64,
    /// The largest value.
    pub(crate) max: f64,
}

impl Spread {
    /// Returns the spread of the finite values, or `None` when there is none.
    pub(crate) fn of(values: impl IntoIterator<Item = f64>) -> Option<Self> {
        let mut values: Vec<f64> = values.into_iter().filter(|value| value.is_finite()).collect();
        values.sort_by(f64::total_cmp);
        let (min, max) = (*values.first()?, *values.last()?);
        let middle = values.len() / 2;
        let median = if values.len() % 2 == 1 {
            values[middle]
        } else {
            f64::midpoint(values[middle - 1], values[middle])
        };
        Some(Self { median, min, max })
    }

    /// Returns the spread of `ours[i] / theirs[i]`: what two systems did in the same round is compared, so that a
    /// slow minute of the machine does not count against either.
    pub(crate) fn of_ratios(ours: &[f64], theirs: &[f64]) -> Option<Self> {
        Self::of(ours.iter().zip(theirs).map(|(ours, theirs)| ours / theirs))
    }

    /// Returns the spread of `ours[i] - theirs[i]`: what we need beyond them, round by round.
    pub(crate) fn of_differences(ours: &[f64], theirs: &[f64]) -> Option<Self> {
        Self::of(ours.iter().zip(theirs).map(|(ours, theirs)| ours - theirs))
    }

    /// Returns the spread as JSON.
    pub(crate) fn to_json(self) -> Value {
        json!({ "median": self.median, "min": self.min, "max": self.max })
    }
}

/// How evenly workers were used; each had its number of connections, those that had none included.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Evenness {
    /// The shares of all, largest first.
    shares: Vec<f64>,
}

impl Evenness {
    /// Returns the evenness of these counts, `None` when they are all 0.
    pub(crate) fn of(counts: impl IntoIterator<Item = u64>) -> Option<Self> {
        let counts: Vec<u64> = counts.into_iter().collect();
        let total: u64 = counts.iter().sum();
        if total == 0 {
            return None;
        }
        let mut shares: Vec<f64> = counts.iter().map(|count| *count as f64 / total as f64).collect();
        shares.sort_by(|a, b| b.total_cmp(a));
        Some(Self { shares })
    }

    /// Returns Jain's index, `(Σx)² / (n Σx²)`: 1 when all are equal, `1 / n` when one has all.
    pub(crate) fn jain(&self) -> f64 {
        let squares: f64 = self.shares.iter().map(|share| share * share).sum();
        1.0 / (self.shares.len() as f64 * squares)
    }

    /// Returns the coefficient of variation: the standard deviation divided by the mean.
    pub(crate) fn variation(&self) -> f64 {
        let mean = 1.0 / self.shares.len() as f64;
        let squares: f64 = self.shares.iter().map(|share| (share - mean).powi(2)).sum();
        (squares / self.shares.len() as f64).sqrt() / mean
    }

    /// Returns the part, 0 to 1, that the busiest `workers` had together.
    pub(crate) fn top(&self, workers: usize) -> f64 {
        self.shares.iter().take(workers).sum()
    }
}

/// Returns the value below which `share` (0 to 1) of the sorted values lie (nearest rank), 0 for none.
pub(crate) fn percentile(sorted: &[u32], share: f64) -> u32 {
    #[expect(clippy::cast_sign_loss, reason = "share and length are not negative")]
    let rank = (share * sorted.len() as f64).ceil() as usize;
    sorted.get(rank.saturating_sub(1)).copied().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn median_of_odd_and_even_counts() {
        assert_eq!(Spread::of([3.0, 1.0, 2.0]), Some(Spread { median: 2.0, min: 1.0, max: 3.0 }));
        assert_eq!(Spread::of([4.0, 1.0, 2.0, 3.0]), Some(Spread { median: 2.5, min: 1.0, max: 4.0 }));
        assert_eq!(Spread::of([]), None);
    }

    #[test]
    fn ratios_are_taken_round_by_round() {
        // The medians' ratio would be 20 / 10 = 2; the second round alone says 4.
        let spread = Spread::of_ratios(&[10.0, 40.0, 20.0], &[5.0, 10.0, 40.0]);
        assert_eq!(spread, Some(Spread { median: 2.0, min: 0.5, max: 4.0 }));
    }

    #[test]
    fn a_ratio_to_nothing_is_left_out() {
        assert_eq!(Spread::of_ratios(&[1.0, 2.0], &[0.0, 0.0]), None);
    }

    #[test]
    fn percentiles_are_nearest_ranks() {
        let values: Vec<u32> = (1..=100).collect();
        assert_eq!(percentile(&values, 0.5), 50);
        assert_eq!(percentile(&values, 0.99), 99);
        assert_eq!(percentile(&values, 1.0), 100);
        assert_eq!(percentile(&[7], 0.5), 7);
        assert_eq!(percentile(&[], 0.5), 0);
    }

    #[test]
    fn differences_are_taken_round_by_round() {
        let spread = Spread::of_differences(&[10.0, 12.0, 30.0], &[9.0, 10.0, 31.0]);
        assert_eq!(spread, Some(Spread { median: 1.0, min: -1.0, max: 2.0 }));
    }

    #[test]
    fn equal_counts_are_even() {
        let even = Evenness::of([25, 25, 25, 25]).unwrap();
        assert!((even.jain() - 1.0).abs() < 1e-12 && even.variation() < 1e-12, "{even:?}");
        assert!((even.top(1) - 0.25).abs() < 1e-12 && (even.top(3) - 0.75).abs() < 1e-12, "{even:?}");
    }

    #[test]
    fn one_that_has_all_is_as_uneven_as_can_be() {
        let one = Evenness::of([0, 0, 8, 0]).unwrap();
        assert!((one.jain() - 0.25).abs() < 1e-12, "{}", one.jain());
        // Deviations 3, -1, -1, -1 around a mean of 1 (in means): the square root of 12 / 4.
        assert!((one.variation() - 3.0_f64.sqrt()).abs() < 1e-12, "{}", one.variation());
        assert!((one.top(1) - 1.0).abs() < 1e-12, "{}", one.top(1));
        assert_eq!(Evenness::of([0, 0]), None);
    }

    #[test]
    fn the_two_measures_of_evenness_agree() {
        // Jain's index is 1 / (1 + variation²) for any counts.
        let some = Evenness::of([10, 40, 30, 5, 15]).unwrap();
        assert!((some.jain() - 1.0 / (1.0 + some.variation().powi(2))).abs() < 1e-12, "{some:?}");
    }
}
