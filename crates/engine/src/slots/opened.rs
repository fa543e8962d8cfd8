//! Addresses that are opened before the first worker starts, and whose sockets workers inherit.

use std::io;
use std::os::fd::OwnedFd;

use super::flows::Datagrams;
use super::upkeep::Disuse;
use super::{Family, Identity, Place, Slots, Taken};
use crate::ids::WorkerId;
use crate::listen::{self, Address, BindError, Spread};
use crate::spec::ListenAddress;

impl Slots {
    /// Opens an address of `--listen` at which each worker gets a socket of its own, and returns where that is.
    pub(crate) fn open(&self, address: &ListenAddress, spread: Spread) -> Result<Address, BindError> {
        if address.is_udp() {
            let flows = listen::flows_for_address(address, spread)?;
            let bound = flows.at().told();
            self.state().flows.push(Datagrams::new(flows, true));
            return Ok(bound);
        }
        let group = listen::group_for_address(address, spread)?;
        let bound = group.at().told();
        let mut family = Family {
            spread: Some(spread),
            group,
            entrances: Vec::new(),
            lasts: true,
            disuse: Disuse::default(),
        };
        let mut state = self.state();
        family.take_in(&self.signs).map_err(|source| BindError { address: address.to_string(), source })?;
        state.families.push(family);
        state.settle(&self.signs);
        Ok(bound)
    }

    /// Returns the sockets that nobody else accepts from, and where they are.
    pub(crate) fn own(&self, worker: WorkerId) -> Vec<(Identity, Address)> {
        let state = self.state();
        let entrances = state.families.iter().flat_map(|family| {
            let own = family.entrances.iter().filter(|entrance| entrance.is_left_to(worker, &state.workers));
            own.map(|entrance| (entrance.identity, family.group.at().told()))
        });
        let flows = state.flows.iter().filter_map(|datagrams| {
            let socket = Identity::of(datagrams.flows.of(worker)?).ok()?;
            Some((socket, datagrams.flows.at().told()))
        });
        entrances.chain(flows).collect()
    }

    /// Gives a worker that is about to start its socket of an opened address. It listens, and its calls wait.
    ///
    /// It is the one where most connections wait that nobody has, or a new one; for datagrams see [`Flows`](super::Flows).
    pub(crate) fn give(&self, worker: WorkerId, address: &Address) -> io::Result<OwnedFd> {
        let mut state = self.state();
        if matches!(address, Address::Udp(_)) {
            let socket = state.give_flows(worker, |at| at.told() == *address, &|_| {})?;
            rustix::io::ioctl_fionbio(&socket, false)?;
            return Ok(socket);
        }
        state.bury(&self.signs);
        let is_meant = |family: &&mut Family| family.group.at().told() == *address;
        let family = state.families.iter_mut().find(is_meant);
        let family = family.ok_or_else(|| io::Error::from_raw_os_error(libc::EADDRNOTAVAIL))?;
        let index = match family.choose(worker) {
            Some(index) => index,
            None => family.grow(&self.signs)?,
        };
        let Taken { socket, is_shared } = family.share(index, worker)?;
        // Whoever had it before may have changed both.
        if let Place::Listening(member) = family.entrances[index].place {
            family.group.lengthen_queue(member);
        }
        // Where another worker may rely on it, a socket never begins to wait.
        if !is_shared {
            rustix::io::ioctl_fionbio(&socket, false)?;
        }
        state.settle(&self.signs);
        Ok(socket)
    }
}
