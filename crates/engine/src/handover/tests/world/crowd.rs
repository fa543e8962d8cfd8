//! The workers of the simulation, and the channels to them.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use super::ledger::{Connection, Ledger};
use super::traits::{Pace, Traits};
use super::*;
use crate::balance::Candidate;

#[derive(Clone, Copy, Debug)]
struct Message {
    seq: Option<u64>,
    line: LineId,
}

#[derive(Clone, Copy, Debug)]
pub(super) enum Answer {
    Ack,
    Nack,
    Reply {
        seq: u64,
        accepted: bool,
    },
    /// So many connections are open.
    Open(u64),
}

/// A hand-over that the primary has no answer to.
#[derive(Clone, Copy, Debug)]
pub(super) struct Out {
    pub(super) connection: u32,
    pub(super) line: LineId,
    pub(super) since: Instant,
}

/// One worker, seen from both ends of its channel.
#[derive(Debug)]
#[expect(clippy::struct_excessive_bools, reason = "independent facts about a made-up process")]
pub(crate) struct Worker {
    pub(super) seat: SeatId,
    pub(super) slot: Slot,
    pub(super) traits: Traits,
    pub(super) is_alive: bool,
    pub(super) blocked_until: Instant,
    /// The lines that it has a server for, in its own view.
    pub(super) serves: BTreeSet<LineId>,
    inbox: VecDeque<Message>,
    unsaid: Vec<Answer>,
    pub(super) answers: VecDeque<Answer>,
    pub(super) is_hearing_planned: bool,
    is_work_planned: bool,
    /// The lines that the switchboard believes it has a server for.
    pub(super) joined: BTreeSet<LineId>,
    pub(crate) in_rotation: bool,
    pub(super) judged_from: Instant,
    /// When the primary read its last answer.
    pub(super) heard_at: Instant,
    pub(super) unacknowledged: VecDeque<(Option<u64>, Instant)>,
    pub(super) out: BTreeMap<u64, Out>,
    full: Option<Full>,
    pub(super) was_broken: bool,
    pub(super) is_overdue: bool,
    /// The lines that it refused a connection of, with the time when the primary heard so.
    pub(super) refused: BTreeMap<LineId, Instant>,
    /// How many connections it has open.
    pub(super) open: u64,
    pub(super) is_report_planned: bool,
    /// The primary believes that it may have no more.
    pub(super) is_at_limit: bool,
}

/// A channel that the primary found full.
#[derive(Clone, Copy, Debug)]
struct Full {
    since: Instant,
    /// A tick has come since, which may try again.
    may_be_tried: bool,
}

/// Something that will happen.
#[derive(Clone, Copy, Debug)]
pub(super) enum Act {
    /// The worker reads its channel.
    Work(u32),
    /// The primary reads the worker's channel.
    Hear(u32),
    /// The worker's channel takes messages again.
    Writable(u32),
    /// The primary reads that the worker closed a server.
    Leave(u32, LineId),
    /// Somebody kills the worker if it is still overdue.
    Kill(u32),
    /// The worker dies.
    Die(u32),
    /// A connection of the worker's ends.
    Close(u32),
    /// The worker says how many connections are open.
    Report(u32),
}

/// The workers, the time, and what will happen.
pub(crate) struct Crowd {
    pub(crate) now: Instant,
    pub(super) dice: Dice,
    pub(crate) workers: BTreeMap<u32, Worker>,
    pub(super) by_seat: BTreeMap<SeatId, u32>,
    pub(super) agenda: BTreeMap<(Instant, u64), Act>,
    appointments: u64,
    seqs: BTreeSet<u64>,
    pub(crate) ledger: Ledger,
    /// When the last worker of a slot ended that nobody had told to, for each line that it had joined.
    pub(super) ended: BTreeMap<(LineId, Slot), Instant>,
    pub(super) limits: Option<Limits>,
}

impl Crowd {
    pub(super) fn new(seed: u64, limits: Option<Limits>) -> Self {
        Self {
            now: Instant::now(),
            dice: Dice::new(seed),
            workers: BTreeMap::new(),
            by_seat: BTreeMap::new(),
            agenda: BTreeMap::new(),
            appointments: 0,
            seqs: BTreeSet::new(),
            ledger: Ledger::default(),
            ended: BTreeMap::new(),
            limits,
        }
    }

    pub(super) fn plan(&mut self, delay: Duration, act: Act) {
        self.appointments += 1;
        self.agenda.insert((self.now + delay, self.appointments), act);
    }

    pub(super) fn seat(&mut self, number: u32, seat: SeatId, slot: Slot, traits: Traits) {
        let worker = Worker {
            seat,
            slot,
            traits,
            is_alive: true,
            blocked_until: self.now,
            serves: BTreeSet::new(),
            inbox: VecDeque::new(),
            unsaid: Vec::new(),
            answers: VecDeque::new(),
            is_hearing_planned: false,
            is_work_planned: false,
            joined: BTreeSet::new(),
            in_rotation: false,
            judged_from: self.now,
            heard_at: self.now,
            unacknowledged: VecDeque::new(),
            out: BTreeMap::new(),
            full: None,
            was_broken: false,
            is_overdue: false,
            refused: BTreeMap::new(),
            open: 0,
            is_report_planned: false,
            is_at_limit: false,
        };
        self.by_seat.insert(seat, number);
        self.workers.insert(number, worker);
    }

    /// The worker dies after this time.
    pub(crate) fn plan_death(&mut self, number: u32, after: Duration) {
        self.plan(after, Act::Die(number));
    }

    /// The worker is killed after this time if it is still overdue.
    pub(crate) fn plan_execution(&mut self, number: u32, after: Duration) {
        self.plan(after, Act::Kill(number));
    }

    /// The worker gets another mood.
    pub(crate) fn change(&mut self, number: u32, nacks: u64, refuses: u64) {
        if let Some(worker) = self.workers.get_mut(&number) {
            worker.traits.nacks = nacks;
            worker.traits.refuses = refuses;
        }
    }

    pub(super) fn set_rotation(&mut self, number: u32, in_rotation: bool) {
        let now = self.now;
        if let Some(worker) = self.workers.get_mut(&number) {
            worker.in_rotation = in_rotation;
            worker.judged_from = now;
        }
    }

    pub(super) fn send_other(&mut self, number: u32) {
        let now = self.now;
        let Some(worker) = self.workers.get_mut(&number) else { return };
        worker.inbox.push_back(Message { seq: None, line: LineId(0) });
        worker.unacknowledged.push_back((None, now));
        self.plan_work(number);
    }

    fn plan_work(&mut self, number: u32) {
        let Some(worker) = self.workers.get_mut(&number) else { return };
        if std::mem::replace(&mut worker.is_work_planned, true) {
            return;
        }
        let blocked = worker.blocked_until.saturating_duration_since(self.now);
        let delay = match worker.traits.pace {
            Pace::AtOnce => Duration::ZERO,
            Pace::Slow(limit) | Pace::Bursts(limit) => self.dice.milliseconds(limit),
        };
        self.plan(blocked + delay, Act::Work(number));
    }

    pub(super) fn plan_hearing(&mut self, number: u32, limit: u64) {
        let Some(worker) = self.workers.get_mut(&number) else { return };
        if !std::mem::replace(&mut worker.is_hearing_planned, true) {
            let delay = self.dice.milliseconds(limit);
            self.plan(delay, Act::Hear(number));
        }
    }

    /// The worker reads what its pace lets it read, and answers.
    pub(super) fn work(&mut self, number: u32) {
        let Some(worker) = self.workers.get_mut(&number) else { return };
        worker.is_work_planned = false;
        if !worker.is_alive {
            return;
        }
        if worker.blocked_until > self.now {
            self.plan_work(number);
            return;
        }
        let count = match worker.traits.pace {
            Pace::Slow(_) => 1,
            Pace::AtOnce | Pace::Bursts(_) => worker.inbox.len(),
        };
        let messages: Vec<Message> = worker.inbox.drain(..count.min(worker.inbox.len())).collect();
        for message in messages {
            self.answer(number, message);
        }
        self.say_replies(number);
        self.plan_hearing(number, 3);
        let Some(worker) = self.workers.get_mut(&number) else { return };
        let (is_more_unread, was_full) = (!worker.inbox.is_empty(), worker.full.is_some());
        if is_more_unread {
            self.plan_work(number);
        }
        // Sometimes that is missed.
        if was_full && self.dice.percent(80) {
            let delay = self.dice.milliseconds(2);
            self.plan(delay, Act::Writable(number));
        }
    }

    fn answer(&mut self, number: u32, message: Message) {
        let Some(worker) = self.workers.get_mut(&number) else { return };
        let traits = &worker.traits;
        if self.dice.percent(traits.loses) {
            self.ledger.count("lost without a word");
            return;
        }
        // Who acknowledges nothing cannot say what did not arrive either.
        if !traits.never_acknowledges && self.dice.percent(traits.nacks) {
            worker.answers.push_back(Answer::Nack);
            return;
        }
        if !traits.never_acknowledges {
            worker.answers.push_back(Answer::Ack);
        }
        let Some(seq) = message.seq else { return };
        let refuses = self.dice.percent(traits.refuses) || !worker.serves.contains(&message.line);
        worker.unsaid.push(Answer::Reply { seq, accepted: !refuses });
    }

    /// The worker takes and refuses what it has read, in its order or in any.
    fn say_replies(&mut self, number: u32) {
        let Some(worker) = self.workers.get_mut(&number) else { return };
        let mut replies = std::mem::take(&mut worker.unsaid);
        if worker.traits.shuffles {
            for last in (1..replies.len()).rev() {
                replies.swap(last, self.dice.below(last as u64 + 1) as usize);
            }
        }
        let mut taken = 0;
        for reply in replies {
            if let Answer::Reply { seq, accepted: true } = reply {
                self.ledger.take(worker.out[&seq].connection, number);
                worker.open += 1;
                taken += 1;
            }
            worker.answers.push_back(reply);
        }
        for _ in 0..taken {
            let lifetime = self.dice.milliseconds(20);
            self.plan(lifetime, Act::Close(number));
            self.plan_report(number);
        }
    }

    fn check_delivery(&self, worker: &Worker, line: LineId) {
        assert!(
            worker.in_rotation && worker.joined.contains(&line),
            "it is not there to take any: {worker:?}"
        );
        assert!(!worker.was_broken, "a broken channel is tried again");
        let may_be_tried = worker.full.is_none_or(|full| full.may_be_tried);
        assert!(may_be_tried, "a full channel is tried again without a reason");
        let window = worker.traits.window;
        assert!(worker.out.len() < window, "its window is full: {worker:?}");
        assert!(worker.unacknowledged.len() < window, "it has not acknowledged that much: {worker:?}");
        let may_be_asked = worker.refused.get(&line).is_none_or(|at| *at + FIRST_BACK_OFF <= self.now);
        assert!(may_be_asked, "it refused a moment ago: {worker:?}");
        let oldest = worker.out.values().map(|out| out.since).min();
        let unacknowledged = worker.unacknowledged.front().map(|(_, since)| *since);
        if let Some(since) = [oldest, unacknowledged].into_iter().flatten().min() {
            let late_at = worker.judged_from.max(since) + OVERDUE_AFTER + CHECK_EVERY + LATE_TICK;
            assert!(self.now <= late_at, "it is overdue: {worker:?}");
        }
    }
}

impl Deliver<Connection> for Crowd {
    /// Whoever is asked may say anything.
    fn advise(&mut self, _: LineId, _: &Connection, workers: &[Candidate]) -> Option<usize> {
        assert!(!workers.is_empty(), "there is nobody to choose");
        self.ledger.count("asked");
        let any = self.dice.below(workers.len() as u64 + 2) as usize;
        self.dice.percent(80).then_some(any)
    }

    fn deliver(&mut self, seat: SeatId, line: LineId, seq: u64, connection: &Connection) -> Delivery {
        let number = self.by_seat[&seat];
        self.check_delivery(&self.workers[&number], line);
        self.check_home(number, line, connection.number);
        self.check_limits(number, connection.number);
        self.check_promptness(number, line, connection.number);
        let Some(worker) = self.workers.get_mut(&number) else { return Delivery::Broken };
        // A child of a dead worker may hold its end of the channel open.
        if !worker.is_alive && self.dice.percent(70) {
            worker.was_broken = true;
            self.ledger.count("channels broken");
            return Delivery::Broken;
        }
        if worker.inbox.len() >= worker.traits.capacity {
            worker.full = Some(Full { since: self.now, may_be_tried: false });
            self.ledger.count("channels full");
            return Delivery::Full;
        }
        assert!(self.seqs.insert(seq), "message number {seq} is used twice");
        worker.full = None;
        worker.inbox.push_back(Message { seq: Some(seq), line });
        worker.unacknowledged.push_back((Some(seq), self.now));
        worker.out.insert(seq, Out { connection: connection.number, line, since: self.now });
        self.ledger.deliver(connection.number, line, number);
        self.plan_work(number);
        Delivery::Sent
    }
}

impl Worker {
    /// A connection that was sent after the last refusal shows that the worker takes them again.
    pub(super) fn hear_taken(&mut self, out: &Out) {
        if self.refused.get(&out.line).is_some_and(|at| *at < out.since) {
            self.refused.remove(&out.line);
        }
    }

    /// Refusals of connections that were sent before the first one was heard count as one.
    pub(super) fn hear_refused(&mut self, out: &Out, now: Instant) {
        if self.joined.contains(&out.line) && self.refused.get(&out.line).is_none_or(|at| *at < out.since) {
            self.refused.insert(out.line, now);
        }
    }

    /// The primary has heard of the worker: its channel may have room again.
    pub(super) fn has_news(&mut self) {
        self.full = None;
    }

    pub(super) fn may_be_tried_again(&mut self) {
        if let Some(full) = &mut self.full {
            full.may_be_tried = true;
        }
    }

    /// Returns true when nothing that can be seen from outside keeps it from taking a connection of the line.
    pub(super) fn is_free_for(&self, line: LineId, now: Instant) -> bool {
        let has_room = self.full.is_none_or(|full| full.since + CHECK_EVERY + LATE_TICK < now);
        self.in_rotation
            && self.joined.contains(&line)
            && !self.refused.contains_key(&line)
            && !self.is_overdue
            && !self.is_at_limit
            && has_room
            && !self.was_broken
            && self.out.len().max(self.unacknowledged.len()) < self.traits.window
    }
}
