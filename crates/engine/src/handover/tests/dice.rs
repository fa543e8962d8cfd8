//! Chance that can be repeated, and the runner of seeded simulations.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::time::Duration;

/// How often each kind of thing happened.
pub(super) type Count = BTreeMap<&'static str, u64>;

/// Everything random of one schedule (splitmix64).
pub(super) struct Dice(u64);

impl Dice {
    pub(super) fn new(seed: u64) -> Self {
        Self(seed)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut bits = self.0;
        bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        bits ^ (bits >> 31)
    }

    pub(super) fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }

    pub(super) fn percent(&mut self, chance: u64) -> bool {
        self.below(100) < chance
    }

    pub(super) fn milliseconds(&mut self, limit: u64) -> Duration {
        Duration::from_micros(self.below(limit * 1_000))
    }

    pub(super) fn pick<T: Copy>(&mut self, from: &[T]) -> Option<T> {
        let index = self.below(from.len().max(1) as u64) as usize;
        from.get(index).copied()
    }
}

/// Runs a schedule for each seed, or for the one in `WORKSONG_SEED`, and tells which one failed.
///
/// Everything in `must_happen` has to happen in a full run; otherwise the simulation proves less than it says.
pub(super) fn run_seeds(seeds: u64, must_happen: &[&str], schedule: impl Fn(u64) -> Count) {
    let replayed =
        std::env::var("WORKSONG_SEED").ok().map(|seed| seed.parse().expect("WORKSONG_SEED is a number"));
    let range = replayed.map_or(0..seeds, |seed: u64| seed..seed + 1);
    let mut total = Count::new();
    for seed in range.clone() {
        match catch_unwind(AssertUnwindSafe(|| schedule(seed))) {
            Ok(count) => count.into_iter().for_each(|(what, times)| *total.entry(what).or_default() += times),
            Err(panic) => {
                println!("failed with seed {seed}: replay with WORKSONG_SEED={seed}");
                resume_unwind(panic);
            }
        }
    }
    println!("{} schedules run: {total:?}", range.count());
    if replayed.is_none() {
        for what in must_happen {
            assert!(total.contains_key(what), "no schedule has seen: {what}");
        }
    }
}
