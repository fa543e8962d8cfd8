//! Limits of open connections in the simulation, and whether they are kept.

use super::ledger::Ledger;
use super::*;
use crate::ids::AppId;

const APP: AppId = AppId(0);

/// The limits of one world, as its maker has drawn them.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limited {
    pub(super) limits: Limits,
    /// What is too much does not wait.
    pub(super) turns_away: bool,
}

impl Limited {
    /// Half of the worlds have none.
    pub(super) fn draw(seed: u64) -> Option<Self> {
        let mut dice = Dice::new(seed ^ 0x11417);
        let per_worker = dice.pick(&[None, Some(1), Some(3), Some(20)]).flatten();
        let per_app = dice.pick(&[None, Some(2), Some(6), Some(30)]).flatten();
        let limits = Limits { app: APP, per_worker, per_app };
        let is_any = per_worker.is_some() || per_app.is_some();
        (is_any && dice.percent(60)).then_some(Self { limits, turns_away: dice.percent(30) })
    }
}

impl World {
    /// Clients close a connection of this worker's.
    pub(super) fn close_one(&mut self, number: u32) {
        let Some(worker) = self.crowd.workers.get_mut(&number) else { return };
        if worker.open > 0 {
            worker.open -= 1;
            self.crowd.plan_report(number);
        }
    }

    /// The primary turns away what is too much, where it does not wait, and looks whether it has waited for too long.
    pub(super) fn see_to_limits(&mut self) {
        let Some(limited) = self.limited else { return };
        let now = self.crowd.now;
        let mut is_blocked = false;
        for line in self.lines.clone() {
            while self.backlog[&line] > 0 && self.board.is_overloaded(line, now) {
                self.crowd.ledger.count("limits met");
                if !limited.turns_away {
                    is_blocked = true;
                    break;
                }
                *self.backlog.entry(line).or_default() -= 1;
                self.board.turn_away(line);
                self.crowd.ledger.turn_away();
            }
        }
        self.patience.block(is_blocked, now);
    }

    /// Notes who may have no more, as the primary believes.
    pub(super) fn note_limits(&mut self) {
        let most = self.limited.and_then(|limited| limited.limits.per_app);
        let is_app_full = most.is_some_and(|most| self.board.engaged(APP) >= most);
        for worker in self.crowd.workers.values_mut() {
            worker.is_at_limit = is_app_full || self.board.is_at_limit(worker.seat);
        }
    }

    /// Checks that the primary knows how many connections are open, when everybody has said so.
    pub(super) fn check_counts(&self) {
        if self.limited.is_none() {
            return;
        }
        let counting = self.crowd.workers.values().filter(|worker| worker.traits.counts);
        let open: u64 = counting.map(|worker| worker.open).sum();
        let uncounted = self.crowd.workers.values().any(|worker| !worker.traits.counts);
        let engaged = self.board.engaged(APP);
        assert!(uncounted || engaged == open, "{open} are open, the primary believes {engaged}");
    }
}

impl Crowd {
    /// The worker reports how many connections are open, some time after that has changed.
    pub(super) fn plan_report(&mut self, number: u32) {
        let Some(worker) = self.workers.get_mut(&number).filter(|worker| worker.traits.counts) else {
            return;
        };
        if !std::mem::replace(&mut worker.is_report_planned, true) {
            let blocked = worker.blocked_until.saturating_duration_since(self.now);
            let delay = self.dice.milliseconds(10);
            self.plan(blocked + delay, Act::Report(number));
        }
    }

    pub(super) fn report(&mut self, number: u32) {
        let Some(worker) = self.workers.get_mut(&number) else { return };
        worker.is_report_planned = false;
        if !worker.is_alive {
            return;
        }
        if worker.blocked_until > self.now {
            return self.plan_report(number);
        }
        worker.answers.push_back(Answer::Open(worker.open));
        self.plan_hearing(number, 3);
    }

    /// Checks that a connection that is about to go to a worker is not one too many.
    pub(super) fn check_limits(&self, number: u32, connection: u32) {
        let Some(limits) = self.limits else { return };
        // What is open already always finds a place.
        if self.ledger.is_moved(connection) {
            return;
        }
        let worker = &self.workers[&number];
        if worker.traits.counts {
            let engaged = worker.engaged(&self.ledger);
            assert!(limits.per_worker.is_none_or(|most| engaged < most), "{engaged} are open in {worker:?}");
        }
        let counting = self.workers.values().filter(|worker| worker.traits.counts && worker.is_alive);
        let engaged: u64 = counting.map(|worker| worker.engaged(&self.ledger)).sum();
        assert!(limits.per_app.is_none_or(|most| engaged < most), "{engaged} are open in all workers");
    }
}

impl Worker {
    /// Returns how many connections are open, or on their way.
    fn engaged(&self, ledger: &Ledger) -> u64 {
        let on_their_way = self.out.values().filter(|out| !ledger.is_taken(out.connection)).count();
        self.open + on_their_way as u64
    }
}
