//! How long connections may wait in the simulation, and whether that is kept.

use super::*;
use crate::ids::{AppId, WorkerId};

/// The limit of the simulated app, as the primary keeps it and as it is seen from outside.
pub(super) struct Patience {
    /// `None`: the app has ended.
    hold: Option<Hold>,
    limit: Option<Duration>,
    ready: BTreeSet<u32>,
    /// Limits keep connections from those who are ready.
    is_blocked: bool,
    /// Since when nobody has been ready, or might take any.
    alone_since: Option<Instant>,
    last_over: Option<Instant>,
}

impl Patience {
    pub(super) fn new(seed: u64, now: Instant) -> Self {
        let mut dice = Dice::new(seed ^ 0x401d);
        let limit = dice.pick(&[0, 200, 1_000, 3_000]).map(Duration::from_millis).unwrap_or_default();
        Self {
            hold: Some(Hold::new(limit, now)),
            limit: Some(limit).filter(|limit| !limit.is_zero()),
            ready: BTreeSet::new(),
            is_blocked: false,
            alone_since: Some(now),
            last_over: None,
        }
    }

    pub(super) fn rotate(&mut self, number: u32, in_rotation: bool, now: Instant) {
        if let Some(hold) = &mut self.hold {
            hold.rotate(WorkerId { app: AppId(0), number }, in_rotation, now);
        }
        if in_rotation {
            self.ready.insert(number);
        } else {
            self.ready.remove(&number);
        }
        self.is_blocked &= !in_rotation;
        self.note(now);
    }

    pub(super) fn block(&mut self, is_blocked: bool, now: Instant) {
        if let Some(hold) = &mut self.hold {
            hold.block(is_blocked, now);
        }
        self.is_blocked = is_blocked && !self.ready.is_empty();
        self.note(now);
    }

    fn note(&mut self, now: Instant) {
        let since = *self.alone_since.get_or_insert(now);
        self.alone_since = (self.ready.is_empty() || self.is_blocked).then_some(since);
    }

    pub(super) fn next_deadline(&self) -> Option<Instant> {
        self.hold.as_ref().and_then(Hold::next_deadline)
    }

    /// Returns true when everything that waits has to be closed.
    pub(super) fn is_over(&mut self, now: Instant) -> bool {
        let is_over = self.hold.as_mut().is_some_and(|hold| hold.is_over(now));
        if is_over {
            let (Some(limit), Some(since)) = (self.limit, self.alone_since) else {
                panic!("connections are closed without a limit, or beside a ready worker: {:?}", self.ready)
            };
            assert!(now >= since + limit, "connections are closed too early");
            self.last_over = Some(now);
        }
        is_over
    }

    pub(super) fn end(&mut self) {
        self.hold = None;
    }

    /// Checks that nothing waits for longer than it may.
    pub(super) fn check(&self, now: Instant) {
        let (Some(limit), Some(since), Some(_)) = (self.limit, self.alone_since, &self.hold) else { return };
        let again = self.last_over.map(|last| last + CLOSE_EVERY);
        let due = again.map_or(since + limit, |again| again.max(since + limit));
        assert!(now <= due + LATE_TICK, "nobody was ready since {:?}, the limit is {limit:?}", now - since);
    }
}
