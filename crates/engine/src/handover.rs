//! Which connection is where: the pure core of the data plane.
//!
//! A [`Switchboard`] knows *seats* (workers with a channel) and *lines* (listeners whose connections the
//! primary accepts). It owns every connection from `accept4` until a worker said that it took it:
//!
//! ```text
//!                       handed over                answered: taken
//!   accept ──▶ waiting ─────────────▶ unanswered ──────────────────▶ closed here (the worker has its own copy)
//!                 ▲                        │
//!                 └────────────────────────┘
//!              NACK, refused, or the worker is gone
//! ```
//!
//! Most connections wait for no time at all. The next worker in turn gets the connection, unless it is much
//! busier than another one, has its window full, refused one a moment ago, or is overdue with its answers.
//!
//! There are no clock and no sockets in here: time comes in with each call, and [`Deliver`] carries a connection
//! to a worker. Whoever owns the switchboard calls [`Switchboard::tick`] at [`Switchboard::next_deadline`].
//! `C` is the connection: an owned descriptor in the data plane, a number in the simulation.

mod contract;
mod invariants;
mod line;
mod probe;
mod seat;

use std::collections::{BTreeMap, VecDeque};
use std::ops::Bound::{Excluded, Unbounded};
use std::time::{Duration, Instant};

pub use self::contract::Tally;
pub(crate) use self::contract::{Deliver, Delivery, Notice};
use self::line::Line;
pub(crate) use self::line::LineId;
pub(crate) use self::probe::ProbeSent;
pub(crate) use self::seat::{Handle, SeatId};
use self::seat::{Pending, Purpose, Room, Seat};

/// How many hand-overs a worker may leave unanswered. 16 already gives the whole gain in processor time;
/// more would only trap more connections behind a worker that blocks.
pub(crate) const WINDOW: usize = 16;
/// A worker in rotation that leaves its oldest hand-over alone for longer than this gets no new ones.
pub(crate) const OVERDUE_AFTER: Duration = Duration::from_secs(1);
/// How often workers are checked for being overdue, and full channels tried again, while there are any.
const CHECK_EVERY: Duration = Duration::from_millis(250);

/// The seats, the lines, and the connections between them.
#[derive(Debug)]
pub(crate) struct Switchboard<C> {
    seats: Vec<Option<Seat<C>>>,
    lines: BTreeMap<LineId, Line<C>>,
    next_seq: u64,
    next_check: Option<Instant>,
    notices: Vec<Notice>,
    tally: Tally,
}

impl<C> Default for Switchboard<C> {
    fn default() -> Self {
        Self {
            seats: Vec::new(),
            lines: BTreeMap::new(),
            next_seq: 0,
            next_check: None,
            notices: Vec::new(),
            tally: Tally::default(),
        }
    }
}

impl<C> Switchboard<C> {
    /// Adds a worker, out of rotation, with room for `window` unanswered hand-overs (at least 1).
    ///
    /// Connections that a worker gives back go to one of a higher `rank`, if there is one that takes them.
    pub(crate) fn add_seat(&mut self, window: usize, rank: u32) -> SeatId {
        let free = self.seats.iter().position(Option::is_none);
        let index = free.unwrap_or_else(|| {
            self.seats.push(None);
            self.seats.len() - 1
        });
        self.seats[index] = Some(Seat::new(window, rank));
        SeatId(index)
    }

    /// Tells when the worker has taken this many connections.
    pub(crate) fn count_to(&mut self, id: SeatId, connections: u64) {
        if let Some(seat) = self.seat_mut(id) {
            seat.count_to(connections);
        }
    }

    /// Removes a worker whose channel is closed and read to its end; what it did not take goes to others.
    pub(crate) fn remove_seat(&mut self, id: SeatId, now: Instant, deliver: &mut impl Deliver<C>) {
        let Some(seat) = self.seats.get_mut(id.0).and_then(Option::take) else { return };
        for line in self.lines.values_mut() {
            line.leave(id);
        }
        // They came before everything that waits now, and keep their order.
        let of_clients = |pending: &Pending<C>| pending.purpose == Purpose::Client;
        for pending in seat.into_pending().rev().filter(of_clients) {
            self.take_back(pending, VecDeque::push_front);
        }
        self.serve(now, deliver);
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
            seat.judge_from(now);
            let is_watched = seat.owes_since().is_some();
            // Nobody has watched it meanwhile: it is judged anew.
            if in_rotation && std::mem::take(&mut seat.overdue) {
                self.notices.push(Notice::Answering(id));
            }
            if is_watched {
                self.check_soon(now);
            }
        }
        self.serve(now, deliver);
    }

    /// Adds a listener without workers.
    pub(crate) fn add_line(&mut self) -> LineId {
        let mut id = LineId(0);
        while self.is_in_use(id) {
            id.0 += 1;
        }
        self.lines.insert(id, Line::new());
        id
    }

    /// Removes a listener. Connections that wait for it are dropped; those handed over are still answered,
    /// and dropped if that is a refusal. Returns how many were dropped.
    pub(crate) fn remove_line(&mut self, id: LineId) -> u64 {
        let dropped = self.lines.remove(&id).map_or(0, |line| line.waiting.len() as u64);
        self.tally.dropped += dropped;
        dropped
    }

    /// Drops the connections of a listener that wait for a worker. Returns how many.
    pub(crate) fn drop_waiting(&mut self, id: LineId) -> u64 {
        let dropped = self.lines.get_mut(&id).map_or(0, |line| line.waiting.drain(..).len() as u64);
        self.tally.dropped += dropped;
        dropped
    }

    /// Notes that a worker has a server for this line open; once more is no error.
    pub(crate) fn join(&mut self, line: LineId, seat: SeatId, now: Instant, deliver: &mut impl Deliver<C>) {
        if self.seat(seat).is_some()
            && let Some(line) = self.lines.get_mut(&line)
        {
            line.join(seat);
        }
        self.serve(now, deliver);
    }

    /// Notes that a worker closed its server for this line.
    pub(crate) fn leave(&mut self, line: LineId, seat: SeatId) {
        if let Some(line) = self.lines.get_mut(&line) {
            line.leave(seat);
        }
    }

    /// Returns true when a worker has a server for this line open, in rotation or not.
    pub(crate) fn has_members(&self, line: LineId) -> bool {
        self.lines.get(&line).is_some_and(|line| line.members().next().is_some())
    }

    /// Returns true when a worker in rotation has a server for this line open.
    pub(crate) fn is_served(&self, line: LineId) -> bool {
        let in_rotation = |id| self.seat(id).is_some_and(|seat| seat.in_rotation);
        self.lines.get(&line).is_some_and(|line| line.members().any(in_rotation))
    }

    /// Returns true when connections of this line wait for a worker, or for a worker's answer.
    pub(crate) fn has_unfinished(&self, line: LineId) -> bool {
        self.is_waiting(line) || self.is_handed_over(line)
    }

    /// Returns true when connections of this line wait for a worker.
    pub(crate) fn is_waiting(&self, line: LineId) -> bool {
        self.lines.get(&line).is_some_and(|line| !line.waiting.is_empty())
    }

    /// Returns true when a connection of this line would find a worker now.
    ///
    /// While it is false, connections are better left to the kernel's queue: what waits here is bounded by that.
    pub(crate) fn can_accept(&self, line: LineId, now: Instant) -> bool {
        self.lines
            .get(&line)
            .is_some_and(|line| line.waiting.is_empty() && line.pick(now, |seat| self.load(seat)).is_some())
    }

    /// Takes a connection that was just accepted.
    pub(crate) fn connect(
        &mut self,
        line: LineId,
        connection: C,
        now: Instant,
        deliver: &mut impl Deliver<C>,
    ) {
        self.count(line, |tally| tally.accepted += 1);
        match self.lines.get_mut(&line) {
            Some(line) => line.waiting.push_back(connection),
            None => self.tally.dropped += 1,
        }
        self.serve(now, deliver);
    }

    /// Takes a connection that the worker at `from` gave back: it had taken it before.
    pub(crate) fn take_over(
        &mut self,
        line: LineId,
        connection: C,
        from: SeatId,
        now: Instant,
        deliver: &mut impl Deliver<C>,
    ) {
        self.count(line, |tally| tally.moved += 1);
        let rank = self.seat(from).map_or(0, |seat| seat.rank);
        match self.hand(line, connection, |seat| seat.rank > rank, now, deliver) {
            Ok(()) => {}
            Err(connection) => match self.lines.get_mut(&line) {
                Some(line) => line.waiting.push_back(connection),
                None => self.tally.dropped += 1,
            },
        }
        self.serve(now, deliver);
    }

    /// Notes that a handle message other than a connection went to the worker; it is acknowledged in turn.
    pub(crate) fn sent_other(&mut self, id: SeatId, now: Instant) {
        if let Some(seat) = self.seat_mut(id) {
            seat.note_sent(Handle::Other, now);
            self.check_soon(now);
        }
    }

    /// Notes that a worker in rotation was pinged, unless it owes the answer to an earlier ping; returns false then.
    pub(crate) fn pinged(&mut self, id: SeatId, now: Instant) -> bool {
        let Some(seat) = self.seat_mut(id).filter(|seat| seat.in_rotation && seat.pinged.is_none()) else {
            return false;
        };
        seat.pinged = Some(now);
        self.check_soon(now);
        true
    }

    /// Notes that a worker answered its ping.
    pub(crate) fn ponged(&mut self, id: SeatId, now: Instant, deliver: &mut impl Deliver<C>) {
        if let Some(seat) = self.seat_mut(id) {
            seat.pinged = None;
            self.heard_from(id, now);
        }
        self.serve(now, deliver);
    }

    /// Handles a worker's `NODE_HANDLE_ACK`: the oldest handle on its way arrived. Returns which, if there was one.
    pub(crate) fn acked(
        &mut self,
        id: SeatId,
        now: Instant,
        deliver: &mut impl Deliver<C>,
    ) -> Option<Handle> {
        let arrived = self.seat_mut(id)?.take_oldest_sent()?;
        self.heard_from(id, now);
        self.serve(now, deliver);
        Some(arrived)
    }

    /// Handles a worker's `NODE_HANDLE_NACK`: the oldest handle on its way did not arrive. Returns which, if there
    /// was one; a connection is offered again, whatever else it was is the caller's.
    pub(crate) fn nacked(
        &mut self,
        id: SeatId,
        now: Instant,
        deliver: &mut impl Deliver<C>,
    ) -> Option<Handle> {
        let seat = self.seat_mut(id)?;
        let lost = seat.take_oldest_sent()?;
        match lost {
            Handle::Connection { seq } => {
                if let Some(pending) = seat.take(seq) {
                    self.answered(pending, id, false, now);
                }
            }
            Handle::Other => {}
        }
        self.heard_from(id, now);
        self.serve(now, deliver);
        Some(lost)
    }

    /// Handles a worker's answer to the connection sent as `seq`. `false`: it has no such connection.
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
        self.answered(pending, id, accepted, now);
        self.heard_from(id, now);
        self.serve(now, deliver);
        true
    }

    /// Notes that a worker's channel takes messages again.
    pub(crate) fn writable(&mut self, id: SeatId, now: Instant, deliver: &mut impl Deliver<C>) {
        if let Some(seat) = self.seat_mut(id) {
            seat.retry_when_full();
        }
        self.serve(now, deliver);
    }

    /// Returns when [`tick`](Self::tick) has something to do; after a tick at that time it lies in the future.
    pub(crate) fn next_deadline(&self) -> Option<Instant> {
        let trial = self.lines.values().filter_map(Line::next_trial).min();
        [self.next_check, trial].into_iter().flatten().min()
    }

    /// Looks for overdue workers, and retries what was refused and what found channels full.
    pub(crate) fn tick(&mut self, now: Instant, deliver: &mut impl Deliver<C>) {
        if let Some(due) = self.next_check.filter(|at| *at <= now) {
            self.check_seats(due, now);
        }
        for line in self.lines.values_mut() {
            line.end_back_offs(now);
        }
        self.serve(now, deliver);
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

    /// Returns what happened so far to connections of one line.
    pub(crate) fn tally_of(&self, line: LineId) -> Tally {
        self.lines.get(&line).map_or(Tally::default(), |line| line.tally)
    }

    fn count(&mut self, line: LineId, add: impl Fn(&mut Tally)) {
        add(&mut self.tally);
        if let Some(line) = self.lines.get_mut(&line) {
            add(&mut line.tally);
        }
    }

    /// Hands over every connection that waits and finds a worker.
    fn serve(&mut self, now: Instant, deliver: &mut impl Deliver<C>) {
        let mut next = self.lines.first_key_value().map(|(id, _)| *id);
        while let Some(id) = next {
            while let Some(connection) = self.lines.get_mut(&id).and_then(|line| line.waiting.pop_front()) {
                if let Err(connection) = self.hand(id, connection, |_any| true, now, deliver) {
                    if let Some(line) = self.lines.get_mut(&id) {
                        line.waiting.push_front(connection);
                    }
                    break;
                }
            }
            next = self.lines.range((Excluded(id), Unbounded)).next().map(|(id, _)| *id);
        }
        if cfg!(debug_assertions) {
            self.check_invariants(now);
        }
    }

    /// Hands a connection to the next worker in turn of those that are `wanted`; returns it when none takes it.
    fn hand(
        &mut self,
        id: LineId,
        connection: C,
        wanted: impl Fn(&Seat<C>) -> bool,
        now: Instant,
        deliver: &mut impl Deliver<C>,
    ) -> Result<(), C> {
        let Some(line) = self.lines.get_mut(&id) else { return Err(connection) };
        loop {
            let load = |seat: SeatId| self.seats.get(seat.0)?.as_ref().filter(|seat| wanted(seat))?.load();
            let Some(turn) = line.pick(now, load) else { return Err(connection) };
            let Some(seat) = self.seats.get_mut(turn.seat.0).and_then(Option::as_mut) else {
                return Err(connection);
            };
            self.next_check.get_or_insert(now + CHECK_EVERY);
            match deliver.deliver(turn.seat, id, self.next_seq, &connection) {
                Delivery::Sent => {
                    let (seq, purpose) = (self.next_seq, Purpose::Client);
                    seat.hand(Pending { seq, line: id, connection, since: now, purpose });
                    self.next_seq += 1;
                    line.took(turn);
                    return Ok(());
                }
                Delivery::Full => seat.room = Room::Full,
                Delivery::Broken => seat.room = Room::Broken,
            }
        }
    }

    /// Draws the conclusions of a worker's answer to a connection.
    fn answered(&mut self, pending: Pending<C>, by: SeatId, accepted: bool, now: Instant) {
        match (pending.purpose, accepted) {
            (Purpose::Probe, _) => self.notices.push(Notice::Probed { seat: by, accepted }),
            (Purpose::Client, true) => {
                self.count(pending.line, |tally| tally.handed_over += 1);
                if let Some(taken) = self.seat_mut(by).and_then(Seat::note_taken) {
                    self.notices.push(Notice::TookEnough(by, taken));
                }
                if let Some(line) = self.lines.get_mut(&pending.line) {
                    line.answered_by(by, pending.since, true, now);
                }
            }
            (Purpose::Client, false) => self.refuse(pending, by, now),
        }
    }

    /// Lets the worker rest from this line and offers the connection again, behind those that nobody refused:
    /// one that everybody refuses must not stand in the way of the others.
    fn refuse(&mut self, pending: Pending<C>, by: SeatId, now: Instant) {
        self.count(pending.line, |tally| tally.refused += 1);
        if let Some(line) = self.lines.get_mut(&pending.line) {
            line.answered_by(by, pending.since, false, now);
        }
        self.take_back(pending, VecDeque::push_back);
    }

    fn take_back(&mut self, pending: Pending<C>, wait: impl FnOnce(&mut VecDeque<C>, C)) {
        match self.lines.get_mut(&pending.line) {
            Some(line) => {
                wait(&mut line.waiting, pending.connection);
                self.count(pending.line, |tally| tally.redispatched += 1);
            }
            None => self.tally.dropped += 1,
        }
    }

    /// Notes that a worker acknowledged or answered something: it has read its channel.
    fn heard_from(&mut self, id: SeatId, now: Instant) {
        let Some(seat) = self.seat_mut(id) else { return };
        seat.retry_when_full();
        let is_late = seat.owes_since().is_some_and(|since| is_overdue(since, now));
        if seat.overdue && !is_late {
            seat.overdue = false;
            self.notices.push(Notice::Answering(id));
            self.check_soon(now);
        }
    }

    fn check_seats(&mut self, due: Instant, now: Instant) {
        // A primary that did not run itself (SIGSTOP, a frozen container) has nobody to blame.
        let was_asleep = now.saturating_duration_since(due) >= CHECK_EVERY;
        let mut is_any_watched = false;
        for (index, seat) in self.seats.iter_mut().enumerate() {
            let Some(seat) = seat else { continue };
            // Writability may come without a new event, or not for what the kernel was short of.
            seat.retry_when_full();
            if was_asleep {
                seat.judge_from(now);
            }
            if !seat.in_rotation || seat.overdue {
                continue;
            }
            let Some(since) = seat.owes_since() else { continue };
            if is_overdue(since, now) {
                seat.overdue = true;
                let waiting = now.saturating_duration_since(since);
                self.notices.push(Notice::Overdue(SeatId(index), waiting));
            } else {
                is_any_watched = true;
            }
        }
        self.next_check = is_any_watched.then(|| now + CHECK_EVERY);
    }

    fn check_soon(&mut self, now: Instant) {
        self.next_check.get_or_insert(now + CHECK_EVERY);
    }

    /// Returns true when the number means something: a hand-over may be refused after its line is gone, and must
    /// not be given to another one then.
    fn is_in_use(&self, id: LineId) -> bool {
        self.lines.contains_key(&id) || self.is_handed_over(id)
    }

    fn is_handed_over(&self, line: LineId) -> bool {
        self.seats.iter().flatten().flat_map(Seat::pending).any(|pending| pending.line == line)
    }

    fn load(&self, id: SeatId) -> Option<usize> {
        self.seat(id)?.load()
    }

    fn seat(&self, id: SeatId) -> Option<&Seat<C>> {
        self.seats.get(id.0).and_then(Option::as_ref)
    }

    fn seat_mut(&mut self, id: SeatId) -> Option<&mut Seat<C>> {
        self.seats.get_mut(id.0).and_then(Option::as_mut)
    }
}

fn is_overdue(since: Instant, now: Instant) -> bool {
    now.saturating_duration_since(since) >= OVERDUE_AFTER
}

#[cfg(test)]
mod tests;
