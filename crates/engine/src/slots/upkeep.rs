//! What has to be seen to now and then: long queues, connections that nobody can accept any more, and addresses that
//! no worker has bound any more.
//!
//! A look costs one call of the system for each socket. The first connection after a quiet time causes one a second later,
//! and so does every further one while connections wait. Who has a socket open costs more to find out: all processes of the app
//! are asked for their descriptors. That is done when the workers have changed and are ready again, and with growing
//! pauses while connections wait for long.

use std::collections::{HashMap, HashSet};
use std::ffi::{OsStr, OsString};
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use rustix::net::{SocketFlags, accept_with};

use super::{Entrance, Family, Member, Place, Slots, Standing, State};
use crate::ids::{Slot, WorkerId};
use crate::listen::{Change, Fullness, QueueLength, queue_length};
use crate::plane::{Queue, read_off};

/// How often queues are looked at while connections wait.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// How long all workers have to be ready before it is looked for addresses that none of them has bound, for programs bind
/// some of theirs later than others; and how much later the same has to be seen again before one is closed.
const GRACE: Duration = Duration::from_secs(5);
/// The longest pause between two searches for who has sockets open, while connections wait.
const LONGEST_PAUSE: Duration = Duration::from_secs(32);

/// What is told of an app's sockets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Sight {
    /// More connections wait at a socket than half of what its queue takes.
    QueueFills { address: String, length: QueueLength },
    /// It is so no more; at most so many waited.
    QueueOver { address: String, took: Duration, most: u32 },
    /// Connections wait at an entrance that nobody has, and every slot has a worker already: none is about to start.
    Orphaned { address: String, count: u32, slot: Slot },
    /// Connections were closed because for too long there was no worker that could have accepted them.
    HeldTooLong { address: String, count: u64 },
    /// No worker has the address bound any more: it is closed, and so are connections that waited there.
    Unbound { address: String, count: u64 },
}

/// What a look has shown.
#[derive(Debug, Default)]
pub(crate) struct Look {
    pub(crate) sights: Vec<Sight>,
    /// It has to be found out who has the sockets open, for [`Slots::release`].
    pub(crate) has_doubts: bool,
}

/// Which sockets the processes of workers have open. One that is on its way from process to process is nobody's for a moment.
#[derive(Debug, Default)]
pub(crate) struct OpenSockets(HashMap<WorkerId, Option<HashSet<OsString>>>);

impl OpenSockets {
    /// Adds what the descriptors of a worker's processes are; `None` when some of them cannot be seen.
    pub(crate) fn add(&mut self, worker: WorkerId, links: Option<HashSet<OsString>>) {
        match (self.0.get_mut(&worker), links) {
            (Some(Some(known)), Some(links)) => known.extend(links),
            (Some(known), None) => *known = None,
            (Some(None), Some(_)) => {}
            (None, links) => drop(self.0.insert(worker, links)),
        }
    }

    /// Returns true unless it was seen that no process of the worker has the socket.
    fn may_have(&self, worker: WorkerId, socket: &OsStr) -> bool {
        self.0.get(&worker).is_none_or(|links| links.as_ref().is_none_or(|links| links.contains(socket)))
    }

    /// Returns true when it was seen that a process of the worker has the socket.
    fn has(&self, worker: WorkerId, socket: &OsStr) -> bool {
        self.0.get(&worker).is_some_and(|links| links.as_ref().is_some_and(|links| links.contains(socket)))
    }

    /// Returns true unless it was seen that no process of any worker has the socket.
    fn may_be_open(&self, socket: &OsStr) -> bool {
        self.0.keys().any(|worker| self.may_have(*worker, socket))
    }
}

/// When an app's sockets are looked at, and for what.
#[derive(Debug)]
pub(super) struct Upkeep {
    /// How many slots the app has.
    instances: u32,
    /// How long connections wait at most where no worker accepts.
    hold: Duration,
    look_at: Option<Instant>,
    /// Since when there is a worker in every slot, ready, and none that starts.
    complete_since: Option<Instant>,
    /// Workers have changed since it was found out who has which socket open.
    is_changed: bool,
    /// When that is found out again because connections wait, and the pause after it.
    search_at: Option<Instant>,
    pause: Duration,
    /// When it is found out again whether what nobody seemed to have open is so still.
    confirm_at: Option<Instant>,
    /// When the next worker may be asked for that rescues what waits, and the pause after it.
    rescue_at: Option<Instant>,
    rescue_pause: Duration,
}

/// Who has an entrance.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum HeldBy {
    Nobody,
    /// A worker in rotation.
    Serving,
    /// One that starts, leaves or is paused.
    Other,
}

/// What was seen of an entrance's queue.
#[derive(Debug, Default)]
pub(super) struct Attention {
    fullness: Fullness,
    /// At every look since then connections have waited.
    waiting_since: Option<Instant>,
    /// The same, with nobody who could have accepted them, and how many there were then.
    held: Option<(Instant, u32)>,
    /// When a worker was first seen not to have its socket open any more.
    closed_at: Option<Instant>,
}

impl Default for Upkeep {
    fn default() -> Self {
        Self {
            instances: 1,
            hold: Duration::MAX,
            look_at: None,
            complete_since: None,
            is_changed: false,
            search_at: None,
            pause: LOOK_EVERY,
            confirm_at: None,
            rescue_at: None,
            rescue_pause: LOOK_EVERY,
        }
    }
}

impl Upkeep {
    fn look_by(&mut self, at: Instant) {
        self.look_at = Some(self.look_at.map_or(at, |sooner| sooner.min(at)));
    }

    /// Returns when the workers will have been ready for long enough to have bound everything.
    fn settled_at(&self) -> Option<Instant> {
        self.complete_since.map(|since| since + GRACE)
    }

    fn is_settled(&self, now: Instant) -> bool {
        self.settled_at().is_some_and(|at| at <= now)
    }

    /// Returns true when a worker may be asked for now: one that fails again and again is asked for less and less often.
    fn may_rescue(&mut self, now: Instant) -> bool {
        if self.rescue_at.is_none_or(|at| at + LONGEST_PAUSE <= now) {
            self.rescue_pause = LOOK_EVERY;
        } else if self.rescue_at.is_some_and(|at| now < at) {
            return false;
        }
        self.rescue_at = Some(now + self.rescue_pause);
        self.rescue_pause = (self.rescue_pause * 2).min(LONGEST_PAUSE);
        true
    }

    fn confirm_by(&mut self, at: Instant) {
        self.confirm_at = Some(self.confirm_at.map_or(at, |sooner| sooner.min(at)));
        self.look_by(at);
    }

    /// Returns true when it has to be found out who has the sockets open.
    fn is_doubtful(&mut self, is_stuck: bool, now: Instant) -> bool {
        if self.confirm_at.is_some_and(|at| at <= now) {
            self.confirm_at = None;
            return true;
        }
        if self.is_changed && self.is_settled(now) {
            self.is_changed = false;
            return true;
        }
        if !is_stuck {
            (self.search_at, self.pause) = (None, LOOK_EVERY);
            return false;
        }
        let is_due = self.search_at.is_none_or(|at| at <= now);
        if is_due {
            self.search_at = Some(now + self.pause);
            self.pause = (self.pause * 2).min(LONGEST_PAUSE);
        }
        is_due
    }
}

impl HeldBy {
    fn of(holders: &[WorkerId], in_rotation: &HashSet<WorkerId>) -> Self {
        match holders {
            [] => Self::Nobody,
            _ if holders.iter().any(|holder| in_rotation.contains(holder)) => Self::Serving,
            _ => Self::Other,
        }
    }
}

impl Attention {
    /// Notes how many connections wait. Returns how many of them have waited for too long, with nobody to accept them.
    ///
    /// Who has the socket and is not in rotation may fail like others before: it does not begin anew with each of them.
    fn note(&mut self, queued: u32, held_by: HeldBy, hold: Duration, now: Instant) -> u32 {
        if queued == 0 {
            (self.waiting_since, self.held) = (None, None);
            return 0;
        }
        self.waiting_since.get_or_insert(now);
        if held_by == HeldBy::Serving {
            self.held = None;
            return 0;
        }
        let (since, count) = *self.held.get_or_insert((now, queued));
        if held_by == HeldBy::Other || now.saturating_duration_since(since) < hold {
            return 0;
        }
        self.held = None;
        count
    }

    fn is_stuck(&self, now: Instant) -> bool {
        self.waiting_since.is_some_and(|since| now.saturating_duration_since(since) >= LOOK_EVERY)
    }
}

impl Slots {
    /// Says how many slots the app has, and for how long connections are held without a worker that could accept them; zero:
    /// for ever.
    pub(crate) fn keep(&self, instances: u32, hold: Duration) {
        let mut state = self.state();
        state.upkeep.instances = instances.max(1);
        state.upkeep.hold = if hold.is_zero() { Duration::MAX } else { hold };
        self.signs.change();
    }

    /// Takes note of what [`signs`](Self::signs) tells.
    pub(crate) fn attend(&self, now: Instant) {
        let news = self.signs.take();
        let mut state = self.state();
        state.bury(&self.signs);
        if news.has_arrived {
            state.upkeep.look_by(now + LOOK_EVERY);
        }
        if news.has_changed {
            state.upkeep.complete_since = state.is_complete().then_some(now);
            state.upkeep.is_changed = true;
            state.upkeep.look_by(now);
        }
    }

    /// Returns when [`look`](Self::look) is due.
    pub(crate) fn next_look(&self) -> Option<Instant> {
        self.state().upkeep.look_at
    }

    /// Looks at all queues if it is time for that.
    pub(crate) fn look(&self, now: Instant) -> Look {
        let mut state = self.state();
        if state.upkeep.look_at.is_none_or(|at| at > now) {
            return Look::default();
        }
        state.upkeep.look_at = None;
        let (hold, in_rotation) = (state.upkeep.hold, state.in_rotation());
        let is_complete = state.is_complete();
        let (mut sights, mut orphaned) = (Vec::new(), None);
        let (mut is_waiting, mut is_stuck) = (false, false);
        for family in &mut state.families {
            let is_served = is_complete && family.is_served_by(&in_rotation);
            for (address, entrance, socket) in family.listening_mut() {
                let Ok(length) = queue_length(socket) else { continue };
                is_waiting |= length.queued > 0;
                let attention = &mut entrance.attention;
                sights.extend(told(&address, attention.fullness.look(length, now), length));
                let overdue =
                    attention.note(length.queued, HeldBy::of(&entrance.holders, &in_rotation), hold, now);
                is_stuck |= attention.is_stuck(now);
                let count = close_oldest(socket, overdue);
                if count > 0 {
                    sights.push(Sight::HeldTooLong { address, count });
                } else if is_served && length.queued > 0 && entrance.holders.is_empty() {
                    orphaned.get_or_insert(Sight::Orphaned {
                        address,
                        count: length.queued,
                        slot: entrance.last_slot,
                    });
                }
            }
        }
        sights.extend(orphaned.filter(|_| state.upkeep.may_rescue(now)));
        if is_waiting {
            state.upkeep.look_by(now + LOOK_EVERY);
        } else {
            let sockets = state.families.iter().flat_map(|family| family.group.members());
            sockets.for_each(|socket| self.signs.watch_arrivals(socket));
        }
        let has_doubts = state.upkeep.is_doubtful(is_stuck, now);
        if let Some(at) = state.upkeep.settled_at().filter(|_| state.upkeep.is_changed) {
            state.upkeep.look_by(at);
        }
        Look { sights, has_doubts }
    }

    /// Takes sockets from workers that have closed them, so that nothing new comes there; closes addresses that no worker
    /// has bound any more, when all had the time to bind them.
    pub(crate) fn release(&self, open: &OpenSockets, now: Instant) -> Vec<Sight> {
        let mut state = self.state();
        let State { workers, families, upkeep, .. } = &mut *state;
        let is_settled = upkeep.is_settled(now);
        for family in families.iter_mut() {
            for entrance in &mut family.entrances {
                if !entrance.follow(open, workers, now) {
                    upkeep.confirm_by(now + LOOK_EVERY);
                }
            }
            family
                .entrances
                .retain(|entrance| entrance.place != Place::Bound || !entrance.holders.is_empty());
            if family.lasts || !is_settled || family.may_be_open(open) {
                family.unused_since = None;
            } else {
                upkeep.confirm_by(*family.unused_since.get_or_insert(now) + GRACE);
            }
        }
        let is_over = |family: &Family| {
            family.unused_since.is_some_and(|since| now.saturating_duration_since(since) >= GRACE)
        };
        let (over, rest): (Vec<_>, Vec<_>) = std::mem::take(families).into_iter().partition(is_over);
        *families = rest;
        state.settle(&self.signs);
        over.iter().map(|family| self.close(family)).collect()
    }

    /// Ends an address: what is queued there is reset, as when a program closes its socket.
    fn close(&self, family: &Family) -> Sight {
        let count = family.group.members().iter().map(|socket| {
            self.signs.forget(socket);
            queue_length(socket).map_or(0, |length| u64::from(length.queued))
        });
        Sight::Unbound { count: count.sum(), address: family.group.at().address.to_string() }
    }

    /// Returns the queues of all sockets.
    pub(crate) fn queues(&self) -> Vec<Queue> {
        let state = self.state();
        let queue = |family: &Family, entrance: &Entrance| {
            let Place::Listening(member) = entrance.place else { return None };
            let QueueLength { queued, backlog } = queue_length(&family.group.members()[member]).ok()?;
            let worker = entrance.holders.first().copied().filter(|_| family.spread.is_some());
            Some(Queue { address: family.group.at().address.to_string(), worker, queued, backlog })
        };
        let of_family =
            |family| Family::entrances(family).filter_map(move |entrance| queue(family, entrance));
        state.families.iter().flat_map(of_family).collect()
    }
}

impl State {
    fn in_rotation(&self) -> HashSet<WorkerId> {
        let is_in = |(worker, member): (&WorkerId, &Member)| {
            (member.standing == Standing::InRotation).then_some(*worker)
        };
        self.workers.iter().filter_map(is_in).collect()
    }

    /// Returns true when there is a worker in every slot, ready, and none that starts.
    fn is_complete(&self) -> bool {
        let mut filled: HashSet<Slot> = HashSet::new();
        for member in self.workers.values() {
            match member.standing {
                Standing::Starting => return false,
                Standing::InRotation | Standing::Paused => drop(filled.insert(member.slot)),
                Standing::Leaving => {}
            }
        }
        filled.len() >= self.upkeep.instances as usize
    }
}

impl Entrance {
    /// Takes the entrance from workers that were seen not to have it, the second time, and gives it to those that have it.
    /// Returns false when it has to be looked once more.
    fn follow(&mut self, open: &OpenSockets, workers: &HashMap<WorkerId, Member>, now: Instant) -> bool {
        let link = OsString::from(self.identity.link());
        if let Some(closed) = self.holders.iter().find(|holder| !open.may_have(**holder, &link)) {
            let seen_at = *self.attention.closed_at.get_or_insert(now);
            if now.saturating_duration_since(seen_at) < LOOK_EVERY {
                return false;
            }
            self.last_slot = workers.get(closed).map_or(self.last_slot, |member| member.slot);
            self.holders.retain(|holder| open.may_have(*holder, &link));
        }
        self.attention.closed_at = None;
        let newcomers = workers.keys().filter(|worker| open.has(**worker, &link));
        let newcomers: Vec<WorkerId> =
            newcomers.filter(|worker| !self.holders.contains(worker)).copied().collect();
        self.holders.extend(newcomers);
        true
    }
}

impl Family {
    /// Returns true unless it was seen that nobody has any of its sockets.
    fn may_be_open(&self, open: &OpenSockets) -> bool {
        self.entrances.iter().any(|entrance| open.may_be_open(&OsString::from(entrance.identity.link())))
    }

    fn entrances(&self) -> impl Iterator<Item = &Entrance> {
        self.entrances.iter()
    }

    /// Returns whether any of these workers accepts here.
    fn is_served_by(&self, workers: &HashSet<WorkerId>) -> bool {
        let holders = self.entrances.iter().flat_map(|entrance| &entrance.holders);
        holders.into_iter().any(|holder| workers.contains(holder))
    }

    /// Returns the entrances that listen, with their address and sockets.
    fn listening_mut(&mut self) -> impl Iterator<Item = (String, &mut Entrance, &OwnedFd)> {
        let (address, members) = (self.group.at().address.to_string(), self.group.members());
        self.entrances.iter_mut().filter_map(move |entrance| match entrance.place {
            Place::Listening(member) => Some((address.clone(), entrance, members.get(member)?)),
            Place::Bound => None,
        })
    }
}

/// Returns what is told of a queue that has changed.
fn told(address: &str, change: Change, length: QueueLength) -> Option<Sight> {
    let address = address.to_owned();
    match change {
        Change::Nothing => None,
        Change::Fills => Some(Sight::QueueFills { address, length }),
        Change::IsOver { took, most } => Some(Sight::QueueOver { address, took, most }),
    }
}

/// Accepts and closes the oldest connections that wait at a socket which nobody else has. Returns how many that were.
fn close_oldest(socket: impl AsFd, count: u32) -> u64 {
    // Whoever had it last may have made it block.
    if count == 0 || rustix::io::ioctl_fionbio(&socket, true).is_err() {
        return 0;
    }
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    let closed = (0..count).map_while(|_| accept_with(&socket, flags).ok());
    closed.map(|connection| read_off(&connection)).count() as u64
}
