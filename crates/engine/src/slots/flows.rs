//! Datagram sockets of an app: flows stay with the slots of its workers.

use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};

use super::{Identity, Slots, State, Taken};
use crate::ids::WorkerId;
use crate::listen::{At, Flows, Transport};
use crate::spec::ListenAddress;

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
        if state.flows.iter().all(|flows| flows.at() != at) {
            let asked = ListenAddress::of(at.transport, at.address);
            let spread = state.policies.of(Some(&asked)).for_own_sockets();
            state.flows.push(Flows::open(at, spread, prepare)?);
        }
        let is_shared = state.flows.iter().any(|flows| flows.at() == at && !flows.is_spread());
        let socket = state.give_flows(worker, |other| other == at, prepare)?;
        Ok(Taken { socket, is_shared })
    }

    /// Returns the datagram socket that a worker was given for this address for itself, and may have closed meanwhile.
    pub(crate) fn held_datagrams(&self, worker: WorkerId, at: At) -> Option<Identity> {
        let state = self.state();
        let flows = state.flows.iter().find(|flows| flows.at() == at)?;
        Identity::of(flows.of(worker)?).ok()
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
        let flows = self.flows.iter_mut().find(|flows| is_meant(flows.at()));
        let flows = flows.ok_or_else(|| io::Error::from_raw_os_error(libc::EADDRNOTAVAIL))?;
        let socket = flows.give(worker, member.slot, prepare)?;
        self.steer();
        Ok(socket)
    }
}
