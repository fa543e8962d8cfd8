//! Datagram sockets of one address, one for each worker: a flow (the client's address and port) stays with one slot.
//!
//! - Datagrams go to the sockets of workers in rotation, by rendezvous hashing over their slots: who comes or goes moves no
//!   flow but its own. With nobody in rotation they go where they went.
//! - What is queued at a socket is read by whoever has it, and nobody can hand it over. So a socket stays open, with its
//!   queue, when its worker is gone, and the next worker of the slot gets it. A successor gets another one than its
//!   predecessor, which still runs and reads what it has.
//! - Nobody can be made to wait: what a full socket (`SO_RCVBUF`) has no room for, the kernel drops.

use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use rustix::net::{RecvFlags, recv};

use super::group::{At, Group, full, has_datagram, takes_all};
use super::spread::{Spread, Target};
use crate::ids::{Slot, WorkerId};

/// How long what was left behind waits for a worker that may come by itself, and the first pause between two that are
/// asked for.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(32);

/// The sockets of one address. Dropping it closes this process's copies of them.
#[derive(Debug)]
pub(crate) struct Flows {
    group: Group,
    /// `None`: one socket for all workers.
    spread: Option<Spread>,
    /// One for each of the group's sockets, in their order.
    entrances: Vec<Entrance>,
    targets: Vec<Target>,
}

/// Datagrams that nobody can read, while workers serve: who they were for is gone, and each of the others has a socket of
/// its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum LeftBehind {
    /// They wait for one more worker of this slot; when it is `due`, that has to be asked for.
    Waits { slot: Slot, is_due: bool },
    /// They have waited for too long: so many are gone.
    ThrownAway { count: u64 },
}

/// How often a worker was asked for that reads what was left behind at a socket.
#[derive(Clone, Copy, Debug)]
struct Asking {
    since: Instant,
    next: Instant,
    pause: Duration,
}

#[derive(Clone, Copy, Debug, Default)]
struct Entrance {
    holder: Option<WorkerId>,
    /// The slot of who has it, or had it last.
    slot: Option<Slot>,
    /// There since a worker is asked for that reads what waits here, until it is read.
    left_behind: Option<Asking>,
}

impl Flows {
    /// Binds an address that nobody else has; `prepare` sets what has to be set before.
    pub(crate) fn open(at: At, spread: Option<Spread>, prepare: &dyn Fn(BorrowedFd<'_>)) -> io::Result<Self> {
        let (mut group, second) = Group::open(at, 0, spread.unwrap_or_default(), prepare)?;
        if spread.is_some() {
            group.admit(second)?;
        }
        Ok(Self::of_group(group, spread))
    }

    /// Spreads an address over sockets of which we have bound the first one already, and alone. What waits there is the
    /// first worker's.
    pub(crate) fn adopt(at: At, spread: Spread, first: OwnedFd) -> io::Result<Self> {
        let (mut group, second) = Group::adopt(at, spread, first)?;
        group.admit(second)?;
        Ok(Self::of_group(group, Some(spread)))
    }

    fn of_group(group: Group, spread: Option<Spread>) -> Self {
        let entrances = vec![Entrance::default(); group.members().len()];
        let mut flows = Self { group, spread, entrances, targets: Vec::new() };
        flows.steer(|_nobody| false);
        flows
    }

    /// Returns where they are bound.
    pub(crate) fn at(&self) -> At {
        self.group.at()
    }

    /// Returns all of the sockets; there is always one.
    pub(crate) fn sockets(&self) -> &[OwnedFd] {
        self.group.members()
    }

    /// Returns false where all workers read one socket: nobody can be kept from it then.
    pub(crate) fn is_spread(&self) -> bool {
        self.spread.is_some()
    }

    /// Returns a copy of a worker's socket, which gets no datagram before the worker is in rotation. A new one is prepared
    /// by `prepare` before it is bound.
    pub(crate) fn give(
        &mut self,
        worker: WorkerId,
        slot: Slot,
        prepare: &dyn Fn(BorrowedFd<'_>),
    ) -> io::Result<OwnedFd> {
        if self.spread.is_none() {
            return self.group.members()[0].try_clone();
        }
        self.drop_spoiled();
        let index = match self.choose(worker, slot) {
            Some(index) => index,
            None => self.grow(prepare).or_else(|full| self.any_free().ok_or(full))?,
        };
        let copy = self.group.members()[index].try_clone()?;
        let entrance = &mut self.entrances[index];
        (entrance.holder, entrance.slot) = (Some(worker), Some(slot));
        Ok(copy)
    }

    /// Binds a further socket of a worker to the address, which is to be connected to one client: what comes from that client
    /// goes there then. Nobody keeps a copy of it.
    ///
    /// One that has connected the socket it was given wants the further one for all others, which cannot be spread.
    pub(crate) fn bind_beside(&self, worker: WorkerId, socket: BorrowedFd<'_>) -> io::Result<()> {
        if !self.of(worker).is_some_and(takes_all) {
            return Err(io::Error::from_raw_os_error(libc::EADDRINUSE));
        }
        self.group.bind_beside(socket)
    }

    /// Takes the socket from a worker that is gone, or has closed it. What is queued there waits.
    pub(crate) fn release(&mut self, worker: WorkerId) {
        for entrance in &mut self.entrances {
            entrance.holder = entrance.holder.filter(|holder| *holder != worker);
        }
    }

    /// Returns the socket that a worker has for itself.
    pub(crate) fn of(&self, worker: WorkerId) -> Option<&OwnedFd> {
        let index = self.entrances.iter().position(|entrance| entrance.holder == Some(worker))?;
        self.group.members().get(index)
    }

    /// Returns whether a datagram waits that only this worker can read.
    pub(crate) fn waits_for(&self, worker: WorkerId) -> bool {
        self.of(worker).is_some_and(has_datagram)
    }

    /// Returns the workers that have a socket for themselves, with it.
    pub(crate) fn holders(&self) -> impl Iterator<Item = (WorkerId, &OwnedFd)> {
        let held = self.entrances.iter().zip(self.group.members());
        held.filter_map(|(entrance, socket)| Some((entrance.holder?, socket)))
    }

    /// Looks for datagrams that nobody can read, and throws away those that were left for longer than `hold`.
    pub(crate) fn look_for_left_behind(
        &mut self,
        serves: impl Fn(WorkerId) -> bool,
        hold: Duration,
        now: Instant,
    ) -> Option<LeftBehind> {
        let is_served = self.holders().any(|(worker, _)| serves(worker));
        for (entrance, socket) in self.entrances.iter_mut().zip(self.group.members()) {
            // One that was asked for may end before it has read it.
            let is_unread = || !entrance.holder.is_some_and(&serves) && has_datagram(socket);
            entrance.left_behind = entrance.left_behind.filter(|_| is_served && is_unread());
        }
        // One after the other: each waits from when it is its turn to be asked for.
        let (index, slot) = self.left_behind_at().filter(|_| is_served)?;
        let entrance = &mut self.entrances[index];
        let begun = Asking { since: now, next: now + FIRST_PAUSE, pause: FIRST_PAUSE };
        let mut asking = entrance.left_behind.unwrap_or(begun);
        if now.saturating_duration_since(asking.since) >= hold {
            entrance.left_behind = None;
            return Some(LeftBehind::ThrownAway { count: read_all(&self.group.members()[index]) });
        }
        let is_due = asking.next <= now;
        if is_due {
            asking.next = now + asking.pause;
            asking.pause = (asking.pause * 2).min(LONGEST_PAUSE);
        }
        entrance.left_behind = Some(asking);
        Some(LeftBehind::Waits { slot, is_due })
    }

    /// Returns which socket nobody has any more although something waits there, with its slot.
    fn left_behind_at(&self) -> Option<(usize, Slot)> {
        let mut all = (0..).zip(self.entrances.iter().zip(self.group.members()));
        all.find_map(|(index, (entrance, socket))| {
            let slot = entrance.slot.filter(|_| entrance.holder.is_none())?;
            (has_datagram(socket) && takes_all(socket)).then_some((index, slot))
        })
    }

    /// Reads what waits anywhere, for nobody, and returns how many datagrams that were.
    pub(crate) fn throw_away(&self) -> u64 {
        self.group.members().iter().filter(|socket| takes_all(socket)).map(read_all).sum()
    }

    /// Sends flows to the workers that serve.
    pub(crate) fn steer(&mut self, serves: impl Fn(WorkerId) -> bool) {
        if self.spread.is_none() {
            return;
        }
        let target = |(index, entrance): (u32, &Entrance)| {
            let slot = entrance.slot.filter(|_| entrance.holder.is_some_and(&serves))?;
            Some(Target { index, slot: slot.0 })
        };
        let mut targets: Vec<Target> = (0..).zip(&self.entrances).filter_map(target).collect();
        if targets.is_empty() {
            if !self.targets.is_empty() {
                return;
            }
            // The first worker will get it.
            targets.push(Target { index: 0, slot: 0 });
        }
        // Out of memory: as before, until the next change.
        if self.targets != targets && self.group.steer(&targets).is_ok() {
            self.targets = targets;
        }
    }

    /// Chooses the socket that a worker has, or one that nobody has: of its slot, the one where something waits before
    /// another; or else one that nobody ever had. That of another slot is for the next worker there.
    fn choose(&self, worker: WorkerId, slot: Slot) -> Option<usize> {
        let own = self.entrances.iter().position(|entrance| entrance.holder == Some(worker));
        let free = |of: Option<Slot>| {
            let fits = move |entrance: &Entrance| entrance.holder.is_none() && entrance.slot == of;
            (0..).zip(&self.entrances).filter(move |(_, entrance)| fits(entrance)).map(|(index, _)| index)
        };
        let waits = |index: &usize| has_datagram(&self.group.members()[*index]);
        own.or_else(|| free(Some(slot)).find(waits))
            .or_else(|| free(Some(slot)).next())
            .or_else(|| free(None).next())
    }

    fn any_free(&self) -> Option<usize> {
        self.entrances.iter().position(|entrance| entrance.holder.is_none())
    }

    fn grow(&mut self, prepare: &dyn Fn(BorrowedFd<'_>)) -> io::Result<usize> {
        if self.entrances.len() >= self.group.most() {
            return Err(full(self.group.most()));
        }
        let socket = self.group.spare(prepare)?;
        self.entrances.push(Entrance::default());
        self.group.admit(socket)
    }

    /// Closes sockets of gone workers which have shut them down or connected them. As in the kernel, the last one gets the
    /// index of a closed one.
    fn drop_spoiled(&mut self) {
        let is_spoiled = |(entrance, socket): (&Entrance, &OwnedFd)| {
            entrance.holder.is_none() && entrance.slot.is_some() && !takes_all(socket)
        };
        while self.entrances.len() > 1
            && let Some(index) = self.entrances.iter().zip(self.group.members()).position(is_spoiled)
        {
            self.entrances.swap_remove(index);
            self.group.drop_dead(index);
            // What the program means has changed with the indexes.
            self.targets.clear();
        }
    }
}

/// Reads what waits at a socket, and returns how many datagrams that were; of what goes on coming not all.
fn read_all(socket: &OwnedFd) -> u64 {
    /// More than a queue of a usual length holds.
    const MOST: usize = 65_536;
    let read = || recv(socket, &mut [0_u8; 1][..], RecvFlags::DONTWAIT | RecvFlags::TRUNC).ok();
    std::iter::from_fn(read).take(MOST).count() as u64
}

#[cfg(test)]
mod tests;
