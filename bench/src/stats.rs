//! Medians, spreads and ratios: the only statistics that these benchmarks use.

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

    /// Returns the spread as JSON.
    pub(crate) fn to_json(self) -> Value {
        json!({ "median": self.median, "min": self.min, "max": self.max })
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
}
