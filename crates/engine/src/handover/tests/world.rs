//! The simulated world: a switchboard among workers, in virtual time.

pub(super) mod crowd;
mod homes;
pub(super) mod ledger;
mod limits;
mod patience;
mod promptness;
pub(super) mod traits;

use std::collections::BTreeMap;

use self::crowd::{Act, Answer, Crowd, Out, Worker};
use self::ledger::Connection;
use self::limits::Limited;
use self::patience::Patience;
use self::traits::Traits;
use super::dice::{Count, Dice};
use super::*;

/// How late a tick may come.
const LATE_TICK: Duration = Duration::from_millis(50);
/// How many connections may wait before the primary accepts no more: each of them is checked again and again.
const MOST_HELD: usize = 16;

/// What the rest of the primary learns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fact {
    Overdue(u32, Duration),
    Answering(u32),
    TookEnough(u32, u64),
    /// The worker's channel was read to its end, and its seat is removed.
    Closed(u32),
}

/// A switchboard among workers that it cannot trust.
pub(super) struct World {
    pub(super) board: Switchboard<Connection>,
    pub(super) crowd: Crowd,
    pub(super) lines: Vec<LineId>,
    /// How many connections the kernel keeps for each line.
    backlog: BTreeMap<LineId, u64>,
    pub(super) facts: Vec<Fact>,
    patience: Patience,
    limited: Option<Limited>,
    /// No client comes any more.
    is_calm: bool,
}

impl World {
    pub(super) fn new(seed: u64) -> Self {
        let limited = Limited::draw(seed);
        let crowd = Crowd::new(seed, limited.map(|limited| limited.limits));
        Self {
            board: Switchboard::default(),
            patience: Patience::new(seed, crowd.now),
            crowd,
            lines: Vec::new(),
            backlog: BTreeMap::new(),
            facts: Vec::new(),
            limited,
            is_calm: false,
        }
    }

    pub(super) fn add_line(&mut self, choice: Choice) -> LineId {
        let line = self.board.add_line(choice);
        if let Some(limited) = self.limited {
            self.board.limit_line(line, limited.limits);
        }
        self.crowd.ledger.add_line(line, choice);
        self.lines.push(line);
        self.backlog.insert(line, 0);
        line
    }

    /// Closes a listener; the kernel resets what it kept for it.
    pub(super) fn remove_line(&mut self, line: LineId) {
        self.crowd.ledger.remove_line(line);
        self.lines.retain(|other| *other != line);
        self.backlog.remove(&line);
        self.crowd.ended.retain(|(of, _), _| *of != line);
        for worker in self.crowd.workers.values_mut() {
            worker.serves.remove(&line);
            worker.joined.remove(&line);
            worker.refused.remove(&line);
        }
        self.board.remove_line(line);
        self.settle();
    }

    pub(super) fn add_worker(&mut self, number: u32, slot: Slot, traits: Traits) {
        let seat = self.board.add_seat(traits.window, number, slot);
        if let Some(limited) = self.limited {
            self.board.limit_seat(seat, limited.limits);
        }
        if traits.counts {
            self.board.will_count(seat);
        }
        self.crowd.seat(number, seat, slot, traits);
    }

    pub(super) fn count_to(&mut self, number: u32, connections: u64) {
        if let Some(worker) = self.crowd.workers.get(&number) {
            self.board.count_to(worker.seat, connections);
        }
    }

    /// The worker opens a server.
    pub(super) fn open_server(&mut self, number: u32, line: LineId) {
        let Some(worker) = self.crowd.workers.get_mut(&number).filter(|worker| worker.is_alive) else {
            return;
        };
        worker.serves.insert(line);
        worker.joined.insert(line);
        worker.refused.remove(&line);
        let seat = worker.seat;
        self.board.join(line, seat, self.crowd.now, &mut self.crowd);
        self.settle();
        self.accept();
    }

    /// The worker closes a server; until the primary reads that, it refuses what comes.
    pub(super) fn close_server(&mut self, number: u32, line: LineId) {
        let Some(worker) = self.crowd.workers.get_mut(&number) else { return };
        if worker.serves.remove(&line) {
            self.crowd.ledger.count("servers closed");
            let delay = self.crowd.dice.milliseconds(5);
            self.crowd.plan(delay, Act::Leave(number, line));
        }
    }

    pub(super) fn set_rotation(&mut self, number: u32, in_rotation: bool) {
        self.patience.rotate(number, in_rotation, self.crowd.now);
        self.crowd.set_rotation(number, in_rotation);
        let Some(worker) = self.crowd.workers.get(&number) else { return };
        self.board.set_rotation(worker.seat, in_rotation, self.crowd.now, &mut self.crowd);
        self.settle();
        self.accept();
    }

    /// Sends a handle that is no connection, such as a UDP socket.
    pub(super) fn send_other(&mut self, number: u32) {
        let Some(worker) = self.crowd.workers.get(&number) else { return };
        self.board.sent_other(worker.seat, self.crowd.now);
        self.crowd.send_other(number);
    }

    pub(super) fn block(&mut self, number: u32, time: Duration) {
        if let Some(worker) = self.crowd.workers.get_mut(&number) {
            worker.blocked_until = self.crowd.now + time;
        }
    }

    /// The worker dies; the primary sees that when it has read what the worker had said.
    pub(super) fn kill(&mut self, number: u32) {
        let Some(worker) = self.crowd.workers.get_mut(&number) else { return };
        worker.is_alive = false;
        self.crowd.plan_hearing(number, 50);
    }

    /// The worker dies, and something that it started holds its channel open.
    pub(super) fn kill_unseen(&mut self, number: u32) {
        if let Some(worker) = self.crowd.workers.get_mut(&number) {
            worker.is_alive = false;
            worker.is_hearing_planned = true;
        }
    }

    /// The primary gives up a worker's channel.
    pub(super) fn remove(&mut self, number: u32) {
        let Some(worker) = self.crowd.workers.remove(&number) else { return };
        self.crowd.by_seat.remove(&worker.seat);
        self.crowd.note_end(&worker);
        for out in worker.out.values() {
            self.crowd.ledger.bring_back(out.connection, "left by the dead");
        }
        self.board.remove_seat(worker.seat, self.crowd.now, &mut self.crowd);
        self.facts.push(Fact::Closed(number));
        self.settle();
    }

    /// Clients connect; the kernel keeps them until the primary accepts.
    pub(super) fn arrive(&mut self, line: LineId, count: u64) {
        *self.backlog.entry(line).or_default() += count;
        self.accept();
    }

    /// The primary accepts although it should not: connections came in one batch.
    pub(super) fn accept_too_much(&mut self, line: LineId) {
        self.connect(line);
    }

    fn connect(&mut self, line: LineId) {
        let key =
            self.crowd.ledger.is_by_key(line).then(|| Key::of(&self.crowd.dice.below(50).to_ne_bytes()));
        let connection = self.crowd.ledger.open(line, key);
        self.board.connect(line, Arrival::new(connection, key), self.crowd.now, &mut self.crowd);
        self.settle();
    }

    /// The worker gives an idle connection back. It goes to a newer worker when one is free, whose turn it is or not;
    /// where keys choose, it stays with its slot.
    pub(super) fn give_back(&mut self, number: u32, line: LineId) {
        self.close_one(number);
        let Some(worker) = self.crowd.workers.get(&number) else { return };
        let (from, slot) = (worker.seat, worker.slot);
        let is_by_key = self.crowd.ledger.is_by_key(line);
        let has_heir =
            |(other, worker): (&u32, &Worker)| *other > number && worker.is_free_for(line, self.crowd.now);
        let expects_newer = !is_by_key && self.crowd.workers.iter().any(has_heir);
        let connection = self.crowd.ledger.open_again(line, is_by_key.then_some(slot));
        let moved = connection.number;
        let failures = self.crowd.ledger.failed_deliveries();
        self.board.take_over(line, connection, from, self.crowd.now, &mut self.crowd);
        if expects_newer && self.crowd.ledger.failed_deliveries() == failures {
            let heir = self.crowd.ledger.worker_of(moved);
            assert!(heir.is_some_and(|heir| heir > number), "worker {number} gave it back, {heir:?} has it");
        }
        self.settle();
    }

    fn accept(&mut self) {
        for line in self.lines.clone() {
            while self.backlog[&line] > 0
                && self.crowd.ledger.held().count() < MOST_HELD
                && self.board.can_accept(line, self.crowd.now)
            {
                *self.backlog.entry(line).or_default() -= 1;
                self.connect(line);
            }
        }
        self.see_to_limits();
    }

    /// Returns when something happens next.
    pub(super) fn next_at(&self) -> Option<Instant> {
        let act = self.crowd.agenda.keys().next().map(|(at, _)| *at);
        [act, self.alarm()].into_iter().flatten().min()
    }

    /// Returns when the data plane has something to do by itself.
    fn alarm(&self) -> Option<Instant> {
        let is_anybody_there = !self.is_calm || self.waiting() > 0;
        let hold = self.patience.next_deadline().filter(|_| is_anybody_there);
        [self.board.next_deadline(), hold].into_iter().flatten().min()
    }

    /// Returns how many connections the kernel and the switchboard hold.
    fn waiting(&self) -> u64 {
        self.backlog.values().sum::<u64>() + self.crowd.ledger.held().count() as u64
    }

    /// Lets the next thing happen; returns false when nothing ever would.
    pub(super) fn step(&mut self) -> bool {
        let act = self.crowd.agenda.keys().next().copied();
        match (act, self.alarm()) {
            (None, None) => return false,
            (Some(key), alarm) if alarm.is_none_or(|at| key.0 < at) => {
                self.crowd.now = self.crowd.now.max(key.0);
                if let Some(act) = self.crowd.agenda.remove(&key) {
                    self.play(act);
                }
            }
            (_, alarm) => {
                let is_late = self.crowd.dice.percent(10);
                let late = if is_late { self.crowd.dice.milliseconds(50) } else { Duration::ZERO };
                self.crowd.now = self.crowd.now.max(alarm.unwrap_or(self.crowd.now)) + late;
                self.tick();
            }
        }
        self.accept();
        self.patience.check(self.crowd.now);
        true
    }

    fn tick(&mut self) {
        self.crowd.workers.values_mut().for_each(Worker::may_be_tried_again);
        let now = self.crowd.now;
        self.board.tick(now, &mut self.crowd);
        self.settle();
        if self.patience.is_over(now) {
            self.close_held();
        }
        let next = self.alarm();
        assert!(next.is_none_or(|at| at > now), "a deadline that a tick does not settle: a busy loop");
    }

    /// Closes everything that waits: nobody was ready for too long.
    fn close_held(&mut self) {
        for line in self.lines.clone() {
            let queued = self.backlog.insert(line, 0).unwrap_or(0);
            let doomed = self.crowd.ledger.give_up(line);
            assert_eq!(self.board.drop_waiting(line), doomed, "what waits for {line:?} is dropped");
            for _ in 0..queued + doomed {
                self.crowd.ledger.count("held too long");
            }
        }
        self.settle();
    }

    /// The app ends: its connections have another fate.
    pub(super) fn end_holding(&mut self) {
        self.patience.end();
    }

    fn play(&mut self, act: Act) {
        match act {
            Act::Work(number) => self.crowd.work(number),
            Act::Hear(number) => self.hear(number),
            Act::Writable(number) => {
                let Some(worker) = self.crowd.workers.get_mut(&number) else { return };
                worker.has_news();
                let seat = worker.seat;
                self.board.writable(seat, self.crowd.now, &mut self.crowd);
                self.settle();
            }
            Act::Leave(number, line) => {
                let Some(worker) = self.crowd.workers.get_mut(&number) else { return };
                if !worker.serves.contains(&line) && worker.joined.remove(&line) {
                    worker.refused.remove(&line);
                    let seat = worker.seat;
                    self.board.leave(line, seat, self.crowd.now, &mut self.crowd);
                    self.settle();
                }
            }
            Act::Kill(number) => {
                if self.crowd.workers.get(&number).is_some_and(|worker| worker.is_overdue) {
                    self.crowd.ledger.count("killed for being overdue");
                    self.kill(number);
                }
            }
            Act::Die(number) => self.kill(number),
            Act::Close(number) => self.close_one(number),
            Act::Report(number) => self.crowd.report(number),
        }
    }

    /// The primary reads a worker's channel, to its end when the worker is dead.
    fn hear(&mut self, number: u32) {
        if let Some(worker) = self.crowd.workers.get_mut(&number) {
            worker.is_hearing_planned = false;
        }
        while let Some(worker) = self.crowd.workers.get_mut(&number) {
            let Some(answer) = worker.answers.pop_front() else { break };
            worker.has_news();
            self.hear_one(number, answer);
            self.settle();
        }
        if self.crowd.workers.get(&number).is_some_and(|worker| !worker.is_alive) {
            self.remove(number);
        }
    }

    fn hear_one(&mut self, number: u32, answer: Answer) {
        let now = self.crowd.now;
        let Some(worker) = self.crowd.workers.get_mut(&number) else { return };
        let seat = worker.seat;
        worker.heard_at = now;
        let was_owed = match answer {
            Answer::Ack => {
                worker.unacknowledged.pop_front();
                self.board.acked(seat, now, &mut self.crowd).is_some()
            }
            Answer::Nack => {
                let seq = worker.unacknowledged.pop_front().and_then(|(seq, _)| seq);
                if let Some(out) = seq.and_then(|seq| worker.out.remove(&seq)) {
                    self.hear_refused(number, out, "not delivered");
                }
                self.board.nacked(seat, now, &mut self.crowd).is_some()
            }
            Answer::Reply { seq, accepted } => {
                if let Some(out) = worker.out.remove(&seq) {
                    if accepted {
                        worker.hear_taken(&out);
                        self.crowd.ledger.hear_taken(out.connection);
                    } else {
                        self.hear_refused(number, out, "refused");
                    }
                }
                self.board.replied(seat, seq, accepted, now, &mut self.crowd)
            }
            Answer::Open(count) => {
                self.board.counted(seat, count, now, &mut self.crowd);
                true
            }
        };
        assert!(was_owed, "{answer:?} of worker {number} is not believed");
    }

    fn hear_refused(&mut self, number: u32, out: Out, what: &'static str) {
        let now = self.crowd.now;
        self.crowd.ledger.hear_refused(out.connection, what);
        if let Some(worker) = self.crowd.workers.get_mut(&number) {
            worker.hear_refused(&out, now);
        }
    }

    /// The worker answers what it does not have.
    pub(super) fn tell_nonsense(&mut self, number: u32, seq: u64, accepted: bool) {
        let Some(worker) = self.crowd.workers.get(&number) else { return };
        let (seat, now) = (worker.seat, self.crowd.now);
        if !worker.out.contains_key(&seq) {
            assert!(!self.board.replied(seat, seq, accepted, now, &mut self.crowd), "seq {seq} is not there");
        } else if worker.unacknowledged.is_empty() {
            assert_eq!(self.board.acked(seat, now, &mut self.crowd), None, "no acknowledgement is owed");
            assert_eq!(self.board.nacked(seat, now, &mut self.crowd), None, "no acknowledgement is owed");
        }
        self.settle();
    }

    /// Draws the conclusions of one call: what was told, what was closed, and that nobody waits in vain.
    fn settle(&mut self) {
        for notice in self.board.take_notices() {
            let (seat, waiting) = match notice {
                Notice::Overdue(seat, waiting) => (seat, Some(waiting)),
                Notice::Answering(seat) => (seat, None),
                Notice::TookEnough(seat, connections) => {
                    let number = self.crowd.by_seat.get(&seat);
                    self.facts.extend(number.map(|number| Fact::TookEnough(*number, connections)));
                    self.crowd.ledger.count("took enough");
                    continue;
                }
                Notice::Uncounted(seat) => {
                    let number = self.crowd.by_seat.get(&seat);
                    let counts = number.is_some_and(|number| self.crowd.workers[number].traits.counts);
                    assert!(!counts, "it counts");
                    self.crowd.ledger.count("uncounted");
                    continue;
                }
                Notice::Probed { .. } => unreachable!("nobody is probed in this world"),
            };
            let Some(number) = self.crowd.by_seat.get(&seat) else { continue };
            let is_overdue = waiting.is_some();
            let answering = Fact::Answering(*number);
            self.facts.push(waiting.map_or(answering, |waiting| Fact::Overdue(*number, waiting)));
            if let Some(worker) = self.crowd.workers.get_mut(number) {
                assert_ne!(worker.is_overdue, is_overdue, "told twice");
                worker.is_overdue = is_overdue;
                self.crowd.ledger.count(if is_overdue { "overdue" } else { "caught up" });
            }
        }
        self.crowd.ledger.settle();
        self.note_limits();
        self.crowd.check_held_by_key();
        let Crowd { now, ledger, workers, .. } = &mut self.crowd;
        for line in ledger.held_lines() {
            let idle = workers.values().find(|worker| worker.is_free_for(line, *now));
            assert!(
                idle.is_none() || ledger.is_by_key(line),
                "a connection of {line:?} waits beside {idle:?}"
            );
            if !workers.values().any(|worker| worker.in_rotation) {
                ledger.count("held without a worker");
            }
        }
    }

    /// From now on nothing goes wrong that has not gone wrong yet.
    pub(super) fn calm_down(&mut self) {
        let now = self.crowd.now;
        self.is_calm = true;
        for worker in self.crowd.workers.values_mut() {
            let (window, shuffles) = (worker.traits.window, worker.traits.shuffles);
            let counts = worker.traits.counts;
            worker.traits = Traits { window, shuffles, counts, ..Traits::calm() };
            worker.blocked_until = now;
        }
    }

    /// Checks what must be true when nothing ever happens again, and workers are in rotation for all lines.
    pub(super) fn check_rest(&self) {
        assert!(self.crowd.ledger.has_ended_all(), "a connection is left: {:?}", self.board);
        assert!(self.backlog.values().all(|count| *count == 0), "the kernel keeps some: {:?}", self.backlog);
        for worker in self.crowd.workers.values() {
            assert_eq!(self.board.unanswered(worker.seat), 0, "{worker:?}");
        }
        self.check_tally();
        self.check_counts();
    }

    pub(super) fn check_tally(&self) {
        self.crowd.ledger.compare(self.board.tally());
    }
}
