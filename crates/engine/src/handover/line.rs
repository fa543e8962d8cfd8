//! A listener as the switchboard sees it.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use super::choice::{Awaited, Choice, Crowd, Expected, Wish};
use super::contract::Tally;
use super::limits::Limits;
use super::progress::Progress;
use super::seat::{Seat, SeatId};

/// How many more hand-overs than the least busy worker a worker may have and still be next in turn. Strict
/// turns would fill a blocked worker's window; strictly least busy would ruin the balance of long connections.
pub(super) const SLACK: usize = 4;

/// How long a worker that refused a connection gets no other of the same listener; doubled by each refusal
/// in a row. Without it a connection that nobody takes would bounce between the workers in a busy loop.
pub(super) const FIRST_BACK_OFF: Duration = Duration::from_millis(1);
pub(super) const LONGEST_BACK_OFF: Duration = Duration::from_millis(128);

/// A listener whose connections the primary accepts; the number is free for another one when the listener is
/// removed and everything handed over for it is answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct LineId(pub(crate) usize);

#[derive(Debug)]
pub(super) struct Line<C> {
    members: Vec<Member>,
    /// Whose turn it is: an index into `members`, one past the last one that was picked.
    next: usize,
    /// The connections that no worker could take, the next one to be handed over first.
    pub(super) waiting: VecDeque<Waiting<C>>,
    /// What happened to its connections so far.
    pub(super) tally: Tally,
    /// How workers get on with what they are given.
    pub(super) progress: Progress,
    pub(super) choice: Choice,
    /// Slots whose worker ended without being told to: its successor is on its way.
    pub(super) expected: Vec<Expected>,
    /// Whom those that wait by key could choose from when they last did.
    pub(super) crowd: Crowd,
    /// How many connections are looked at to find out where they belong.
    pub(super) looked_at: u64,
    /// How many connections of its app may be open; nothing while that does not matter.
    pub(super) limits: Option<Limits>,
}

/// A connection that waits for a worker.
#[derive(Debug)]
pub(super) struct Waiting<C> {
    pub(super) connection: C,
    pub(super) claim: Claim,
    pub(super) awaited: Awaited,
    /// When it came, or was handed over in vain.
    pub(super) since: Instant,
}

impl<C> Waiting<C> {
    pub(super) fn new(connection: C, claim: Claim, since: Instant) -> Self {
        Self { connection, claim, awaited: Awaited::Anyone, since }
    }
}

/// What is known of a client's connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Claim {
    pub(super) origin: Origin,
    pub(super) wish: Wish,
}

/// Where a connection of a client came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Origin {
    /// From the kernel.
    Accepted,
    /// From a worker that had taken it.
    Moved,
}

/// A worker that has a server for the line open.
#[derive(Debug)]
pub(super) struct Member {
    pub(super) seat: SeatId,
    standing: Standing,
}

/// What a worker gets of a line's connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Standing {
    /// Its share.
    Good,
    /// None until then: it refused.
    BackingOff { streak: Streak, until: Instant },
    /// One, to see whether it still refuses.
    OnTrial(Streak),
    /// No more until that one is answered.
    Tried(Streak),
}

/// Refusals in a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Streak {
    refusals: u32,
    /// When the last one was heard.
    heard: Instant,
}

/// The member whose turn it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Turn {
    pub(super) at: usize,
    pub(super) seat: SeatId,
}

impl Standing {
    fn streak(self) -> Option<Streak> {
        match self {
            Self::Good => None,
            Self::BackingOff { streak, .. } | Self::OnTrial(streak) | Self::Tried(streak) => Some(streak),
        }
    }

    /// Ends a back-off that is over.
    fn at(self, now: Instant) -> Self {
        match self {
            Self::BackingOff { streak, until } if until <= now => Self::OnTrial(streak),
            Self::Good | Self::BackingOff { .. } | Self::OnTrial(_) | Self::Tried(_) => self,
        }
    }

    fn takes_one(self, now: Instant) -> bool {
        match self.at(now) {
            Self::Good | Self::OnTrial(_) => true,
            Self::BackingOff { .. } | Self::Tried(_) => false,
        }
    }

    fn given_one(self) -> Self {
        self.streak().map_or(Self::Good, Self::Tried)
    }

    /// Learns from the answer to a connection that the worker has had `since` then.
    fn answered(self, since: Instant, accepted: bool, now: Instant) -> Self {
        // One reason refuses everything that was sent together, and counts once; only what was sent after the
        // back-off tells whether that reason is gone.
        if self.streak().is_some_and(|streak| since <= streak.heard) {
            return self;
        }
        if accepted {
            return Self::Good;
        }
        let refusals = self.streak().map_or(0, |streak| streak.refusals);
        let back_off = FIRST_BACK_OFF.saturating_mul(1 << refusals.min(16)).min(LONGEST_BACK_OFF);
        let streak = Streak { refusals: refusals.saturating_add(1), heard: now };
        Self::BackingOff { streak, until: now + back_off }
    }
}

impl<C> Line<C> {
    pub(super) fn new(choice: Choice) -> Self {
        Self {
            members: Vec::new(),
            next: 0,
            waiting: VecDeque::new(),
            tally: Tally::default(),
            progress: Progress::default(),
            choice,
            expected: Vec::new(),
            crowd: Crowd::default(),
            looked_at: 0,
            limits: None,
        }
    }

    /// Adds a worker, or forgives one that is there.
    pub(super) fn join(&mut self, seat: SeatId) {
        match self.member_mut(seat) {
            Some(member) => member.standing = Standing::Good,
            None => self.members.push(Member { seat, standing: Standing::Good }),
        }
    }

    /// Removes a worker, and returns whether it was there.
    pub(super) fn leave(&mut self, seat: SeatId) -> bool {
        let Some(at) = self.members.iter().position(|member| member.seat == seat) else { return false };
        self.members.remove(at);
        if at < self.next {
            self.next -= 1;
        }
        true
    }

    pub(super) fn members(&self) -> impl Iterator<Item = SeatId> {
        self.members.iter().map(|member| member.seat)
    }

    pub(super) fn has_member(&self, seat: SeatId) -> bool {
        self.members().any(|member| member == seat)
    }

    /// Drops the connections that wait. Returns how many.
    pub(super) fn drop_waiting(&mut self) -> u64 {
        let dropped = self.waiting.drain(..).len() as u64;
        self.tally.dropped += dropped;
        dropped
    }

    /// Drops the connections that wait, and counts those that are looked at as dropped. Returns how many.
    pub(super) fn drop_all(&mut self) -> u64 {
        let looked_at = std::mem::take(&mut self.looked_at);
        self.tally.dropped += looked_at;
        self.drop_waiting() + looked_at
    }

    /// Picks the member that is given the next connection which comes from `origin` and belongs nowhere.
    ///
    /// `seats` returns a worker, or nothing when it is out of the question.
    pub(super) fn pick<'s>(
        &self,
        origin: Origin,
        now: Instant,
        seats: impl Fn(SeatId) -> Option<&'s Seat<C>>,
    ) -> Option<Turn>
    where
        C: 's,
    {
        match self.choice {
            Choice::InTurn | Choice::ByKey | Choice::Asked => self.pick_in_turn(origin, now, seats),
            Choice::Least => self.pick_least(origin, now, seats),
        }
    }

    /// Picks the next member in turn that is prompt and not much busier than the least busy one.
    fn pick_in_turn<'s>(
        &self,
        origin: Origin,
        now: Instant,
        seats: impl Fn(SeatId) -> Option<&'s Seat<C>>,
    ) -> Option<Turn>
    where
        C: 's,
    {
        let mut least: Option<usize> = None;
        for (turn, seat) in self.prompt(origin, now, &seats) {
            // However idle others are, this one is not much busier.
            if seat.unanswered() <= SLACK {
                return Some(turn);
            }
            least = Some(least.map_or(seat.unanswered(), |least| least.min(seat.unanswered())));
        }
        let limit = least? + SLACK;
        self.prompt(origin, now, &seats).find(|(_, seat)| seat.unanswered() <= limit).map(|(turn, _)| turn)
    }

    /// Returns the members that have not just refused a connection, each with its place.
    pub(super) fn willing(&self, now: Instant) -> impl Iterator<Item = (usize, &Member)> {
        self.members.iter().enumerate().filter(move |(_, member)| member.standing.takes_one(now))
    }

    /// Returns the members that take a connection now, beginning with the one whose turn it is.
    pub(super) fn takers<'s>(
        &self,
        origin: Origin,
        now: Instant,
        seats: impl Fn(SeatId) -> Option<&'s Seat<C>>,
    ) -> impl Iterator<Item = (Turn, &'s Seat<C>)>
    where
        C: 's,
    {
        let (before, from) = self.members.split_at(self.next.min(self.members.len()));
        let in_turn = (before.len()..).zip(from).chain((0..).zip(before));
        in_turn.filter(move |(_, member)| member.standing.takes_one(now)).filter_map(move |(at, member)| {
            let seat = seats(member.seat).filter(|seat| seat.takes_more(origin))?;
            Some((Turn { at, seat: member.seat }, seat))
        })
    }

    /// Notes that the member was given a connection; the turn passes to the one after it.
    pub(super) fn took(&mut self, turn: Turn) {
        self.next = turn.at + 1;
        if let Some(member) = self.members.get_mut(turn.at) {
            member.standing = member.standing.given_one();
        }
    }

    /// Notes the worker's answer to a connection that it has had `since` then.
    pub(super) fn answered_by(&mut self, seat: SeatId, since: Instant, accepted: bool, now: Instant) {
        self.progress.learn(since, now);
        if let Some(member) = self.member_mut(seat) {
            member.standing = member.standing.answered(since, accepted, now);
        }
    }

    /// Ends the back-offs that are over.
    pub(super) fn end_back_offs(&mut self, now: Instant) {
        for member in &mut self.members {
            member.standing = member.standing.at(now);
        }
    }

    /// Returns when the first back-off is over.
    pub(super) fn next_trial(&self) -> Option<Instant> {
        let until = |member: &Member| match member.standing {
            Standing::BackingOff { until, .. } => Some(until),
            Standing::Good | Standing::OnTrial(_) | Standing::Tried(_) => None,
        };
        self.members.iter().filter_map(until).min()
    }

    /// Returns the members whose single connection decides how it goes on with them.
    pub(super) fn tried(&self) -> impl Iterator<Item = SeatId> {
        let is_tried = |member: &&Member| matches!(member.standing, Standing::Tried(_));
        self.members.iter().filter(is_tried).map(|member| member.seat)
    }

    fn member_mut(&mut self, seat: SeatId) -> Option<&mut Member> {
        self.members.iter_mut().find(|member| member.seat == seat)
    }
}
