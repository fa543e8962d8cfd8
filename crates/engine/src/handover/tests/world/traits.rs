//! What the workers of the simulation are like.

use super::*;

/// What one worker is like; most traits are faults that end when the world calms down.
#[derive(Clone, Debug)]
pub(crate) struct Traits {
    pub(crate) window: usize,
    /// How many unread messages its channel takes.
    pub(crate) capacity: usize,
    pub(crate) pace: Pace,
    /// It answers in any order.
    pub(crate) shuffles: bool,
    /// It answers connections and never acknowledges them.
    pub(crate) never_acknowledges: bool,
    /// Per hundred: descriptors do not arrive, and it says so.
    pub(crate) nacks: u64,
    /// Per hundred: it is at its limit of connections.
    pub(crate) refuses: u64,
    /// Per hundred: it loses the message without a word.
    pub(crate) loses: u64,
    /// It says how many connections it has open.
    pub(crate) counts: bool,
}

/// How a worker reads its channel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Pace {
    AtOnce,
    /// One message after another, each up to this many milliseconds.
    Slow(u64),
    /// Everything that has come, up to this many milliseconds later.
    Bursts(u64),
}

impl Traits {
    pub(crate) fn calm() -> Self {
        Self {
            window: WINDOW,
            capacity: 300,
            pace: Pace::AtOnce,
            shuffles: false,
            never_acknowledges: false,
            nacks: 0,
            refuses: 0,
            loses: 0,
            counts: true,
        }
    }

    pub(crate) fn random(dice: &mut Dice) -> Self {
        let window = dice.pick(&[1, 2, WINDOW, WINDOW]).unwrap_or(WINDOW);
        Self {
            window,
            capacity: dice.pick(&[2, 8, 300]).unwrap_or(300),
            pace: match dice.below(4) {
                0 => Pace::Slow(3),
                1 => Pace::Slow(60),
                2 => Pace::Bursts(40),
                _ => Pace::AtOnce,
            },
            shuffles: dice.percent(30),
            never_acknowledges: dice.percent(4),
            nacks: dice.pick(&[0, 0, 0, 20]).unwrap_or(0),
            refuses: dice.pick(&[0, 0, 0, 20]).unwrap_or(0),
            // Later acknowledgements would be taken for the lost one's: such a worker has a window of one.
            counts: dice.percent(90),
            loses: if window == 1 && dice.percent(50) { 5 } else { 0 },
        }
    }
}
