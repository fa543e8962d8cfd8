//! Whether workers that are silent are passed by, as seen from outside the switchboard.

use super::super::super::progress::LATE_AFTER;
use super::*;

impl Crowd {
    /// Checks that a connection which may go to any worker goes to none that leaves something alone while another one has
    /// nothing to do.
    pub(super) fn check_promptness(&mut self, number: u32, line: LineId, connection: u32) {
        let is_anybodys = !self.ledger.is_moved(connection) && self.ledger.is_by_worker(line);
        // A limit shows here only after the switchboard has noticed it.
        if !is_anybodys || self.limits.is_some() {
            return;
        }
        let is_idle = |worker: &Worker| worker.is_free_for(line, self.now) && worker.silent_since().is_none();
        let is_late =
            |worker: &Worker| worker.silent_since().is_some_and(|since| self.now - since >= LATE_AFTER);
        let others = || self.workers.iter().filter(|(other, _)| **other != number).map(|(_, worker)| worker);
        if is_late(&self.workers[&number]) {
            let idle = others().find(|worker| is_idle(worker));
            assert!(idle.is_none(), "worker {number} is late, and gets what {idle:?} might have");
        } else if others().any(|worker| worker.is_free_for(line, self.now) && is_late(worker)) {
            self.ledger.count("late ones passed by");
        }
    }
}

impl Worker {
    /// Returns since when it owes something and was not heard from.
    fn silent_since(&self) -> Option<Instant> {
        let unanswered = self.out.values().map(|out| out.since).min();
        let unacknowledged = self.unacknowledged.front().map(|(_, since)| *since);
        let oldest = [unanswered, unacknowledged].into_iter().flatten().min()?;
        Some(oldest.max(self.judged_from).max(self.heard_at))
    }
}
