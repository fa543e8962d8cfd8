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
//!
//! A program may shut its socket down when it ends, which ends it for us, too, and moves the last socket of the group to
//! its index. So the last one always is nobody's: a death changes the index of no socket that is in use, and there is
//! always one where connections can wait.
//!
//! Unix sockets have no entrances: all workers [share one](UnixSockets). Datagram sockets are [`Flows`](crate::listen::Flows), and
//! there is nothing to listen.
//!
//! Between `bind` and `listen` a socket is the program's alone. It may be a client's that only fixes its own port, and its
//! connection would stay open with a copy of ours.

mod deaths;
mod flows;
mod look;
mod open_sockets;
mod opened;
mod signs;
mod unix;
mod upkeep;

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use self::flows::Datagrams;
pub(crate) use self::look::{Look, Sight};
pub(crate) use self::open_sockets::OpenSockets;
use self::signs::{Cookie, Signs};
pub(crate) use self::unix::{FirstBound, Offer, UnixPlace, UnixSockets};
use self::upkeep::{Attention, Disuse, Upkeep};
use crate::ids::{Slot, WorkerId};
use crate::listen::{
    Address, At, Group, HOLDING_BACKLOG, Spread, Target, Transport, full, queued, refuse_new_connections,
};
use crate::spec::{ListenAddress, Policies};

/// The entrances of one app. Handles are cheap to clone; what they do under the lock are single calls of the system.
#[derive(Clone, Debug)]
pub(crate) struct Slots {
    state: Arc<Mutex<State>>,
    signs: Arc<Signs>,
    unix: UnixSockets,
}

/// A socket as the kernel knows it, through whatever descriptor.
///
/// No two sockets have one cookie, ever. Inodes of sockets, by which `/proc` tells of them, are counted with 32 bits and
/// come again after four thousand million sockets, which a busy machine has in a day.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Identity {
    cookie: Cookie,
    inode: u64,
}

/// A socket that a worker may have.
#[derive(Debug)]
pub(crate) struct Taken {
    pub(crate) socket: OwnedFd,
    /// Whether another worker has it, too.
    pub(crate) is_shared: bool,
}

/// A socket that listens.
#[derive(Debug)]
pub(crate) struct Listened {
    pub(crate) address: Address,
    /// What the worker has to get in place of its own: all share one.
    pub(crate) instead: Option<Taken>,
}

#[derive(Debug)]
struct State {
    policies: Policies,
    workers: HashMap<WorkerId, Member>,
    families: Vec<Family>,
    /// The sockets of addresses for datagrams.
    flows: Vec<Datagrams>,
    upkeep: Upkeep,
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
    /// It was taken out of rotation, and may come back.
    Paused,
    /// It never comes back.
    Leaving,
}

/// The sockets of one address.
#[derive(Debug)]
struct Family {
    /// `None`: one socket for all workers.
    spread: Option<Spread>,
    group: Group,
    entrances: Vec<Entrance>,
    /// Whether it stays open whoever binds it: it was opened for `--listen`.
    lasts: bool,
    disuse: Disuse,
}

#[derive(Debug)]
struct Entrance {
    place: Place,
    identity: Identity,
    /// The workers that were given it and are not gone. Several where all share one.
    holders: Vec<WorkerId>,
    /// The slot of the last worker that had it and is gone.
    last_slot: Slot,
    /// It is for one more worker beside the one that has it, which starts and accepts nothing.
    is_lent: bool,
    attention: Attention,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    /// It is bound, and its worker has not called `listen` on it yet; we have no copy.
    Bound,
    /// An index into the group.
    Listening(usize),
}

impl Identity {
    /// Returns the identity of a socket.
    pub(crate) fn of(socket: impl AsFd) -> io::Result<Self> {
        let cookie = Cookie(rustix::net::sockopt::socket_cookie(&socket)?);
        Ok(Self { cookie, inode: rustix::fs::fstat(socket)?.st_ino })
    }

    /// Returns the number by which `/proc` tells of it.
    pub(crate) fn inode(self) -> u64 {
        self.inode
    }

    /// Returns what a link in `/proc/PID/fd` to it says. Another socket's may say the same; then this one is taken for open.
    pub(crate) fn link(self) -> String {
        format!("socket:[{}]", self.inode)
    }
}

impl Slots {
    /// Makes the entrances of an app that has none yet.
    pub(crate) fn new(policies: Policies) -> io::Result<Self> {
        let (workers, families, flows) = (HashMap::new(), Vec::new(), Vec::new());
        let state = State { policies, workers, families, flows, upkeep: Upkeep::default() };
        let signs = Arc::new(Signs::new()?);
        let unix = UnixSockets::new(Arc::clone(&signs));
        Ok(Self { state: Arc::new(Mutex::new(state)), signs, unix })
    }

    /// Returns what is readable when [`attend`](Self::attend) has something to do.
    pub(crate) fn signs(&self) -> BorrowedFd<'_> {
        self.signs.as_fd()
    }

    /// A worker is about to start.
    pub(crate) fn add(&self, worker: WorkerId, slot: Slot) {
        self.state().workers.insert(worker, Member { slot, standing: Standing::Starting });
        self.signs.change();
    }

    /// Returns the sockets that are no entrances, for there can be one only.
    pub(crate) fn unix(&self) -> &UnixSockets {
        &self.unix
    }

    /// Returns whether a worker is not gone.
    pub(crate) fn has(&self, worker: WorkerId) -> bool {
        self.state().workers.contains_key(&worker)
    }

    /// A worker is gone. What is queued at its entrances waits for another one.
    pub(crate) fn remove(&self, worker: WorkerId) {
        self.unix.remove(worker);
        let mut state = self.state();
        // Perhaps it has shut its sockets down, and nobody looks at deaths.
        state.bury(&self.signs);
        let slot = state.workers.remove(&worker).map(|member| member.slot);
        for family in &mut state.families {
            for entrance in family.entrances.iter_mut().filter(|entrance| entrance.holders.contains(&worker))
            {
                entrance.holders.retain(|holder| *holder != worker);
                entrance.last_slot = slot.unwrap_or(entrance.last_slot);
            }
            // Nobody will ever ask to listen on what is only bound.
            family
                .entrances
                .retain(|entrance| entrance.place != Place::Bound || !entrance.holders.is_empty());
        }
        state.families.retain(|family| !family.entrances.is_empty());
        state.flows.iter_mut().for_each(|datagrams| datagrams.flows.release(worker));
        state.steer();
        self.signs.change();
    }

    /// Puts a worker in or out of rotation.
    pub(crate) fn rotate(&self, worker: WorkerId, in_rotation: bool) {
        let mut state = self.state();
        if let Some(member) = state.workers.get_mut(&worker) {
            member.standing = if in_rotation { Standing::InRotation } else { Standing::Paused };
        }
        state.steer();
        self.signs.change();
    }

    /// A worker leaves for good: whatever happens to the others, nothing new comes to it if it can wait elsewhere.
    pub(crate) fn leave(&self, worker: WorkerId) {
        let mut state = self.state();
        if let Some(member) = state.workers.get_mut(&worker) {
            member.standing = Standing::Leaving;
        }
        state.steer();
        self.signs.change();
    }

    /// Returns the sockets that a worker was given for this address, and may have closed meanwhile.
    pub(crate) fn held(&self, worker: WorkerId, address: SocketAddr, v6only: bool) -> Vec<Identity> {
        let state = self.state();
        let family = state.families.iter().find(|family| family.is_at(address, v6only));
        let entrances = family.into_iter().flat_map(|family| &family.entrances);
        entrances
            .filter(|entrance| entrance.holders.contains(&worker))
            .map(|entrance| entrance.identity)
            .collect()
    }

    /// Returns the sockets that a worker was given and does not listen on yet.
    pub(crate) fn only_bound(&self, worker: WorkerId) -> Vec<Identity> {
        let state = self.state();
        let entrances = state.families.iter().flat_map(|family| &family.entrances);
        let bound = entrances.filter(|entrance| entrance.place == Place::Bound);
        bound
            .filter(|entrance| entrance.holders.contains(&worker))
            .map(|entrance| entrance.identity)
            .collect()
    }

    /// A socket that did not listen was closed.
    pub(crate) fn forget_bound(&self, identity: Identity) {
        let mut state = self.state();
        for family in &mut state.families {
            family
                .entrances
                .retain(|entrance| entrance.identity != identity || entrance.place != Place::Bound);
        }
        state.families.retain(|family| !family.entrances.is_empty());
    }

    /// Gives a worker a socket that is bound to an address; the one that it listens on if there is one.
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
        if !state.workers.contains_key(&worker) {
            // What it left behind would keep an entrance for ever.
            return Err(io::Error::from_raw_os_error(libc::EADDRINUSE));
        }
        let asked = ListenAddress::of(Transport::Tcp, address);
        let spread = state.policies.of(Some(&asked)).for_own_sockets();
        state.bury(&self.signs);
        let Some(family) = state.families.iter_mut().find(|family| family.is_at(address, v6only)) else {
            let at = At { transport: Transport::Tcp, address, v6only };
            let (group, socket) = Group::open(at, HOLDING_BACKLOG, spread.unwrap_or_default(), prepare)?;
            let entrances = vec![Entrance::bound(&socket, worker)?];
            state.families.push(Family { spread, group, entrances, lasts: false, disuse: Disuse::default() });
            return Ok(Taken { socket, is_shared: false });
        };
        if let Some(index) = family.choose(worker) {
            let taken = family.share(index, worker);
            state.settle(&self.signs);
            return taken;
        }
        let most = spread.unwrap_or_default().most_sockets();
        if family.entrances.len() >= most {
            return Err(full(most));
        }
        let socket = family.group.spare(prepare)?;
        family.entrances.push(Entrance::bound(&socket, worker)?);
        Ok(Taken { socket, is_shared: false })
    }

    /// Returns whether a socket is one of these.
    pub(crate) fn knows(&self, identity: Identity) -> bool {
        let state = self.state();
        let is_one = |socket: &OwnedFd| Identity::of(socket).is_ok_and(|known| known == identity);
        state.families.iter().any(|family| family.index_of(identity).is_some())
            || state.flows.iter().any(|datagrams| datagrams.flows.sockets().iter().any(is_one))
    }

    /// Lets a worker's socket listen, of which this is a copy; `None` when it is none of these.
    pub(crate) fn listen(&self, worker: WorkerId, socket: &OwnedFd) -> Option<io::Result<Listened>> {
        let identity = Identity::of(socket).ok()?;
        let mut state = self.state();
        let listened = state.families.iter_mut().find_map(|family| {
            let index = family.index_of(identity)?;
            Some(family.listen(index, worker, socket.try_clone(), &self.signs))
        });
        state.settle(&self.signs);
        listened
    }

    /// Returns how many connections, or addresses with datagrams, wait that only this worker can accept, or read.
    pub(crate) fn waiting(&self, worker: WorkerId) -> u32 {
        let state = self.state();
        let waiting = |family: &Family| {
            let own = family.entrances.iter().filter(|entrance| entrance.is_left_to(worker, &state.workers));
            own.filter_map(|entrance| family.queue(entrance)).sum::<u32>()
        };
        let unread = state.flows.iter().filter(|datagrams| datagrams.flows.waits_for(worker)).count();
        state.families.iter().map(waiting).sum::<u32>() + unread as u32
    }

    /// Returns whether this worker gets nothing new once it has left rotation: that cannot be where all share one socket.
    pub(crate) fn can_run_dry(&self, worker: WorkerId) -> bool {
        let state = self.state();
        let held =
            |family: &&Family| family.entrances.iter().any(|entrance| entrance.holders.contains(&worker));
        let is_spread = state.families.iter().filter(held).all(|family| family.spread.is_some());
        let reads_own = state.flows.iter().all(|datagrams| datagrams.flows.is_spread());
        is_spread && reads_own && !self.unix.are_held_by(worker)
    }

    /// Returns the ports at which workers accept.
    pub(crate) fn ports(&self) -> Vec<u16> {
        self.state().families.iter().map(|family| family.group.at().address.port()).collect()
    }

    /// Lets nobody new in.
    pub(crate) fn refuse_new(&self) {
        for family in &self.state().families {
            family.group.members().iter().for_each(refuse_new_connections);
        }
        self.unix.remove_paths();
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Steers, and keeps the last socket of each group free.
    fn settle(&mut self, signs: &Signs) {
        self.families.retain(|family| !family.entrances.is_empty());
        self.steer();
        self.families.iter_mut().for_each(|family| family.keep_last_free(signs));
    }

    /// Sends new connections to the workers in rotation.
    fn steer(&mut self) {
        for family in &mut self.families {
            // Also where nothing has changed: a program may have attached one of its own, which holds for the whole group.
            // Out of memory: as before, until the next change.
            let _unchanged = family.group.steer(&family.targets(&self.workers));
        }
        let workers = &self.workers;
        let serves = |worker: WorkerId| {
            workers.get(&worker).is_some_and(|member| member.standing == Standing::InRotation)
        };
        self.flows.iter_mut().for_each(|datagrams| datagrams.flows.steer(serves));
    }
}

impl Family {
    fn is_at(&self, address: SocketAddr, v6only: bool) -> bool {
        self.group.at() == At { transport: Transport::Tcp, address, v6only }
    }

    fn index_of(&self, identity: Identity) -> Option<usize> {
        self.entrances.iter().position(|entrance| entrance.identity == identity)
    }

    /// Chooses one of the listening entrances for a worker: its own, or the free one where most wait; where all share one,
    /// that one.
    fn choose(&self, worker: WorkerId) -> Option<usize> {
        let listening = self.entrances.iter().enumerate();
        let listening = listening.filter(|(_, entrance)| entrance.place != Place::Bound);
        let own = listening.clone().find(|(_, entrance)| entrance.holders.contains(&worker));
        let is_free = |entrance: &Entrance| entrance.holders.is_empty() || entrance.is_lent;
        let free = listening.filter(|(_, entrance)| self.spread.is_none() || is_free(entrance));
        // Of equal ones the first.
        let free = free.rev().max_by_key(|(_, entrance)| self.queue(entrance));
        own.or(free).map(|(index, _)| index)
    }

    /// Gives a listening entrance to one more worker.
    fn share(&mut self, index: usize, worker: WorkerId) -> io::Result<Taken> {
        let Place::Listening(member) = self.entrances[index].place else {
            return Err(io::Error::from_raw_os_error(libc::EINVAL));
        };
        let socket = self.group.members()[member].try_clone()?;
        self.entrances[index].is_lent = false;
        let holders = &mut self.entrances[index].holders;
        let is_shared = holders.iter().any(|holder| *holder != worker);
        if !holders.contains(&worker) {
            holders.push(worker);
        }
        Ok(Taken { socket, is_shared })
    }

    fn listen(
        &mut self,
        index: usize,
        worker: WorkerId,
        socket: io::Result<OwnedFd>,
        signs: &Signs,
    ) -> io::Result<Listened> {
        let address = self.group.at().told();
        let listens = self.entrances.iter().position(|entrance| entrance.place != Place::Bound);
        let instead = match self.entrances[index].place {
            Place::Bound => {
                if let Some(shared) = listens.filter(|_| self.spread.is_none()) {
                    let taken = self.share(shared, worker)?;
                    self.entrances.remove(index);
                    Some(taken)
                } else {
                    let member = self.group.admit(socket?)?;
                    signs.watch(&self.group.members()[member], self.entrances[index].identity);
                    self.entrances[index].place = Place::Listening(member);
                    None
                }
            }
            Place::Listening(member) => {
                // Workers call it with shorter queues than what is needed to hold connections.
                self.group.lengthen_queue(member);
                if !self.entrances[index].holders.contains(&worker) {
                    self.entrances[index].holders.push(worker);
                }
                None
            }
        };
        Ok(Listened { address, instead })
    }

    /// Adds a socket that is nobody's, unless the last one is.
    fn keep_last_free(&mut self, signs: &Signs) {
        let Some(spread) = self.spread else { return };
        let Some(last) = self.group.members().len().checked_sub(1) else { return };
        let is_last = |entrance: &&Entrance| entrance.place == Place::Listening(last);
        let is_free = self.entrances.iter().find(is_last).is_some_and(|entrance| entrance.holders.is_empty());
        if is_free || self.entrances.len() >= spread.most_sockets() {
            return;
        }
        // Without room for another one, the next death may send some connections to the wrong worker.
        let _room = self.grow(signs);
    }

    /// Adds a listening entrance that nobody has, and returns its index.
    fn grow(&mut self, signs: &Signs) -> io::Result<usize> {
        self.group.grow()?;
        self.take_in(signs)
    }

    /// Makes an entrance of the member that was added last, and returns its index.
    fn take_in(&mut self, signs: &Signs) -> io::Result<usize> {
        let member = self.group.members().len() - 1;
        let socket = &self.group.members()[member];
        let (place, identity) = (Place::Listening(member), Identity::of(socket)?);
        signs.watch(socket, identity);
        self.entrances.push(Entrance {
            place,
            identity,
            holders: Vec::new(),
            last_slot: Slot(0),
            is_lent: false,
            attention: Attention::default(),
        });
        Ok(self.entrances.len() - 1)
    }

    /// Returns how many connections wait at an entrance; `None` while it does not listen.
    fn queue(&self, entrance: &Entrance) -> Option<u32> {
        match entrance.place {
            Place::Bound => None,
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
            Some(Standing::InRotation | Standing::Starting) => 3,
            Some(Standing::Paused) => 2,
            None => 1,
            Some(Standing::Leaving) => 0,
        };
        let best = listening.iter().rev().max_by_key(|(standing, queue, _)| (preference(*standing), *queue));
        best.map(|(.., target)| *target).into_iter().collect()
    }
}

impl Entrance {
    /// Returns whether nobody but this worker accepts here: who starts does not.
    fn is_left_to(&self, worker: WorkerId, workers: &HashMap<WorkerId, Member>) -> bool {
        let starts =
            |other: &WorkerId| workers.get(other).is_some_and(|member| member.standing == Standing::Starting);
        self.holders.contains(&worker)
            && self.holders.iter().all(|holder| *holder == worker || starts(holder))
    }

    fn bound(socket: &OwnedFd, holder: WorkerId) -> io::Result<Self> {
        let (identity, attention) = (Identity::of(socket)?, Attention::default());
        let (place, holders, last_slot) = (Place::Bound, vec![holder], Slot(0));
        Ok(Self { identity, place, holders, last_slot, is_lent: false, attention })
    }
}

#[cfg(test)]
mod tests;
