//! How long connections of an app are held while none of its workers is ready, or may take one.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use crate::ids::WorkerId;

/// How often connections are closed when the limit is over.
pub(crate) const CLOSE_EVERY: Duration = Duration::from_secs(1);

/// The limit of an app, and who is ready.
///
/// `somebody is ready → nobody is, until the limit → closing, once a second → somebody is ready`
#[derive(Debug)]
pub(crate) struct Hold {
    /// `None`: connections wait for ever.
    limit: Option<Duration>,
    ready: BTreeSet<WorkerId>,
    /// When waiting connections are closed; nothing while a worker is ready and may take one.
    close_at: Option<Instant>,
}

impl Hold {
    /// Begins without a ready worker. A limit of zero is none.
    pub(crate) fn new(limit: Duration, now: Instant) -> Self {
        let limit = Some(limit).filter(|limit| !limit.is_zero());
        Self { limit, ready: BTreeSet::new(), close_at: limit.and_then(|limit| now.checked_add(limit)) }
    }

    /// Notes that a worker has come into rotation, or left it.
    pub(crate) fn rotate(&mut self, worker: WorkerId, in_rotation: bool, now: Instant) {
        if in_rotation {
            self.ready.insert(worker);
            self.close_at = None;
        } else if self.ready.remove(&worker) && self.ready.is_empty() {
            // Connections may have waited before: for those who were ready, and at their limits.
            self.close_at = self.close_at.or_else(|| self.limit.and_then(|limit| now.checked_add(limit)));
        }
    }

    /// Returns for how long connections may wait; `None`: for ever.
    pub(crate) fn limit(&self) -> Option<Duration> {
        self.limit
    }

    /// Notes whether those who are ready may take nothing.
    pub(crate) fn block(&mut self, is_blocked: bool, now: Instant) {
        if self.ready.is_empty() {
            return;
        }
        self.close_at = match (is_blocked, self.close_at) {
            (false, _) => None,
            (true, Some(at)) => Some(at),
            (true, None) => self.limit.and_then(|limit| now.checked_add(limit)),
        };
    }

    /// Returns when [`is_over`](Self::is_over) will be true.
    pub(crate) fn next_deadline(&self) -> Option<Instant> {
        self.close_at
    }

    /// Returns true when everything that waits now is to be closed; the next time is a second later.
    pub(crate) fn is_over(&mut self, now: Instant) -> bool {
        let is_over = self.close_at.is_some_and(|at| at <= now);
        if is_over {
            self.close_at = now.checked_add(CLOSE_EVERY);
        }
        is_over
    }
}
