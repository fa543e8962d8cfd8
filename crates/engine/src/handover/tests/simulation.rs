//! Seeded schedules of faults against the switchboard; a failing seed replays with `WORKSONG_SEED=<seed>`.

use super::dice::{Count, Dice, run_seeds};
use super::world::traits::Traits;
use super::world::{Fact, World};
use super::*;

const SEEDS: u64 = 256;
const STEPS: u32 = 500;
/// Nobody is quicker with the axe than the supervisor.
const PATIENCE: Duration = Duration::from_secs(5);

const MUST_HAPPEN: [&str; 1 + 22] = [
    "asked",
    "caught up",
    "channels broken",
    "channels full",
    "delivered by key",
    "dropped",
    "held too long",
    "held without a worker",
    "killed for being overdue",
    "late ones passed by",
    "left by the dead",
    "limits met",
    "lines removed",
    "lost without a word",
    "moved",
    "nonsense told",
    "not delivered",
    "overdue",
    "refused",
    "servers closed",
    "taken",
    "turned away",
    "uncounted",
];

#[test]
fn random_schedules_lose_no_connection() {
    run_seeds(SEEDS, &MUST_HAPPEN, run);
}

/// Runs one schedule: a storm, and the calm after it.
fn run(seed: u64) -> Count {
    let mut storm = Storm { world: World::new(seed), dice: Dice::new(seed ^ 0x5eed), workers: 0 };
    for _ in 0..=storm.dice.below(2) {
        storm.add_line();
    }
    for _ in 0..storm.dice.below(5) {
        storm.add_worker();
    }
    for _ in 0..STEPS {
        if !storm.world.step() {
            storm.world.crowd.now += Duration::from_millis(1);
        }
        storm.strike();
        storm.see_to_facts();
        if storm.dice.percent(5) {
            storm.world.check_tally();
        }
    }
    storm.calm_down();
    storm.world.crowd.ledger.count
}

struct Storm {
    world: World,
    dice: Dice,
    workers: u32,
}

impl Storm {
    fn add_line(&mut self) {
        let choice = self.dice.pick(&CHOICES).unwrap_or(Choice::InTurn);
        self.world.add_line(choice);
    }

    fn add_worker(&mut self) {
        self.workers += 1;
        let traits = Traits::random(&mut self.dice);
        let slot = Slot(self.dice.below(4) as u32);
        self.world.add_worker(self.workers, slot, traits);
        for line in self.world.lines.clone() {
            if self.dice.percent(80) {
                self.world.open_server(self.workers, line);
            }
        }
        self.world.set_rotation(self.workers, true);
    }

    fn any_worker(&mut self) -> Option<u32> {
        let numbers: Vec<u32> = self.world.crowd.workers.keys().copied().collect();
        self.dice.pick(&numbers)
    }

    /// Something happens, or nothing does.
    fn strike(&mut self) {
        let event = self.dice.below(1_000);
        if event < 350 {
            self.clients_come();
        } else if event < 360 {
            self.add_or_remove_line();
        } else if event < 400 {
            if self.world.crowd.workers.len() < 6 {
                self.add_worker();
            }
        } else if event < 403 {
            let all: Vec<u32> = self.world.crowd.workers.keys().copied().collect();
            for number in all {
                self.world.kill(number);
            }
        } else if event < 600
            && let Some(number) = self.any_worker()
        {
            self.strike_worker(number, event);
        }
    }

    fn clients_come(&mut self) {
        let Some(line) = self.dice.pick(&self.world.lines) else { return };
        if self.dice.percent(10) {
            self.world.accept_too_much(line);
        } else {
            let most = if self.dice.percent(5) { 60 } else { 6 };
            let count = 1 + self.dice.below(most);
            self.world.arrive(line, count);
        }
    }

    fn add_or_remove_line(&mut self) {
        let count = self.world.lines.len();
        if count < 4 && self.dice.percent(60) {
            self.add_line();
        } else if count > 1
            && let Some(line) = self.dice.pick(&self.world.lines)
        {
            self.world.remove_line(line);
        }
    }

    fn strike_worker(&mut self, number: u32, event: u64) {
        let line = self.dice.pick(&self.world.lines);
        match event {
            403..420 => self.world.kill(number),
            420..435 => {
                self.world.set_rotation(number, false);
                let time = self.dice.milliseconds(3_000);
                self.world.crowd.plan_death(number, time);
            }
            435..460 => {
                let time = self.dice.milliseconds(8_000);
                self.world.block(number, time);
            }
            460..490 => {
                let nacks = self.dice.pick(&[0, 0, 50, 100]).unwrap_or(0);
                let refuses = self.dice.pick(&[0, 0, 50, 100]).unwrap_or(0);
                self.world.crowd.change(number, nacks, refuses);
            }
            490..510 => line.into_iter().for_each(|line| self.world.close_server(number, line)),
            510..540 => line.into_iter().for_each(|line| self.world.open_server(number, line)),
            540..550 => self.world.send_other(number),
            550..570 => line.into_iter().for_each(|line| self.world.give_back(number, line)),
            _ => self.tell_nonsense(number),
        }
    }

    /// Answers that nobody asked for, about connections of others, of the past, and of nobody.
    fn tell_nonsense(&mut self, number: u32) {
        let seq = self.dice.below(200);
        self.world.crowd.ledger.count("nonsense told");
        self.world.tell_nonsense(number, seq, self.dice.percent(50));
    }

    /// The part of the supervisor: who stays overdue is killed, and who is gone is not ready.
    fn see_to_facts(&mut self) {
        for fact in std::mem::take(&mut self.world.facts) {
            match fact {
                Fact::Overdue(number, _) => self.world.crowd.plan_execution(number, PATIENCE),
                Fact::Closed(number) => self.world.set_rotation(number, false),
                Fact::Answering(_) | Fact::TookEnough(..) => {}
            }
        }
    }

    fn calm_down(&mut self) {
        self.world.calm_down();
        self.workers += 1;
        self.world.add_worker(self.workers, Slot(0), Traits::calm());
        for line in self.world.lines.clone() {
            self.world.open_server(self.workers, line);
        }
        self.world.set_rotation(self.workers, true);
        let deadline = self.world.crowd.now + Duration::from_mins(1);
        while self.world.step() {
            self.see_to_facts();
            assert!(self.world.crowd.now < deadline, "all is calm, and something still happens");
        }
        self.world.check_rest();
    }
}
