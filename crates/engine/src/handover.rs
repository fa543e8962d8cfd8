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
//! busier than another one, has its window full, refused one a moment ago, or is late with its answers. A line may
//! have another [`Choice`]: who has least to do, or where a connection belongs.
//!
//! While none of an app's workers is ready, connections wait; for how long is decided by [`Hold`].
//!
//! There are no clock and no sockets in here: time comes in with each call, and [`Deliver`] carries a connection
//! to a worker. Whoever owns the switchboard calls [`Switchboard::tick`] at [`Switchboard::next_deadline`].
//! `C` is the connection: an owned descriptor in the data plane, a number in the simulation.

mod advice;
mod answers;
mod arrivals;
mod choice;
mod contract;
mod hold;
mod invariants;
mod least;
mod limits;
mod line;
mod open;
mod probe;
mod progress;
mod seat;
mod watch;

use std::collections::{BTreeMap, VecDeque};
use std::ops::Bound::{Excluded, Unbounded};
use std::time::Instant;

use crate::ids::Slot;

pub(crate) use self::arrivals::Arrival;
pub(crate) use self::choice::Choice;
use self::choice::{Awaited, Wish};
pub use self::contract::Tally;
pub(crate) use self::contract::{Deliver, Delivery, Notice};
pub(crate) use self::hold::{CLOSE_EVERY, Hold};
use self::limits::Engaged;
pub(crate) use self::limits::{Limits, Reception};
pub(crate) use self::line::LineId;
use self::line::{Line, Origin, Waiting};
pub(crate) use self::probe::ProbeSent;
pub(crate) use self::seat::{Handle, SeatId};
use self::seat::{Pending, Purpose, Room, Seat};
use self::watch::CHECK_EVERY;

/// How many hand-overs a worker may leave unanswered. 16 already gives the whole gain in processor time;
/// more would only trap more connections behind a worker that blocks.
pub(crate) const WINDOW: usize = 16;

/// The seats, the lines, and the connections between them.
#[derive(Debug)]
pub(crate) struct Switchboard<C> {
    seats: Vec<Option<Seat<C>>>,
    lines: BTreeMap<LineId, Line<C>>,
    next_seq: u64,
    next_check: Option<Instant>,
    notices: Vec<Notice>,
    /// What happened to connections of lines that are no more.
    of_removed_lines: Tally,
    engaged: Engaged,
}

impl<C> Default for Switchboard<C> {
    fn default() -> Self {
        Self {
            seats: Vec::new(),
            lines: BTreeMap::new(),
            next_seq: 0,
            next_check: None,
            notices: Vec::new(),
            of_removed_lines: Tally::default(),
            engaged: Engaged::default(),
        }
    }
}

impl<C> Switchboard<C> {
    /// Adds a worker, out of rotation, with room for `window` unanswered hand-overs (at least 1).
    ///
    /// Connections that a worker gives back go to one of a higher `rank`, if there is one that takes them.
    pub(crate) fn add_seat(&mut self, window: usize, rank: u32, slot: Slot) -> SeatId {
        let free = self.seats.iter().position(Option::is_none);
        let index = free.unwrap_or_else(|| {
            self.seats.push(None);
            self.seats.len() - 1
        });
        self.seats[index] = Some(Seat::new(window, rank, slot));
        SeatId(index)
    }

    /// Tells when the worker has taken this many new connections.
    pub(crate) fn count_to(&mut self, id: SeatId, connections: u64) {
        if let Some(seat) = self.seat_mut(id) {
            seat.count_to(connections);
        }
    }

    /// Removes a worker whose channel is closed and read to its end; what it did not take goes to others.
    pub(crate) fn remove_seat(&mut self, id: SeatId, now: Instant, deliver: &mut impl Deliver<C>) {
        let Some(seat) = self.seats.get_mut(id.0).and_then(Option::take) else { return };
        self.engaged.replace(seat.counted, None);
        let has_ended_suddenly = seat.in_rotation;
        for line in self.lines.values_mut() {
            if line.leave(id) && has_ended_suddenly {
                line.expect(seat.slot, now);
            }
        }
        // They came before everything that waits now, and keep their order.
        for pending in seat.into_pending().rev() {
            match pending.purpose {
                Purpose::Client(claim) => self.take_back(pending, claim, VecDeque::push_front),
                Purpose::Probe => {}
            }
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
    pub(crate) fn add_line(&mut self, choice: Choice) -> LineId {
        let mut id = LineId(0);
        while self.is_in_use(id) {
            id.0 += 1;
        }
        self.lines.insert(id, Line::new(choice));
        id
    }

    /// Removes a listener. Connections that wait for it are dropped, and so are those that are looked at by whoever does
    /// that; those handed over are still answered, and dropped if that is a refusal. Returns how many were dropped.
    pub(crate) fn remove_line(&mut self, id: LineId) -> u64 {
        let Some(mut line) = self.lines.remove(&id) else { return 0 };
        let dropped = line.drop_all();
        self.of_removed_lines += line.tally;
        dropped
    }

    /// Drops the connections of a listener that wait for a worker. Returns how many.
    pub(crate) fn drop_waiting(&mut self, id: LineId) -> u64 {
        self.lines.get_mut(&id).map_or(0, Line::drop_waiting)
    }

    /// Notes that a worker has a server for this line open; once more is no error.
    pub(crate) fn join(&mut self, line: LineId, seat: SeatId, now: Instant, deliver: &mut impl Deliver<C>) {
        let worker = self.seats.get_mut(seat.0).and_then(Option::as_mut);
        if let (Some(worker), Some(line)) = (worker, self.lines.get_mut(&line)) {
            line.join(seat);
            if line.choice.asks_for_habits() {
                worker.habits.get_or_insert_default();
            }
        }
        self.serve(now, deliver);
    }

    /// Notes that a worker closed its server for this line; what waited for that one waits no more.
    pub(crate) fn leave(&mut self, line: LineId, seat: SeatId, now: Instant, deliver: &mut impl Deliver<C>) {
        if let Some(line) = self.lines.get_mut(&line) {
            line.leave(seat);
        }
        self.serve(now, deliver);
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

    /// Returns true when the worker has a server for this line open, is in rotation, and answers.
    pub(crate) fn serves(&self, line: LineId, id: SeatId) -> bool {
        self.seat(id).is_some_and(|seat| seat.in_rotation && !seat.overdue)
            && self.lines.get(&line).is_some_and(|line| line.has_member(id))
    }

    /// Returns true when connections of this line are looked at, or wait for a worker or for its answer.
    pub(crate) fn has_unfinished(&self, line: LineId) -> bool {
        let is_looked_at = self.lines.get(&line).is_some_and(|line| line.looked_at > 0);
        is_looked_at || self.is_waiting(line) || self.is_handed_over(line)
    }

    /// Returns true when connections of this line wait for a worker.
    pub(crate) fn is_waiting(&self, line: LineId) -> bool {
        self.lines.get(&line).is_some_and(|line| !line.waiting.is_empty())
    }

    /// Returns true when connections of this line wait for the worker to which one goes that a worker of this slot gives back.
    pub(crate) fn is_congested(&self, line: LineId, slot: Slot) -> bool {
        let slot_of = |seat| self.seat(seat).map(|seat| seat.slot);
        self.lines.get(&line).is_some_and(|line| line.is_congested(slot, slot_of))
    }

    /// Notes that a worker's channel takes messages again.
    pub(crate) fn writable(&mut self, id: SeatId, now: Instant, deliver: &mut impl Deliver<C>) {
        if let Some(seat) = self.seat_mut(id) {
            seat.retry_when_full();
        }
        self.serve(now, deliver);
    }

    /// Takes the notices since the last call.
    pub(crate) fn take_notices(&mut self) -> std::vec::Drain<'_, Notice> {
        self.notices.drain(..)
    }

    /// Notes how many connections a worker says that it has open.
    pub(crate) fn counted(&mut self, id: SeatId, open: u64, now: Instant, deliver: &mut impl Deliver<C>) {
        if let Some(seat) = self.seat_mut(id) {
            seat.open.report(open);
        }
        self.recount(id);
        self.heard_from(id, now);
        self.serve(now, deliver);
    }

    /// Returns how many hand-overs of a worker are unanswered.
    pub(crate) fn unanswered(&self, id: SeatId) -> usize {
        self.seat(id).map_or(0, Seat::unanswered)
    }

    /// Returns what happened to connections so far.
    pub(crate) fn tally(&self) -> Tally {
        self.lines.values().map(|line| line.tally).chain([self.of_removed_lines]).sum()
    }

    /// Returns what happened so far to connections of one line.
    pub(crate) fn tally_of(&self, line: LineId) -> Tally {
        self.lines.get(&line).map_or(Tally::default(), |line| line.tally)
    }

    fn count(&mut self, line: LineId, add: impl FnOnce(&mut Tally)) {
        add(self.lines.get_mut(&line).map_or(&mut self.of_removed_lines, |line| &mut line.tally));
    }

    /// Lets a connection wait for a worker; without its listener it is dropped.
    fn wait(
        &mut self,
        id: LineId,
        waiting: Waiting<C>,
        queue: impl FnOnce(&mut VecDeque<Waiting<C>>, Waiting<C>),
    ) {
        match self.lines.get_mut(&id) {
            Some(line) => queue(&mut line.waiting, waiting),
            None => self.of_removed_lines.dropped += 1,
        }
    }

    /// Hands over every connection that waits and finds a worker.
    fn serve(&mut self, now: Instant, deliver: &mut impl Deliver<C>) {
        // It is called for each answer, and mostly nothing waits.
        if self.lines.values().any(|line| !line.waiting.is_empty()) {
            self.serve_lines(now, deliver);
        }
        // One line may have shown that a worker takes nothing any more for which connections of another one wait.
        while self.look_round_all(now) {
            self.serve_lines(now, deliver);
        }
        if cfg!(debug_assertions) {
            self.check_invariants(now);
        }
    }

    fn serve_lines(&mut self, now: Instant, deliver: &mut impl Deliver<C>) {
        let mut next = self.lines.first_key_value().map(|(id, _)| *id);
        while let Some(id) = next {
            self.serve_line(id, now, deliver);
            next = self.lines.range((Excluded(id), Unbounded)).next().map(|(id, _)| *id);
        }
    }

    fn serve_line(&mut self, id: LineId, now: Instant, deliver: &mut impl Deliver<C>) {
        self.look_round(id, now);
        loop {
            self.offer_waiting(id, now, deliver);
            // That may have shown that one of the workers takes nothing any more.
            if !self.look_round(id, now) {
                return;
            }
        }
    }

    fn look_round(&mut self, id: LineId, now: Instant) -> bool {
        let bidder = |seat: SeatId| self.seats.get(seat.0)?.as_ref()?.bidder();
        self.lines.get_mut(&id).is_some_and(|line| line.look_round(now, bidder))
    }

    fn look_round_all(&mut self, now: Instant) -> bool {
        let bidder = |seat: SeatId| self.seats.get(seat.0)?.as_ref()?.bidder();
        self.lines.values_mut().any(|line| line.look_round(now, bidder))
    }

    fn offer_waiting(&mut self, id: LineId, now: Instant, deliver: &mut impl Deliver<C>) {
        // Found out for all of them at once, and again after each that was handed over.
        let mut has_room = self.has_room(id, Origin::Accepted);
        let mut nobody_takes_new_ones = false;
        let mut at = 0;
        while let Some(promising) = self.next_promising(id, at, has_room && !nobody_takes_new_ones) {
            at = promising;
            let Some(next) = self.lines.get_mut(&id).and_then(|line| line.waiting.remove(at)) else { return };
            let Err(next) = self.hand(id, next, |_any| true, now, deliver) else {
                has_room = self.has_room(id, Origin::Accepted);
                continue;
            };
            let claim = next.claim;
            self.wait(id, next, |waiting, next| waiting.insert(at, next));
            match (claim.wish, claim.origin) {
                // What moves is never refused by a limit: nobody takes any.
                (Wish::Anyone, Origin::Moved) => return,
                (Wish::Anyone, Origin::Accepted) => nobody_takes_new_ones = true,
                (Wish::Owner(_) | Wish::Slot(_), _) => {}
            }
            at += 1;
        }
    }

    /// Returns the place in the line, from this one on, of the next connection that may find a worker now. With keys many wait
    /// for one that is busy, and this is asked for each answer.
    fn next_promising(&self, id: LineId, from: usize, takes_new_ones: bool) -> Option<usize> {
        let is_promising = |waiting: &Waiting<C>| {
            let origin = waiting.claim.origin;
            let is_there = match waiting.awaited {
                Awaited::Anyone => true,
                Awaited::Worker(seat) => self.seat(seat).is_some_and(|seat| seat.takes_more(origin)),
                Awaited::Newcomer => false,
            };
            is_there && (takes_new_ones || origin == Origin::Moved)
        };
        let line = self.lines.get(&id)?;
        line.waiting.iter().skip(from).position(is_promising).map(|further| from + further)
    }

    /// Hands a connection to the worker that is its due, of those that are `wanted`; returns it when none takes it.
    fn hand(
        &mut self,
        id: LineId,
        waiting: Waiting<C>,
        wanted: impl Fn(&Seat<C>) -> bool,
        now: Instant,
        deliver: &mut impl Deliver<C>,
    ) -> Result<(), Waiting<C>> {
        let claim = waiting.claim;
        if !self.has_room(id, claim.origin) {
            return Err(waiting);
        }
        let Some(line) = self.lines.get_mut(&id) else { return Err(waiting) };
        loop {
            let seat = |id: SeatId| self.seats.get(id.0)?.as_ref().filter(|seat| wanted(seat));
            let advised = line.ask(id, &waiting, now, seat, deliver);
            let turn = match advised.map_or_else(|| line.pick_for(claim, now, seat), Ok) {
                Ok(turn) => turn,
                Err(awaited) => return Err(Waiting { awaited, ..waiting }),
            };
            let Some(seat) = self.seats.get_mut(turn.seat.0).and_then(Option::as_mut) else {
                return Err(waiting);
            };
            self.next_check.get_or_insert(now + CHECK_EVERY);
            match deliver.deliver(turn.seat, id, self.next_seq, &waiting.connection) {
                Delivery::Sent => {
                    let (seq, Waiting { connection, claim, .. }) = (self.next_seq, waiting);
                    let purpose = Purpose::Client(claim);
                    seat.hand(Pending { seq, line: id, connection, since: now, purpose });
                    self.next_seq += 1;
                    line.took(turn);
                    self.recount(turn.seat);
                    return Ok(());
                }
                Delivery::Full => seat.room = Room::Full,
                Delivery::Broken => seat.room = Room::Broken,
            }
        }
    }

    /// Returns true when the number means something: a hand-over may be refused after its line is gone, and must
    /// not be given to another one then.
    fn is_in_use(&self, id: LineId) -> bool {
        self.lines.contains_key(&id) || self.is_handed_over(id)
    }

    fn is_handed_over(&self, line: LineId) -> bool {
        self.seats.iter().flatten().flat_map(Seat::pending).any(|pending| pending.line == line)
    }

    fn seat(&self, id: SeatId) -> Option<&Seat<C>> {
        self.seats.get(id.0).and_then(Option::as_ref)
    }

    fn seat_mut(&mut self, id: SeatId) -> Option<&mut Seat<C>> {
        self.seats.get_mut(id.0).and_then(Option::as_mut)
    }
}

#[cfg(test)]
mod tests;
