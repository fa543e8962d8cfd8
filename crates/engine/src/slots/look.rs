//! Looks at an app's sockets: long queues, what waits where nobody takes it, and addresses that no worker has bound any more.

use std::collections::{BTreeSet, HashMap};
use std::ffi::OsString;
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use rustix::net::{SocketFlags, accept_with};

use super::flows::Datagrams;
use super::open_sockets::OpenSockets;
use super::upkeep::{Attention, GRACE, HeldBy, LOOK_EVERY};
use super::{Entrance, Family, Member, Place, Slots, Standing, State};
use crate::ids::{Slot, WorkerId};
use crate::listen::{Change, QueueLength, queue_length};
use crate::plane::{Queue, read_off};

/// What is told of an app's sockets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Sight {
    /// More connections wait at a socket than half of what its queue takes.
    QueueFills { address: String, length: QueueLength },
    /// It is so no more; at most so many waited.
    QueueOver { address: String, took: Duration, most: u32 },
    /// Connections wait at an entrance that nobody has, or datagrams at a socket, while others serve. A worker of this slot
    /// could take them.
    Orphaned { address: String, count: u32, slot: Slot },
    /// Connections were closed, or datagrams thrown away, because for too long there was no worker that could have taken
    /// them.
    HeldTooLong { address: String, count: u64 },
    /// No worker has the address bound any more: it is closed, and what waited there is lost.
    Unbound { address: String, count: u64 },
}

/// What a look has shown.
#[derive(Debug, Default)]
pub(crate) struct Look {
    pub(crate) sights: Vec<Sight>,
    /// It has to be found out who has the sockets open, for [`Slots::release`].
    pub(crate) has_doubts: bool,
}

/// What a look has shown so far, and what it goes by.
#[derive(Debug)]
pub(super) struct Glance {
    /// The workers in rotation.
    pub(super) in_rotation: HashMap<WorkerId, Slot>,
    pub(super) hold: Duration,
    pub(super) now: Instant,
    pub(super) sights: Vec<Sight>,
    pub(super) is_waiting: bool,
    is_stuck: bool,
}

impl Slots {
    /// Says for how long connections are held without a worker that could accept them; zero: for ever.
    pub(crate) fn hold_for(&self, hold: Duration) {
        self.state().upkeep.hold = if hold.is_zero() { Duration::MAX } else { hold };
    }

    /// Says how many slots have a worker or will get one: others are given up.
    pub(crate) fn expect_workers(&self, count: u32) {
        let count = count.max(1);
        let before = std::mem::replace(&mut self.state().upkeep.awaited, count);
        if before != count {
            self.signs.change();
        }
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
        let mut glance = Glance::new(state.in_rotation(), state.upkeep.hold, now);
        // Who starts may take what waits, and so may who comes for one that has just ended.
        let patience = match (state.is_complete(), state.has_starting()) {
            (true, _) => Duration::ZERO,
            (false, false) => LOOK_EVERY,
            (false, true) => GRACE,
        };
        let mut orphaned = None;
        let State { workers, families, .. } = &mut *state;
        let starts = |worker: &WorkerId| {
            workers.get(worker).is_some_and(|member| member.standing == Standing::Starting)
        };
        for family in families.iter_mut() {
            let serving = family.serving_slots(&glance.in_rotation);
            for (address, entrance, socket) in family.listening_mut() {
                let waiting = glance.at(&address, socket, &entrance.holders, &mut entrance.attention);
                let is_free = entrance.holders.is_empty();
                // A worker that starts may never come to accept.
                let patience = if is_free { patience } else { patience.max(GRACE) };
                let is_forsaken = waiting > 0
                    && entrance.holders.iter().all(starts)
                    && entrance.attention.is_forsaken(patience, now);
                // To a rescuer alone, which comes where others serve.
                entrance.is_lent = is_forsaken && !is_free && !serving.is_empty();
                if let Some(other) = serving.first().filter(|_| is_forsaken) {
                    // That of its last worker may be given up, or gone.
                    let own = serving.get(&entrance.last_slot);
                    let slot = *own.unwrap_or(other);
                    orphaned.get_or_insert(Sight::Orphaned { address, count: waiting, slot });
                }
            }
        }
        glance.sights.extend(orphaned.filter(|_| state.upkeep.may_rescue(now)));
        for datagrams in &mut state.flows {
            glance.at_datagrams(&mut datagrams.flows);
        }
        self.unix.look(&mut glance);
        if glance.is_waiting {
            state.upkeep.look_by(now + LOOK_EVERY);
        } else {
            let sockets = state.families.iter().flat_map(|family| family.group.members());
            sockets.for_each(|socket| self.signs.watch_arrivals(socket));
            self.unix.watch_arrivals();
        }
        let has_doubts = state.upkeep.is_doubtful(glance.is_stuck, now);
        if let Some(at) = state.upkeep.settled_at().filter(|_| state.upkeep.is_changed) {
            state.upkeep.look_by(at);
        }
        Look { sights: glance.sights, has_doubts }
    }

    /// Takes sockets from workers that have closed them, so that nothing new comes there; closes addresses that no worker
    /// has bound any more, when all had the time to bind them.
    pub(crate) fn release(&self, open: &OpenSockets, now: Instant) -> Vec<Sight> {
        let mut state = self.state();
        let State { workers, families, flows, upkeep, .. } = &mut *state;
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
            let may_be_used = family.lasts || !is_settled || family.may_be_open(open);
            if let Some(at) = family.disuse.note(may_be_used, now) {
                upkeep.confirm_by(at);
            }
        }
        for datagrams in flows.iter_mut() {
            if !datagrams.follow(open, now) {
                upkeep.confirm_by(now + LOOK_EVERY);
            }
            let may_be_used = datagrams.lasts || !is_settled || datagrams.may_be_open(open);
            if let Some(at) = datagrams.disuse.note(may_be_used, now) {
                upkeep.confirm_by(at);
            }
        }
        if let Some(at) = self.unix.follow(open, is_settled, now) {
            upkeep.confirm_by(at);
        }
        let over: Vec<_> = families.extract_if(.., |family| family.disuse.is_over(now)).collect();
        let unread: Vec<_> = flows.extract_if(.., |datagrams| datagrams.disuse.is_over(now)).collect();
        state.settle(&self.signs);
        drop(state);
        let mut sights: Vec<_> = over.iter().map(|family| self.close(family)).collect();
        sights.extend(unread.into_iter().map(Datagrams::end));
        sights.extend(self.unix.close_disused(now));
        sights
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
        let mut queues: Vec<Queue> = state.families.iter().flat_map(of_family).collect();
        queues.extend(self.unix.queues());
        queues
    }
}

impl Glance {
    fn new(in_rotation: HashMap<WorkerId, Slot>, hold: Duration, now: Instant) -> Self {
        Self { in_rotation, hold, now, sights: Vec::new(), is_waiting: false, is_stuck: false }
    }

    /// Looks at one queue, and closes what has waited there for too long. Returns how many go on waiting.
    fn at(
        &mut self,
        address: &str,
        socket: &OwnedFd,
        holders: &[WorkerId],
        attention: &mut Attention,
    ) -> u32 {
        let waiting = self.at_shared(address, socket, holders, attention);
        self.is_stuck |= attention.is_stuck(self.now);
        waiting
    }

    /// As [`at`](Self::at), where it does not matter who of several has closed the socket.
    pub(super) fn at_shared(
        &mut self,
        address: &str,
        socket: &OwnedFd,
        holders: &[WorkerId],
        attention: &mut Attention,
    ) -> u32 {
        let Ok(length) = queue_length(socket) else { return 0 };
        self.is_waiting |= length.queued > 0;
        self.sights.extend(told(address, attention.fullness.look(length, self.now), length));
        let held_by = HeldBy::of(holders, &self.in_rotation);
        let overdue = attention.note(length.queued, held_by, self.hold, self.now);
        let count = close_oldest(socket, overdue);
        if count > 0 {
            self.sights.push(Sight::HeldTooLong { address: address.to_owned(), count });
            return 0;
        }
        length.queued
    }
}

impl State {
    fn in_rotation(&self) -> HashMap<WorkerId, Slot> {
        let in_rotation = self.workers.iter().filter(|(_, member)| member.standing == Standing::InRotation);
        in_rotation.map(|(worker, member)| (*worker, member.slot)).collect()
    }

    /// Returns true when there is a worker in every slot that is not given up, ready, and none that starts.
    fn is_complete(&self) -> bool {
        let is_ready = |member: &&Member| match member.standing {
            Standing::InRotation | Standing::Paused => true,
            Standing::Starting | Standing::Leaving => false,
        };
        let filled: BTreeSet<Slot> =
            self.workers.values().filter(is_ready).map(|member| member.slot).collect();
        !self.has_starting() && filled.len() >= self.upkeep.awaited as usize
    }

    fn has_starting(&self) -> bool {
        self.workers.values().any(|member| member.standing == Standing::Starting)
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

    /// Returns the slots of those workers that accept here.
    fn serving_slots(&self, workers: &HashMap<WorkerId, Slot>) -> BTreeSet<Slot> {
        let holders = self.entrances.iter().flat_map(|entrance| &entrance.holders);
        holders.filter_map(|holder| workers.get(holder)).copied().collect()
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
