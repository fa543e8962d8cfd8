//! Whether connections go where they belong, as seen from outside the switchboard.

use super::choice::EXPECTED_FOR;
use super::ledger::Home;
use super::*;

impl Crowd {
    /// A worker has ended; nobody had told it to when it was in rotation.
    pub(super) fn note_end(&mut self, worker: &Worker) {
        if worker.in_rotation {
            let joined = worker.joined.iter().map(|line| ((*line, worker.slot), self.now));
            self.ended.extend(joined);
        }
    }

    /// Checks that no worker was a better choice.
    pub(super) fn check_home(&mut self, number: u32, line: LineId, connection: u32) {
        let home = self.ledger.home_of(connection);
        let slot = self.workers[&number].slot;
        let certain = || self.workers.iter().filter(|(_, worker)| worker.is_certain_for(line, self.now));
        match home {
            Home::Anywhere => return,
            Home::Owner(key) => {
                let rank = |number: u32, slot: Slot| (key.weight(slot.0), number);
                let better = certain().find(|(other, one)| rank(**other, one.slot) > rank(number, slot));
                assert!(better.is_none(), "worker {number} gets what belongs to {better:?}");
                let is_better = |other: &Slot| key.weight(other.0) > key.weight(slot.0);
                let expected = self.expected(line).find(is_better);
                assert_eq!(expected, None, "worker {number} gets what another slot may have soon");
            }
            Home::Slot(own) => {
                let better =
                    certain().find(|(other, one)| one.slot == own && (slot != own || **other > number));
                assert!(better.is_none(), "worker {number} gets what belongs to {better:?}");
                assert!(
                    slot == own || self.expected(line).all(|other| other != own),
                    "{own:?} may have it soon"
                );
            }
        }
        self.ledger.count("delivered by key");
    }

    /// Checks that no connection waits whose worker is there and free.
    pub(super) fn check_held_by_key(&self) {
        for (line, home) in self.ledger.held_by_key() {
            let joined = || {
                self.workers.iter().filter(|(_, worker)| worker.in_rotation && worker.joined.contains(&line))
            };
            let ended = || {
                self.ended
                    .iter()
                    .filter(|((of, _), at)| *of == line && **at + EXPECTED_FOR + LATE_TICK >= self.now)
            };
            let best = match home {
                Home::Owner(key) => {
                    let best = joined().max_by_key(|(number, worker)| (key.weight(worker.slot.0), **number));
                    let weight = best.map_or(0, |(_, worker)| key.weight(worker.slot.0));
                    best.filter(|_| ended().all(|((_, slot), _)| key.weight(slot.0) <= weight))
                }
                Home::Slot(slot) => joined().rfind(|(_, worker)| worker.slot == slot),
                Home::Anywhere => joined().find(|(_, worker)| worker.is_free_for(line, self.now)),
            };
            let idle = best.filter(|(_, worker)| worker.is_free_for(line, self.now));
            assert!(idle.is_none(), "a connection of {line:?} for {home:?} waits beside {idle:?}");
        }
    }

    /// Returns the slots that are waited for: nobody of them is there in any way.
    fn expected(&self, line: LineId) -> impl Iterator<Item = Slot> {
        let is_waited_for = move |((of, slot), at): &(&(LineId, Slot), &Instant)| {
            let is_there = |worker: &Worker| worker.slot == *slot && worker.joined.contains(&line);
            *of == line && **at + EXPECTED_FOR > self.now && !self.workers.values().any(is_there)
        };
        self.ended.iter().filter(is_waited_for).map(|((_, slot), _)| *slot)
    }
}

impl Worker {
    /// Returns true when nothing but its load keeps it from being given connections of the line.
    fn is_certain_for(&self, line: LineId, now: Instant) -> bool {
        let oldest = self.out.values().map(|out| out.since);
        let oldest = oldest.chain(self.unacknowledged.iter().map(|(_, since)| *since)).min();
        let may_be_overdue = oldest.is_some_and(|since| since.max(self.judged_from) + OVERDUE_AFTER <= now);
        self.in_rotation
            && self.joined.contains(&line)
            && !self.refused.contains_key(&line)
            && !self.is_overdue
            && !may_be_overdue
            && !self.was_broken
    }
}
