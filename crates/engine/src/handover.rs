//! Which connection is where: the pure core of the data plane.
//!
//! A [`Switchboard`] knows *seats* (workers with a channel) and *lines* (listeners whose connections the
//! primary accepts). It owns every connection from `accept4` until a worker said that it took it:
//!
//! ```text
//!             connection                 answered: taken
//!   accept ──────────────▶ handed over ──────────────────▶ dropped (the worker has its own copy)
//!               │            │   NACK, refused, worker gone
//!               │ no seat    ▼
//!               └────────▶ waiting ──▶ handed over to another seat
//! ```
//!
//! It has no clock and no sockets: time comes in with each call, and [`Deliver`] carries a connection to a
//! worker. `C` is the connection: an owned descriptor in the data plane, a number in the simulation.

mod line;
mod seat;

use std::time::{Duration, Instant};

pub(crate) use self::line::LineId;
use self::line::{Line, Waiting};
pub(crate) use self::seat::SeatId;
use self::seat::{Pending, Seat, Sent};

/// How many hand-overs a worker may leave unanswered. 16 already gives the whole gain in processor time;
/// more would only trap more connections behind a worker that blocks.
pub(crate) const WINDOW: usize = 16;
/// How many more hand-overs than the least busy worker a worker may have and still be next in turn. Strict
/// turns would fill a blocked worker's window; strictly least busy would ruin the balance of long connections.
const SLACK: usize = 4;
/// A worker whose oldest hand-over waits for longer than this gets no new ones.
pub(crate) const OVERDUE_AFTER: Duration = Duration::from_secs(1);
/// How often hand-overs are checked for being overdue while there are any.
const OVERDUE_CHECK: Duration = Duration::from_millis(250);

/// Carries one connection to a worker.
pub(crate) trait Deliver<C> {
    /// Sends the connection for the line to the worker at the seat, as message number `seq`.
    fn deliver(&mut self, seat: SeatId, line: LineId, seq: u64, connection: &C) -> Delivery;
}

/// What became of a delivery.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Delivery {
    /// It is on its way.
    Sent,
    /// The worker's channel takes nothing more until [`Switchboard::writable`].
    Full,
    /// The channel is broken; the seat will be removed soon.
    Broken,
}

/// Something that others have to know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Notice {
    /// The worker's oldest hand-over is unanswered for this long; it gets no new ones.
    Overdue(SeatId, Duration),
    /// The worker answers again.
    Answering(SeatId),
}

/// What happened to connections so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Taken by a worker.
    pub handed_over: u64,
    /// Given to another worker after a refusal, a NACK or a worker's end.
    pub redispatched: u64,
    /// Refused by a worker (`accepted: false`).
    pub refused: u64,
    /// Closed because the listener was closed while they waited.
    pub dropped: u64,
}

/// The seats, the lines, and the connections between them.
#[derive(Debug)]
pub(crate) struct Switchboard<C> {
    seats: Vec<Option<Seat<C>>>,
    lines: Vec<Option<Line<C>>>,
    next_seq: u64,
    next_check: Option<Instant>,
    notices: Vec<Notice>,
    tally: Tally,
}

impl<C> Default for Switchboard<C> {
    fn default() -> Self {
        Self {
            seats: Vec::new(),
            lines: Vec::new(),
            next_seq: 0,
            next_check: None,
            notices: Vec::new(),
            tally: Tally::default(),
        }
    }
}

impl<C> Switchboard<C> {
    /// Adds a worker, out of rotation, with room for `window` unanswered hand-overs.
    pub(crate) fn add_seat(&mut self, window: usize) -> SeatId {
        let seat = Seat::new(window);
        let free = self.seats.iter().position(Option::is_none);
        let index = free.unwrap_or_else(|| {
            self.seats.push(None);
            self.seats.len() - 1
        });
        self.seats[index] = Some(seat);
        SeatId(index)
    }

    /// Removes a worker whose channel is closed and read to its end; what it did not take goes to others.
    pub(crate) fn remove_seat(&mut self, id: SeatId, now: Instant, deliver: &mut impl Deliver<C>) {
        for line in self.lines.iter_mut().flatten() {
            line.leave(id);
        }
        let Some(seat) = self.seats.get_mut(id.0).and_then(Option::take) else {
            return;
        };
        for pending in seat.into_pending() {
            self.redispatch(pending, now, deliver);
        }
    }

    /// Puts a worker in or out of rotation. Out of rotation it gets nothing new and keeps what it has.
    pub(crate) fn set_rotation(
        &mut self,
        id: SeatId,
        in_rotation: bool,
        now: Instant,
        deliver: &mut impl Deliver<C>,
    ) {
        if let Some(seat) = self.seat_mut(id) {
            seat.in_rotation = in_rotation;
        }
        self.drain_waiting(now, deliver);
    }

    /// Adds a listener without workers.
    pub(crate) fn add_line(&mut self) -> LineId {
        let free = self.lines.iter().position(Option::is_none);
        let index = free.unwrap_or_else(|| {
            self.lines.push(None);
            self.lines.len() - 1
        });
        self.lines[index] = Some(Line::new());
        LineId(index)
    }

    /// Removes a listener. Connections that wait for it are dropped; those handed over are still answered.
    pub(crate) fn remove_line(&mut self, id: LineId) {
        if let Some(line) = self.lines.get_mut(id.0).and_then(Option::take) {
            self.tally.dropped += line.waiting.len() as u64;
        }
    }

    /// Notes that a worker has a server for this line open.
    pub(crate) fn join(&mut self, line: LineId, seat: SeatId, now: Instant, deliver: &mut impl Deliver<C>) {
        if let Some(line) = self.line_mut(line) {
            line.join(seat);
        }
        self.drain_waiting(now, deliver);
    }

    /// Notes that a worker closed its server for this line.
    pub(crate) fn leave(&mut self, line: LineId, seat: SeatId) {
        if let Some(line) = self.line_mut(line) {
            line.leave(seat);
        }
    }

    /// Returns true when a worker has a server for this line open, in rotation or not.
    pub(crate) fn has_members(&self, line: LineId) -> bool {
        self.line(line).is_some_and(|line| !line.members.is_empty())
    }

    /// Returns true when a connection of this line would find a worker now.
    pub(crate) fn can_accept(&self, line: LineId, now: Instant) -> bool {
        self.line(line).is_some_and(|line| {
            line.waiting.is_empty()
                && line.members.iter().any(|member| member.open(now) && self.takes(member.seat))
        })
    }

    /// Takes a connection that was just accepted.
    pub(crate) fn connect(
        &mut self,
        line: LineId,
        connection: C,
        now: Instant,
        deliver: &mut impl Deliver<C>,
    ) {
        self.place(line, Waiting { connection, not_to: None }, now, deliver);
    }

    /// Notes that a handle message other than a connection went to the worker; it is answered in turn.
    pub(crate) fn sent_other(&mut self, id: SeatId) {
        if let Some(seat) = self.seat_mut(id) {
            seat.sent.push_back(Sent::Other);
        }
    }

    /// Handles a worker's `NODE_HANDLE_ACK`: the oldest unanswered handle arrived. `false`: none was owed.
    pub(crate) fn acked(&mut self, id: SeatId) -> bool {
        self.seat_mut(id).is_some_and(|seat| seat.sent.pop_front().is_some())
    }

    /// Handles a worker's `NODE_HANDLE_NACK`: the oldest unanswered handle did not arrive.
    pub(crate) fn nacked(&mut self, id: SeatId, now: Instant, deliver: &mut impl Deliver<C>) -> bool {
        let Some(seat) = self.seat_mut(id) else { return false };
        match seat.sent.pop_front() {
            Some(Sent::Connection { seq }) => {
                let lost = seat.take(seq);
                self.answered(id);
                if let Some(pending) = lost {
                    self.refuse(pending, id, now, deliver);
                }
                true
            }
            Some(Sent::Other) => true,
            None => false,
        }
    }

    /// Handles a worker's answer to the connection sent as `seq`. `false`: there was no such connection.
    pub(crate) fn replied(
        &mut self,
        id: SeatId,
        seq: u64,
        accepted: bool,
        now: Instant,
        deliver: &mut impl Deliver<C>,
    ) -> bool {
        let Some(pending) = self.seat_mut(id).and_then(|seat| seat.take(seq)) else {
            return false;
        };
        self.answered(id);
        if accepted {
            self.tally.handed_over += 1;
            if let Some(line) = self.line_mut(pending.line) {
                line.accepted_by(id);
            }
            drop(pending);
        } else {
            self.tally.refused += 1;
            self.refuse(pending, id, now, deliver);
        }
        if !self.waiting_is_empty() {
            self.drain_waiting(now, deliver);
        }
        true
    }

    /// Notes that a worker's channel takes messages again.
    pub(crate) fn writable(&mut self, id: SeatId, now: Instant, deliver: &mut impl Deliver<C>) {
        if let Some(seat) = self.seat_mut(id) {
            seat.full = false;
        }
        self.drain_waiting(now, deliver);
    }

    /// Returns when [`tick`](Self::tick) has something to do.
    pub(crate) fn next_deadline(&self) -> Option<Instant> {
        let retry = self.lines.iter().flatten().filter_map(Line::next_retry).min();
        [self.next_check, retry].into_iter().flatten().min()
    }

    /// Looks for overdue answers and retries what was refused.
    pub(crate) fn tick(&mut self, now: Instant, deliver: &mut impl Deliver<C>) {
        if self.next_check.is_some_and(|at| at <= now) {
            let mut any_pending = false;
            for (index, seat) in self.seats.iter_mut().enumerate() {
                let Some(seat) = seat else { continue };
                let Some(oldest) = seat.oldest() else { continue };
                any_pending = true;
                let waiting = now.saturating_duration_since(oldest);
                if !seat.overdue && waiting >= OVERDUE_AFTER {
                    seat.overdue = true;
                    self.notices.push(Notice::Overdue(SeatId(index), waiting));
                }
            }
            self.next_check = any_pending.then(|| now + OVERDUE_CHECK);
        }
        for line in self.lines.iter_mut().flatten() {
            line.reopen(now);
        }
        self.drain_waiting(now, deliver);
    }

    /// Takes the notices since the last call.
    pub(crate) fn take_notices(&mut self) -> std::vec::Drain<'_, Notice> {
        self.notices.drain(..)
    }

    /// Returns how many hand-overs of a worker are unanswered.
    pub(crate) fn unanswered(&self, id: SeatId) -> usize {
        self.seat(id).map_or(0, Seat::unanswered)
    }

    /// Returns what happened to connections so far.
    pub(crate) fn tally(&self) -> Tally {
        self.tally
    }

    /// Gives the connection to the next worker in turn, or lets it wait.
    fn place(&mut self, line: LineId, mut waiting: Waiting<C>, now: Instant, deliver: &mut impl Deliver<C>) {
        while let Some((at, seat_id)) = self.pick(line, waiting.not_to, now) {
            let seq = self.next_seq;
            match deliver.deliver(seat_id, line, seq, &waiting.connection) {
                Delivery::Sent => {
                    self.next_seq += 1;
                    let pending = Pending { seq, line, connection: waiting.connection, since: now };
                    self.seat_mut(seat_id).expect("invariant: a picked seat exists").hand(pending);
                    self.line_mut(line).expect("invariant: a picked line exists").next = at + 1;
                    self.next_check.get_or_insert(now + OVERDUE_CHECK);
                    return;
                }
                // Either way it cannot be picked again before its channel changes.
                Delivery::Full | Delivery::Broken => {
                    self.seat_mut(seat_id).expect("invariant: a picked seat exists").full = true;
                }
            }
        }
        waiting.not_to = None;
        match self.line_mut(line) {
            Some(line) => line.waiting.push_back(waiting),
            None => self.tally.dropped += 1,
        }
    }

    /// Picks the next member in turn that may take a connection and is not much busier than the least busy one.
    fn pick(&self, line: LineId, not_to: Option<SeatId>, now: Instant) -> Option<(usize, SeatId)> {
        let line = self.line(line)?;
        let candidates = |skip: Option<SeatId>| {
            line.in_turn().filter(move |(_, member)| Some(member.seat) != skip && member.open(now))
        };
        let busy = |(at, member): (usize, &line::Member)| {
            let seat = self.seat(member.seat)?;
            seat.takes_more().then(|| (at, member.seat, seat.unanswered()))
        };
        // A refused connection may go back to the same worker only when there is no other.
        let skip = not_to.filter(|_| candidates(not_to).filter_map(busy).next().is_some());
        let least = candidates(skip).filter_map(busy).map(|(_, _, unanswered)| unanswered).min()?;
        candidates(skip)
            .filter_map(busy)
            .find(|(_, _, unanswered)| *unanswered <= least + SLACK)
            .map(|(at, seat, _)| (at, seat))
    }

    /// Closes the refusing worker to this line for a while and gives the connection to another one.
    fn refuse(&mut self, pending: Pending<C>, by: SeatId, now: Instant, deliver: &mut impl Deliver<C>) {
        if let Some(line) = self.line_mut(pending.line) {
            line.refused_by(by, now);
        }
        self.tally.redispatched += 1;
        let waiting = Waiting { connection: pending.connection, not_to: Some(by) };
        self.place(pending.line, waiting, now, deliver);
    }

    fn redispatch(&mut self, pending: Pending<C>, now: Instant, deliver: &mut impl Deliver<C>) {
        self.tally.redispatched += 1;
        self.place(pending.line, Waiting { connection: pending.connection, not_to: None }, now, deliver);
    }

    fn drain_waiting(&mut self, now: Instant, deliver: &mut impl Deliver<C>) {
        for index in 0..self.lines.len() {
            let id = LineId(index);
            let count = self.line(id).map_or(0, |line| line.waiting.len());
            for _ in 0..count {
                if self.pick(id, None, now).is_none() {
                    break;
                }
                let next = self.line_mut(id).and_then(|line| line.waiting.pop_front());
                if let Some(waiting) = next {
                    self.place(id, waiting, now, deliver);
                }
            }
        }
    }

    fn waiting_is_empty(&self) -> bool {
        self.lines.iter().flatten().all(|line| line.waiting.is_empty())
    }

    /// Notes that a worker answered something.
    fn answered(&mut self, id: SeatId) {
        let Some(seat) = self.seat_mut(id) else { return };
        if std::mem::take(&mut seat.overdue) {
            self.notices.push(Notice::Answering(id));
        }
    }

    fn takes(&self, id: SeatId) -> bool {
        self.seat(id).is_some_and(Seat::takes_more)
    }

    fn seat(&self, id: SeatId) -> Option<&Seat<C>> {
        self.seats.get(id.0).and_then(Option::as_ref)
    }

    fn seat_mut(&mut self, id: SeatId) -> Option<&mut Seat<C>> {
        self.seats.get_mut(id.0).and_then(Option::as_mut)
    }

    fn line(&self, id: LineId) -> Option<&Line<C>> {
        self.lines.get(id.0).and_then(Option::as_ref)
    }

    fn line_mut(&mut self, id: LineId) -> Option<&mut Line<C>> {
        self.lines.get_mut(id.0).and_then(Option::as_mut)
    }
}

#[cfg(test)]
mod tests;
