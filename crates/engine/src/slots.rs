//! Listening sockets that outlive the workers which accept from them by themselves, without a channel.
//!
//! Each worker accepts from an *entrance* of its own: a socket of a `SO_REUSEPORT` group that the primary made and keeps.
//! New connections go to the entrances of workers in rotation. As nothing can be handed over here, what is queued at an
//! entrance can only be accepted by whoever holds it. Hence:
//!
//! - The entrance of a worker that is gone waits, with its queue, for the next worker, which gets the one where most wait.
//! - A successor gets another entrance than its predecessor, which still runs. The predecessor gets nothing new from the
//!   moment it leaves rotation, and can accept what it has before it is asked to end.
//! - With no worker in rotation, connections are queued where the next worker will find them.
//!
//! With one socket for all (`shared`), all of that is true of itself.

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::ids::{Slot, WorkerId};
use crate::listen::{Group, HOLDING_BACKLOG, Spread, Target, queued, refuse_new_connections};
use crate::spec::{ListenAddress, Policies};

/// The entrances of one app. Handles are cheap to clone; what they do under the lock are single calls of the system.
#[derive(Clone, Debug)]
pub(crate) struct Slots(Arc<Mutex<State>>);

/// A socket as the kernel knows it, through whatever descriptor: its inode.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Identity(u64);

/// A socket that a worker may have.
#[derive(Debug)]
pub(crate) struct Taken {
    pub(crate) socket: OwnedFd,
    /// Whether another worker has it, too.
    pub(crate) is_shared: bool,
}

#[derive(Debug)]
struct State {
    policies: Policies,
    workers: HashMap<WorkerId, Member>,
    families: Vec<Family>,
}

/// A worker that is not gone.
#[derive(Clone, Copy, Debug)]
struct Member {
    slot: Slot,
    standing: Standing,
}

/// Where a worker stands; the later, the less it is to be given connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Standing {
    InRotation,
    Starting,
    /// It was in rotation and is not any more.
    Out,
}

/// The sockets of one address.
#[derive(Debug)]
struct Family {
    group: Group,
    entrances: Vec<Entrance>,
    targets: Vec<Target>,
}

#[derive(Debug)]
struct Entrance {
    place: Place,
    identity: Identity,
    /// The workers that were given it and are not gone. Several where all share one.
    holders: Vec<WorkerId>,
}

#[derive(Debug)]
enum Place {
    /// It is bound, and no worker has called `listen` on it yet.
    Bound(OwnedFd),
    /// An index into the group.
    Listening(usize),
}

impl Identity {
    /// Returns the identity of a socket.
    pub(crate) fn of(socket: impl AsFd) -> io::Result<Self> {
        Ok(Self(rustix::fs::fstat(socket)?.st_ino))
    }

    /// Returns what a link in `/proc/PID/fd` to it says.
    pub(crate) fn link(self) -> String {
        format!("socket:[{}]", self.0)
    }
}

impl Slots {
    /// Makes the entrances of an app that has none yet.
    pub(crate) fn new(policies: Policies) -> Self {
        Self(Arc::new(Mutex::new(State { policies, workers: HashMap::new(), families: Vec::new() })))
    }

    /// A worker is about to start.
    pub(crate) fn add(&self, worker: WorkerId, slot: Slot) {
        self.state().workers.insert(worker, Member { slot, standing: Standing::Starting });
    }

    /// A worker is gone. What is queued at its entrances waits for another one.
    pub(crate) fn remove(&self, worker: WorkerId) {
        let mut state = self.state();
        state.workers.remove(&worker);
        for entrance in state.families.iter_mut().flat_map(|family| &mut family.entrances) {
            entrance.holders.retain(|holder| *holder != worker);
        }
        state.steer();
    }

    /// Puts a worker in or out of rotation.
    pub(crate) fn rotate(&self, worker: WorkerId, in_rotation: bool) {
        let mut state = self.state();
        if let Some(member) = state.workers.get_mut(&worker) {
            member.standing = if in_rotation { Standing::InRotation } else { Standing::Out };
        }
        state.steer();
    }

    /// Returns the socket that a worker was given for this address, if it was given one.
    pub(crate) fn held(&self, worker: WorkerId, address: SocketAddr, v6only: bool) -> Option<Identity> {
        let state = self.state();
        let family = state.families.iter().find(|family| family.is_at(address, v6only))?;
        family.held_by(worker).map(|index| family.entrances[index].identity)
    }

    /// Gives a worker a socket that is bound to an address; the same one again if it has one.
    ///
    /// A new one is prepared by `prepare` before it is bound.
    pub(crate) fn take(
        &self,
        worker: WorkerId,
        address: SocketAddr,
        v6only: bool,
        prepare: &dyn Fn(BorrowedFd<'_>),
    ) -> io::Result<Taken> {
        let mut state = self.state();
        let asked = ListenAddress::of(address);
        // `None`: one socket for all workers.
        let spread = state.policies.of(Some(&asked)).for_own_sockets();
        let place = state.families.iter().position(|family| family.is_at(address, v6only));
        let place = if let Some(place) = place {
            place
        } else {
            let family = Family::open(address, v6only, spread.unwrap_or_default(), prepare)?;
            state.families.push(family);
            state.families.len() - 1
        };
        let family = &mut state.families[place];
        let index = match spread {
            None => 0,
            Some(spread) => family.choose(worker, spread, prepare)?,
        };
        let socket = family.socket(index).try_clone_to_owned()?;
        let holders = &mut family.entrances[index].holders;
        let is_shared = holders.iter().any(|holder| *holder != worker);
        if !holders.contains(&worker) {
            holders.push(worker);
        }
        Ok(Taken { socket, is_shared })
    }

    /// Returns whether a socket is one of these.
    pub(crate) fn knows(&self, identity: Identity) -> bool {
        self.state().families.iter().any(|family| family.index_of(identity).is_some())
    }

    /// Lets a socket listen, and returns its address; `None` when it is none of these.
    pub(crate) fn listen(&self, identity: Identity) -> Option<io::Result<SocketAddr>> {
        let mut state = self.state();
        let listening = state.families.iter_mut().find_map(|family| {
            let index = family.index_of(identity)?;
            Some(family.listen(index).map(|()| family.group.address()))
        });
        state.steer();
        listening
    }

    /// Returns how many connections wait that only this worker can accept.
    pub(crate) fn waiting(&self, worker: WorkerId) -> u32 {
        let state = self.state();
        let waiting = |family: &Family| {
            let own = family.entrances.iter().filter(|entrance| entrance.holders == [worker]);
            own.filter_map(|entrance| family.queue(entrance)).sum::<u32>()
        };
        state.families.iter().map(waiting).sum()
    }

    /// Returns the ports at which workers accept.
    pub(crate) fn ports(&self) -> Vec<u16> {
        self.state().families.iter().map(|family| family.group.address().port()).collect()
    }

    /// Lets nobody new in.
    pub(crate) fn refuse_new(&self) {
        for family in &self.state().families {
            family.group.members().iter().for_each(refuse_new_connections);
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Sends new connections to the workers in rotation.
    fn steer(&mut self) {
        for family in &mut self.families {
            let targets = family.targets(&self.workers);
            // Out of memory: as before, until the next change.
            if family.targets != targets && family.group.steer(&targets).is_ok() {
                family.targets = targets;
            }
        }
    }
}

impl Family {
    fn open(
        address: SocketAddr,
        v6only: bool,
        spread: Spread,
        prepare: &dyn Fn(BorrowedFd<'_>),
    ) -> io::Result<Self> {
        let (group, socket) = Group::open(address, v6only, HOLDING_BACKLOG, spread, prepare)?;
        Ok(Self { group, entrances: vec![Entrance::new(socket)?], targets: Vec::new() })
    }

    fn is_at(&self, address: SocketAddr, v6only: bool) -> bool {
        self.group.address() == address && self.group.is_v6only() == v6only
    }

    fn held_by(&self, worker: WorkerId) -> Option<usize> {
        self.entrances.iter().position(|entrance| entrance.holders.contains(&worker))
    }

    fn index_of(&self, identity: Identity) -> Option<usize> {
        self.entrances.iter().position(|entrance| entrance.identity == identity)
    }

    /// Chooses an entrance for a worker: its own, the free one where most wait, a new one.
    fn choose(
        &mut self,
        worker: WorkerId,
        spread: Spread,
        prepare: &dyn Fn(BorrowedFd<'_>),
    ) -> io::Result<usize> {
        if let Some(own) = self.held_by(worker) {
            return Ok(own);
        }
        let free = self.entrances.iter().enumerate().filter(|(_, entrance)| entrance.holders.is_empty());
        // Of equal ones the first.
        let free = free.rev().max_by_key(|(_, entrance)| self.queue(entrance));
        if let Some((index, _)) = free {
            return Ok(index);
        }
        if self.entrances.len() >= spread.most_sockets() {
            return Err(io::Error::from_raw_os_error(libc::EMFILE));
        }
        self.entrances.push(Entrance::new(self.group.spare(prepare)?)?);
        Ok(self.entrances.len() - 1)
    }

    fn socket(&self, index: usize) -> BorrowedFd<'_> {
        match &self.entrances[index].place {
            Place::Bound(socket) => socket.as_fd(),
            Place::Listening(member) => self.group.members()[*member].as_fd(),
        }
    }

    fn listen(&mut self, index: usize) -> io::Result<()> {
        match &self.entrances[index].place {
            Place::Bound(socket) => {
                let member = self.group.admit(socket.try_clone()?)?;
                self.entrances[index].place = Place::Listening(member);
            }
            // Workers call it with shorter queues than what is needed to hold connections.
            Place::Listening(member) => self.group.lengthen_queue(*member),
        }
        Ok(())
    }

    /// Returns how many connections wait at an entrance; `None` while it does not listen.
    fn queue(&self, entrance: &Entrance) -> Option<u32> {
        match entrance.place {
            Place::Bound(_) => None,
            Place::Listening(member) => queued(&self.group.members()[member]).ok(),
        }
    }

    /// Returns where new connections go: to workers in rotation; without any, to one entrance that a worker has which
    /// starts, or the next one will get.
    fn targets(&self, workers: &HashMap<WorkerId, Member>) -> Vec<Target> {
        let mut listening = Vec::new();
        for entrance in &self.entrances {
            let Place::Listening(member) = entrance.place else { continue };
            let holders = entrance.holders.iter().filter_map(|holder| workers.get(holder));
            let best = holders.min_by_key(|holder| holder.standing).copied();
            let slot = best.map_or(0, |best| best.slot.0);
            let target = Target { index: member as u32, slot };
            listening.push((best.map(|best| best.standing), self.queue(entrance), target));
        }
        let in_rotation = listening.iter().filter(|(standing, ..)| *standing == Some(Standing::InRotation));
        let in_rotation: Vec<Target> = in_rotation.map(|(.., target)| *target).collect();
        if !in_rotation.is_empty() {
            return in_rotation;
        }
        let preference = |standing: Option<Standing>| match standing {
            Some(Standing::InRotation | Standing::Starting) => 2,
            None => 1,
            Some(Standing::Out) => 0,
        };
        let best = listening.iter().rev().max_by_key(|(standing, queue, _)| (preference(*standing), *queue));
        best.map(|(.., target)| *target).into_iter().collect()
    }
}

impl Entrance {
    fn new(socket: OwnedFd) -> io::Result<Self> {
        Ok(Self { identity: Identity::of(&socket)?, place: Place::Bound(socket), holders: Vec::new() })
    }
}

#[cfg(test)]
mod tests;
