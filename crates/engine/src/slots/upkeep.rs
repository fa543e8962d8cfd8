//! When an app's sockets have to be seen to, and what is remembered of each between two looks.
//!
//! A look costs one call of the system for each socket. The first connection after a quiet time causes one a second later,
//! and so does every further one while connections wait. Who has a socket open costs more to find out: all processes of the app
//! are asked for their descriptors. That is done when the workers have changed and are ready again, and with growing
//! pauses while connections wait for long.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use crate::ids::{Slot, WorkerId};
use crate::listen::Fullness;

/// How often queues are looked at while connections wait.
pub(super) const LOOK_EVERY: Duration = Duration::from_secs(1);
/// How long all workers have to be ready before it is looked for addresses that none of them has bound, for programs bind
/// some of theirs later than others; and how much later the same has to be seen again before one is closed.
pub(super) const GRACE: Duration = Duration::from_secs(5);
/// The longest pause between two searches for who has sockets open, while connections wait.
const LONGEST_PAUSE: Duration = Duration::from_secs(32);

/// When an app's sockets are looked at, and for what.
#[derive(Debug)]
pub(super) struct Upkeep {
    /// How many slots have a worker or will get one.
    pub(super) awaited: u32,
    /// How long connections wait at most where no worker accepts.
    pub(super) hold: Duration,
    pub(super) look_at: Option<Instant>,
    /// Since when there is a worker in every slot that is not given up, ready, and none that starts.
    pub(super) complete_since: Option<Instant>,
    /// Workers have changed since it was found out who has which socket open.
    pub(super) is_changed: bool,
    /// When that is found out again because connections wait, and the pause after it.
    search_at: Option<Instant>,
    pause: Duration,
    /// When it is found out again whether what nobody seemed to have open is so still.
    confirm_at: Option<Instant>,
    /// When the next worker may be asked for that rescues what waits, and the pause after it.
    rescue_at: Option<Instant>,
    rescue_pause: Duration,
}

/// Who has an entrance.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum HeldBy {
    Nobody,
    /// A worker in rotation.
    Serving,
    /// One that starts, leaves or is paused.
    Other,
}

/// What was seen of a queue.
#[derive(Debug, Default)]
pub(super) struct Attention {
    pub(super) fullness: Fullness,
    /// At every look since then connections have waited.
    waiting_since: Option<Instant>,
    /// The same, with nobody who could have accepted them, and how many there were then.
    held: Option<(Instant, u32)>,
    /// When a worker was first seen not to have its socket open any more.
    pub(super) closed_at: Option<Instant>,
}

/// Since when nobody was seen to have any socket of an address.
#[derive(Debug, Default)]
pub(super) struct Disuse {
    since: Option<Instant>,
}

impl Default for Upkeep {
    fn default() -> Self {
        Self {
            awaited: 1,
            hold: Duration::MAX,
            look_at: None,
            complete_since: None,
            is_changed: false,
            search_at: None,
            pause: LOOK_EVERY,
            confirm_at: None,
            rescue_at: None,
            rescue_pause: LOOK_EVERY,
        }
    }
}

impl Upkeep {
    pub(super) fn look_by(&mut self, at: Instant) {
        self.look_at = Some(self.look_at.map_or(at, |sooner| sooner.min(at)));
    }

    /// Returns when the workers will have been ready for long enough to have bound everything.
    pub(super) fn settled_at(&self) -> Option<Instant> {
        self.complete_since.map(|since| since + GRACE)
    }

    pub(super) fn is_settled(&self, now: Instant) -> bool {
        self.settled_at().is_some_and(|at| at <= now)
    }

    /// Returns true when a worker may be asked for now: one that fails again and again is asked for less and less often.
    pub(super) fn may_rescue(&mut self, now: Instant) -> bool {
        if self.rescue_at.is_none_or(|at| at + LONGEST_PAUSE <= now) {
            self.rescue_pause = LOOK_EVERY;
        } else if self.rescue_at.is_some_and(|at| now < at) {
            return false;
        }
        self.rescue_at = Some(now + self.rescue_pause);
        self.rescue_pause = (self.rescue_pause * 2).min(LONGEST_PAUSE);
        true
    }

    pub(super) fn confirm_by(&mut self, at: Instant) {
        self.confirm_at = Some(self.confirm_at.map_or(at, |sooner| sooner.min(at)));
        self.look_by(at);
    }

    /// Returns true when it has to be found out who has the sockets open.
    pub(super) fn is_doubtful(&mut self, is_stuck: bool, now: Instant) -> bool {
        if self.confirm_at.is_some_and(|at| at <= now) {
            self.confirm_at = None;
            return true;
        }
        if self.is_changed && self.is_settled(now) {
            self.is_changed = false;
            return true;
        }
        if !is_stuck {
            (self.search_at, self.pause) = (None, LOOK_EVERY);
            return false;
        }
        let is_due = self.search_at.is_none_or(|at| at <= now);
        if is_due {
            self.search_at = Some(now + self.pause);
            self.pause = (self.pause * 2).min(LONGEST_PAUSE);
        }
        is_due
    }
}

impl HeldBy {
    pub(super) fn of(holders: &[WorkerId], in_rotation: &HashMap<WorkerId, Slot>) -> Self {
        match holders {
            [] => Self::Nobody,
            _ if holders.iter().any(|holder| in_rotation.contains_key(holder)) => Self::Serving,
            _ => Self::Other,
        }
    }
}

impl Attention {
    /// Notes how many connections wait. Returns how many of them have waited for too long, with nobody to accept them.
    ///
    /// Who has the socket and is not in rotation may fail like others before: it does not begin anew with each of them.
    pub(super) fn note(&mut self, queued: u32, held_by: HeldBy, hold: Duration, now: Instant) -> u32 {
        if queued == 0 {
            (self.waiting_since, self.held) = (None, None);
            return 0;
        }
        self.waiting_since.get_or_insert(now);
        if held_by == HeldBy::Serving {
            self.held = None;
            return 0;
        }
        let (since, count) = *self.held.get_or_insert((now, queued));
        if held_by == HeldBy::Other || now.saturating_duration_since(since) < hold {
            return 0;
        }
        self.held = None;
        count
    }

    pub(super) fn is_stuck(&self, now: Instant) -> bool {
        self.waiting_since.is_some_and(|since| now.saturating_duration_since(since) >= LOOK_EVERY)
    }

    /// Returns whether connections have waited for so long with nobody in rotation who could have accepted them.
    pub(super) fn is_forsaken(&self, patience: Duration, now: Instant) -> bool {
        self.held.is_some_and(|(since, _)| now.saturating_duration_since(since) >= patience)
    }
}

impl Disuse {
    /// Notes whether anybody may have it. If nobody has, returns when that is to be seen once more.
    pub(super) fn note(&mut self, may_be_used: bool, now: Instant) -> Option<Instant> {
        if may_be_used {
            self.since = None;
            return None;
        }
        Some(*self.since.get_or_insert(now) + GRACE)
    }

    /// Returns whether it was seen twice, long enough after each other.
    pub(super) fn is_over(&self, now: Instant) -> bool {
        self.since.is_some_and(|since| now.saturating_duration_since(since) >= GRACE)
    }
}
