//! Every decision of the switchboard one by one, and seeded simulations of all of them at once.

mod advice;
mod answers;
mod dice;
mod fewest;
mod keys;
mod late;
mod limits;
mod removals;
mod resting;
mod simulation;
mod together;
mod turns;
mod world;

use std::collections::BTreeSet;
use std::rc::{Rc, Weak};
use std::time::Duration;

use super::arrivals::MOST_WAITING;
use super::hold::CLOSE_EVERY;
use super::line::{FIRST_BACK_OFF, LONGEST_BACK_OFF, SLACK};
use super::watch::OVERDUE_AFTER;
use super::*;
use crate::balance::Candidate;
use crate::ids::Slot;
use crate::sticky::Key;

const CHOICES: [Choice; 4] = [Choice::InTurn, Choice::Least, Choice::ByKey, Choice::Asked];

const A: SeatId = SeatId(0);
const B: SeatId = SeatId(1);
const C: SeatId = SeatId(2);

fn milliseconds(count: u64) -> Duration {
    Duration::from_millis(count)
}

/// Where the deliveries of a test go.
#[derive(Default)]
struct Post {
    /// `1→A`: connection 1 went to the first seat.
    told: Vec<String>,
    /// What is not answered, in the order of sending.
    out: Vec<(SeatId, u64)>,
    full: BTreeSet<SeatId>,
    broken: BTreeSet<SeatId>,
    /// `1?[0, 1]`: connection 1 may go to slot 0 or 1.
    asked: Vec<String>,
    /// What is answered to that.
    advice: Option<usize>,
    /// How many deliveries found a channel full or broken.
    turned_away: u32,
}

impl Deliver<Rc<u32>> for Post {
    fn advise(&mut self, _: LineId, connection: &Rc<u32>, workers: &[Candidate]) -> Option<usize> {
        let slots: Vec<u32> = workers.iter().map(|worker| worker.slot.0).collect();
        self.asked.push(format!("{connection}?{slots:?}"));
        self.advice
    }

    fn deliver(&mut self, seat: SeatId, _: LineId, seq: u64, connection: &Rc<u32>) -> Delivery {
        if self.broken.contains(&seat) || self.full.contains(&seat) {
            self.turned_away += 1;
            return if self.broken.contains(&seat) { Delivery::Broken } else { Delivery::Full };
        }
        self.told.push(format!("{connection}→{}", char::from(b'A' + seat.0 as u8)));
        self.out.push((seat, seq));
        Delivery::Sent
    }
}

/// A switchboard with a hand-driven clock and workers that do as they are told.
struct Desk {
    board: Switchboard<Rc<u32>>,
    post: Post,
    now: Instant,
    connections: Vec<Weak<u32>>,
}

impl Desk {
    fn new() -> Self {
        Self {
            board: Switchboard::default(),
            post: Post::default(),
            now: Instant::now(),
            connections: Vec::new(),
        }
    }

    /// Returns a desk with one line and this many workers in rotation on it.
    fn with_workers(count: usize) -> (Self, LineId) {
        Self::with_workers_by(Choice::InTurn, count)
    }

    fn with_workers_by(choice: Choice, count: usize) -> (Self, LineId) {
        let mut desk = Self::new();
        let line = desk.board.add_line(choice);
        for _ in 0..count {
            desk.add_worker(line, WINDOW);
        }
        (desk, line)
    }

    fn add_worker(&mut self, line: LineId, window: usize) -> SeatId {
        let seat = self.board.add_seat(window, 0, Slot(0));
        self.join(line, seat);
        self.rotate(seat, true);
        seat
    }

    fn join(&mut self, line: LineId, seat: SeatId) {
        self.board.join(line, seat, self.now, &mut self.post);
    }

    fn leave(&mut self, line: LineId, seat: SeatId) {
        self.board.leave(line, seat, self.now, &mut self.post);
    }

    fn rotate(&mut self, seat: SeatId, in_rotation: bool) {
        self.board.set_rotation(seat, in_rotation, self.now, &mut self.post);
    }

    /// Connects this many clients, numbered on from 1.
    fn connect(&mut self, line: LineId, count: usize) {
        for _ in 0..count {
            let connection = Rc::new(self.connections.len() as u32 + 1);
            self.connections.push(Rc::downgrade(&connection));
            self.board.connect(line, Arrival::new(connection, None), self.now, &mut self.post);
        }
    }

    /// A worker gives a connection back, numbered like new ones.
    fn give_back(&mut self, line: LineId, from: SeatId) {
        let connection = Rc::new(self.connections.len() as u32 + 1);
        self.connections.push(Rc::downgrade(&connection));
        self.board.take_over(line, connection, from, self.now, &mut self.post);
    }

    /// Returns the deliveries since the last call.
    fn told(&mut self) -> String {
        std::mem::take(&mut self.post.told).join(" ")
    }

    fn next_out(&mut self, seat: SeatId) -> u64 {
        let at = self.post.out.iter().position(|(to, _)| *to == seat).expect("the worker has a connection");
        self.post.out.remove(at).1
    }

    fn ack(&mut self, seat: SeatId) -> bool {
        self.board.acked(seat, self.now, &mut self.post).is_some()
    }

    fn nack(&mut self, seat: SeatId) -> bool {
        self.board.nacked(seat, self.now, &mut self.post).is_some()
    }

    fn reply(&mut self, seat: SeatId, seq: u64, accepted: bool) -> bool {
        self.board.replied(seat, seq, accepted, self.now, &mut self.post)
    }

    /// The worker takes its oldest connection.
    fn accept(&mut self, seat: SeatId) {
        let seq = self.next_out(seat);
        assert!(self.ack(seat) && self.reply(seat, seq, true));
    }

    /// The worker refuses its oldest connection.
    fn refuse(&mut self, seat: SeatId) {
        let seq = self.next_out(seat);
        assert!(self.ack(seat) && self.reply(seat, seq, false));
    }

    /// The worker is gone, with what it did not answer.
    fn end(&mut self, seat: SeatId) {
        self.post.out.retain(|(to, _)| *to != seat);
        self.board.remove_seat(seat, self.now, &mut self.post);
    }

    fn pass(&mut self, time: Duration) {
        self.now += time;
    }

    /// Lets the time run to the next deadline, which must be there, and returns how long that took.
    fn ring(&mut self) -> Duration {
        let at = self.board.next_deadline().expect("something is due");
        let waited = at.saturating_duration_since(self.now);
        self.now = self.now.max(at);
        self.board.tick(self.now, &mut self.post);
        let next = self.board.next_deadline();
        assert!(next.is_none_or(|at| at > self.now), "a deadline that a tick does not settle: a busy loop");
        waited
    }

    /// Lets this much time pass, and does what is due meanwhile.
    fn wait(&mut self, time: Duration) {
        let end = self.now + time;
        while self.board.next_deadline().is_some_and(|at| at <= end) {
            self.ring();
        }
        self.now = end;
    }

    /// Lets the time run to the end of a back-off; checks of workers may come before it.
    fn ring_until_told(&mut self) -> (Duration, String) {
        let begin = self.now;
        while self.post.told.is_empty() {
            self.ring();
        }
        (self.now - begin, self.told())
    }

    fn notices(&mut self) -> Vec<Notice> {
        self.board.take_notices().collect()
    }

    fn tally(&self) -> (u64, u64, u64, u64) {
        let Tally { handed_over, dropped, refused, redispatched, .. } = self.board.tally();
        (handed_over, dropped, refused, redispatched)
    }

    fn is_closed(&self, connection: usize) -> bool {
        self.connections[connection - 1].strong_count() == 0
    }
}
