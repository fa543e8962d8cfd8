//! Datagram sockets of an app: flows stay with the slots of its workers.

use std::collections::HashMap;
use std::ffi::OsString;
use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::time::Instant;

use super::look::{Glance, Sight};
use super::open_sockets::OpenSockets;
use super::upkeep::{Disuse, LOOK_EVERY};
use super::{Identity, Slots, State, Taken};
use crate::ids::WorkerId;
use crate::listen::{At, Flows, LeftBehind, Transport};
use crate::spec::ListenAddress;

/// The datagram sockets of one address.
#[derive(Debug)]
pub(super) struct Datagrams {
    pub(super) flows: Flows,
    /// Whether it stays open whoever binds it: it was opened for `--listen`.
    pub(super) lasts: bool,
    pub(super) disuse: Disuse,
    /// When workers were first seen not to have their socket open any more.
    closed: HashMap<WorkerId, Instant>,
}

impl Slots {
    /// Gives a worker a datagram socket that is bound to an address; the same again to one that has it.
    ///
    /// A new one is prepared by `prepare` before it is bound.
    pub(crate) fn take_datagrams(
        &self,
        worker: WorkerId,
        at: At,
        prepare: &dyn Fn(BorrowedFd<'_>),
    ) -> io::Result<Taken> {
        debug_assert!(at.transport == Transport::Udp, "streams listen");
        let mut state = self.state();
        if state.flows.iter().all(|datagrams| datagrams.flows.at() != at) {
            let asked = ListenAddress::of(at.transport, at.address);
            let spread = state.policies.of(Some(&asked)).for_own_sockets();
            state.flows.push(Datagrams::new(Flows::open(at, spread, prepare)?, false));
        }
        let is_shared =
            state.flows.iter().any(|datagrams| datagrams.flows.at() == at && !datagrams.flows.is_spread());
        let socket = state.give_flows(worker, |other| other == at, prepare)?;
        Ok(Taken { socket, is_shared })
    }

    /// Takes a datagram socket back that could not be put in place in a worker.
    pub(crate) fn take_back_datagrams(&self, worker: WorkerId, at: At) {
        let mut state = self.state();
        if let Some(datagrams) = state.flows.iter_mut().find(|datagrams| datagrams.flows.at() == at) {
            datagrams.flows.release(worker);
            state.steer();
        }
    }

    /// Binds a further socket of a worker to an address of which it has one.
    pub(crate) fn bind_beside(&self, worker: WorkerId, at: At, socket: BorrowedFd<'_>) -> io::Result<()> {
        let state = self.state();
        let datagrams = state.flows.iter().find(|datagrams| datagrams.flows.at() == at);
        let datagrams = datagrams.ok_or_else(|| io::Error::from_raw_os_error(libc::EADDRINUSE))?;
        datagrams.flows.bind_beside(worker, socket)
    }

    /// Returns the datagram socket that a worker was given for this address for itself, and may have closed meanwhile.
    pub(crate) fn held_datagrams(&self, worker: WorkerId, at: At) -> Option<Identity> {
        let state = self.state();
        let datagrams = state.flows.iter().find(|datagrams| datagrams.flows.at() == at)?;
        Identity::of(datagrams.flows.of(worker)?).ok()
    }
}

impl State {
    /// Gives a worker its socket of an address that is open.
    pub(super) fn give_flows(
        &mut self,
        worker: WorkerId,
        is_meant: impl Fn(At) -> bool,
        prepare: &dyn Fn(BorrowedFd<'_>),
    ) -> io::Result<OwnedFd> {
        let member = self.workers.get(&worker).copied();
        // What a gone worker left behind would keep a socket for ever.
        let member = member.ok_or_else(|| io::Error::from_raw_os_error(libc::EADDRINUSE))?;
        let datagrams = self.flows.iter_mut().find(|datagrams| is_meant(datagrams.flows.at()));
        let datagrams = datagrams.ok_or_else(|| io::Error::from_raw_os_error(libc::EADDRNOTAVAIL))?;
        datagrams.closed.remove(&worker);
        let socket = datagrams.flows.give(worker, member.slot, prepare)?;
        self.steer();
        Ok(socket)
    }
}

impl Glance {
    /// Looks for datagrams that nobody can read.
    pub(super) fn at_datagrams(&mut self, flows: &mut Flows) {
        let address = flows.at().told().to_string();
        let in_rotation = &self.in_rotation;
        let left =
            flows.look_for_left_behind(|worker| in_rotation.contains_key(&worker), self.hold, self.now);
        match left {
            None => {}
            Some(LeftBehind::Waits { slot, is_due }) => {
                self.is_waiting = true;
                self.sights.extend(is_due.then_some(Sight::Orphaned { address, count: 1, slot }));
            }
            Some(LeftBehind::ThrownAway { count }) => {
                self.is_waiting = true;
                self.sights.push(Sight::HeldTooLong { address, count });
            }
        }
    }
}

impl Datagrams {
    pub(super) fn new(flows: Flows, lasts: bool) -> Self {
        Self { flows, lasts, disuse: Disuse::default(), closed: HashMap::new() }
    }

    /// Takes sockets from workers that were seen not to have theirs, the second time. Returns false when it has to be looked
    /// once more.
    pub(super) fn follow(&mut self, open: &OpenSockets, now: Instant) -> bool {
        let has_closed = |(worker, socket): (WorkerId, &OwnedFd)| {
            let link = Identity::of(socket).map(|identity| OsString::from(identity.link()));
            link.is_ok_and(|link| !open.may_have(worker, &link)).then_some(worker)
        };
        let closed: Vec<WorkerId> = self.flows.holders().filter_map(has_closed).collect();
        self.closed.retain(|worker, _| closed.contains(worker));
        let mut is_sure = true;
        for worker in closed {
            let seen_at = *self.closed.entry(worker).or_insert(now);
            if now.saturating_duration_since(seen_at) < LOOK_EVERY {
                is_sure = false;
            } else {
                self.flows.release(worker);
                self.closed.remove(&worker);
            }
        }
        is_sure
    }

    /// Returns true unless it was seen that nobody has any of the sockets.
    pub(super) fn may_be_open(&self, open: &OpenSockets) -> bool {
        let link = |socket: &OwnedFd| Identity::of(socket).map(|identity| OsString::from(identity.link()));
        self.flows.sockets().iter().any(|socket| link(socket).is_ok_and(|link| open.may_be_open(&link)))
    }

    /// Ends an address, with the datagrams that nobody has read.
    pub(super) fn end(self) -> Sight {
        let count = self.flows.throw_away();
        Sight::Unbound { address: self.flows.at().told().to_string(), count }
    }
}
