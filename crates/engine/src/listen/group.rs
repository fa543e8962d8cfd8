//! Sockets of one address, one for each worker: the kernel spreads connections or datagrams over them (`SO_REUSEPORT`).
//!
//! What Linux does, and [`tests`](self) check (kernel 6.18; the same since 4.6):
//!
//! - Closing the last copy of a socket resets what it has queued. So a member stays open as long as its group, whoever
//!   serves it.
//! - The sockets have indexes, in the order in which they began to listen. Closing one moves the last one into its place;
//!   as none is closed, an index is for ever.
//! - A program that is attached to one of them sends each new connection to an index, and a new program takes the
//!   place of an old one at once. What was queued before, or is half-way through its handshake, stays where it is.
//! - With an index that does not exist the kernel chooses among all.
//! - `TCP_INFO` of a listening socket tells how many connections wait in its queue.
//! - Somebody who shares a member and calls `shutdown` on it ends it for all, as closing would.
//! - Calling `listen` on it again, as workers do, changes the length of its queue for all.
//!
//! Datagram sockets are members from `bind` on, and a program can be attached once there are two. Shutting one down lets
//! it stay a member; closing one moves the last one, as above. One that a worker has connected takes from its peer only.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use socket2::{SockRef, Socket};

use super::spread::{Spread, Target, program};
use super::{Address, Transport, raw};

/// Where a group is bound.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct At {
    pub(crate) transport: Transport,
    pub(crate) address: SocketAddr,
    /// Whether IPv4 is left alone.
    pub(crate) v6only: bool,
}

impl At {
    fn socket(self) -> io::Result<Socket> {
        match self.transport {
            Transport::Tcp => super::tcp_socket(self.address, self.v6only),
            Transport::Udp => super::udp_socket(self.address, self.v6only),
        }
    }

    /// Returns the address as it is told.
    pub(crate) fn told(self) -> Address {
        match self.transport {
            Transport::Tcp => Address::Tcp(self.address),
            Transport::Udp => Address::Udp(self.address),
        }
    }
}

/// Sockets of one address. Dropping it closes this process's copies of them.
#[derive(Debug)]
pub(crate) struct Group {
    at: At,
    backlog: i32,
    spread: Spread,
    /// In the order in which they began to listen, or were bound for datagrams, which is the kernel's.
    members: Vec<OwnedFd>,
}

impl Group {
    /// Binds an address that nobody else has, with one socket, or two for datagrams.
    pub(crate) fn bind(at: At, backlog: u32, spread: Spread) -> io::Result<Self> {
        let (mut group, socket) = Self::open(at, backlog, spread, &|_| {})?;
        group.admit(socket)?;
        group.steer(&[Target { index: 0, slot: 0 }])?;
        Ok(group)
    }

    /// Binds an address that nobody else has, with one socket that does not listen yet and is no member:
    /// [`admit`](Self::admit) makes it one. What has to be set before it is bound is set by `prepare`.
    ///
    /// For datagrams there is a member before that.
    pub(crate) fn open(
        at: At,
        backlog: u32,
        spread: Spread,
        prepare: &dyn Fn(BorrowedFd<'_>),
    ) -> io::Result<(Self, OwnedFd)> {
        let socket = at.socket()?;
        prepare(socket.as_fd());
        // Bound alone first: together with an equal one of the same user the port would never be in use.
        socket.bind(&at.address.into())?;
        socket.set_reuse_port(true)?;
        let bound = socket.local_addr()?.as_socket();
        let address = bound.ok_or_else(|| io::Error::from_raw_os_error(libc::EAFNOSUPPORT))?;
        let backlog = i32::try_from(backlog).unwrap_or(i32::MAX);
        let mut group = Self { at: At { address, ..at }, backlog, spread, members: Vec::new() };
        match at.transport {
            Transport::Tcp => Ok((group, socket.into())),
            Transport::Udp => {
                // To the kernel it is one of a group only once a second one is bound.
                group.members.push(socket.into());
                let second = group.spare(prepare)?;
                Ok((group, second))
            }
        }
    }

    /// Takes a datagram socket that is bound already, by us and alone, as the first of a group.
    pub(crate) fn adopt(at: At, spread: Spread, socket: OwnedFd) -> io::Result<(Self, OwnedFd)> {
        SockRef::from(&socket).set_reuse_port(true)?;
        let group = Self { at, backlog: 0, spread, members: vec![socket] };
        let second = group.spare(&|_| {})?;
        Ok((group, second))
    }

    /// Returns where the group is bound.
    pub(crate) fn at(&self) -> At {
        self.at
    }

    /// Returns the sockets; there is always one once one was admitted.
    pub(crate) fn members(&self) -> &[OwnedFd] {
        &self.members
    }

    /// Returns how many sockets there may be.
    pub(crate) fn most(&self) -> usize {
        self.spread.most(self.at.transport)
    }

    /// Adds a socket, which gets nothing before the next [`steer`](Self::steer), and returns its index.
    pub(crate) fn grow(&mut self) -> io::Result<usize> {
        if self.members.len() >= self.most() {
            return Err(full(self.most()));
        }
        let first = self.members.first();
        let socket = self.spare(&|socket| first.into_iter().for_each(|first| bind_alike(first, socket)))?;
        self.admit(socket)
    }

    /// Binds a further socket, which does not listen yet and is no member; for datagrams it has to be admitted at once.
    pub(crate) fn spare(&self, prepare: &dyn Fn(BorrowedFd<'_>)) -> io::Result<OwnedFd> {
        let socket = self.at.socket()?;
        prepare(socket.as_fd());
        socket.set_reuse_port(true)?;
        // Together with those beside the group.
        socket.set_reuse_address(true)?;
        socket.bind(&self.at.address.into())?;
        socket.set_reuse_address(self.at.transport == Transport::Tcp)?;
        Ok(socket.into())
    }

    /// Binds a worker's own datagram socket to the same address, as no member: until it is connected, it gets all that
    /// comes.
    pub(crate) fn bind_beside(&self, socket: BorrowedFd<'_>) -> io::Result<()> {
        let lend = |is_lent: bool| {
            self.members.iter().try_for_each(|member| SockRef::from(member).set_reuse_address(is_lent))
        };
        let socket = SockRef::from(&socket);
        socket.set_reuse_port(false)?;
        socket.set_reuse_address(true)?;
        // For this one moment: anybody on the machine could take a datagram socket's address from it.
        let bound = lend(true).and_then(|()| socket.bind(&self.at.address.into()));
        lend(false)?;
        bound
    }

    /// Makes a socket a member that was bound for this group, lets it listen, and returns its index.
    pub(crate) fn admit(&mut self, socket: OwnedFd) -> io::Result<usize> {
        match self.at.transport {
            Transport::Tcp => SockRef::from(&socket).listen(self.backlog)?,
            Transport::Udp => {}
        }
        self.members.push(socket);
        Ok(self.members.len() - 1)
    }

    /// Gives a socket its queue again, which somebody who shares it may have made shorter.
    pub(crate) fn lengthen_queue(&self, index: usize) {
        let streams = self.members.get(index).filter(|_| self.at.transport == Transport::Tcp);
        if let Some(socket) = streams {
            // It listens already, so this changes one number.
            let _same = SockRef::from(socket).listen(self.backlog);
        }
    }

    /// Drops the socket that was added last.
    pub(crate) fn drop_last(&mut self) {
        self.members.pop();
    }

    /// Drops a socket that somebody has shut down. As in the kernel, the last one has its index then.
    pub(crate) fn drop_dead(&mut self, index: usize) {
        if index < self.members.len() {
            self.members.swap_remove(index);
        }
    }

    /// Sends new connections to these sockets and no others. With none of them the kernel chooses among all.
    pub(crate) fn steer(&self, targets: &[Target]) -> io::Result<()> {
        match self.members.first() {
            Some(any) => {
                raw::attach_reuseport_program(any.as_fd(), &program(self.spread, self.at.transport, targets))
            }
            None => Ok(()),
        }
    }
}

/// Sets on a socket what decides where it can be bound, and with which others it is in one group, as it is set on another one.
fn bind_alike(from: &OwnedFd, to: BorrowedFd<'_>) {
    let (from, to) = (SockRef::from(from), SockRef::from(&to));
    if let Ok(Some(device)) = from.device() {
        let _without_it = to.bind_device(Some(&device));
    }
    // What is not known of this family is set on neither.
    if from.freebind_v4().is_ok_and(|is_set| is_set) {
        let _without_it = to.set_freebind_v4(true);
    }
    if from.ip_transparent_v4().is_ok_and(|is_set| is_set) {
        let _without_it = to.set_ip_transparent_v4(true);
    }
}

/// There are as many sockets as there may be. None of the system's errors: the system is short of nothing.
pub(crate) fn full(most: usize) -> io::Error {
    let text = format!(
        "the kernel chooses between {most} sockets at most; use fewer --instances or --policy shared"
    );
    io::Error::new(io::ErrorKind::QuotaExceeded, text)
}

/// Returns whether a datagram waits.
pub(crate) fn has_datagram(socket: impl AsFd) -> bool {
    let mut polled = [PollFd::new(&socket, PollFlags::IN)];
    let is_told = poll(&mut polled, Some(&Timespec::default())).is_ok();
    // Of an error in its queue alone it is told as well.
    is_told && polled[0].revents().contains(PollFlags::IN)
}

/// Returns whether a datagram socket takes from everybody: whoever had it has neither shut it down nor connected it.
pub(crate) fn takes_all(socket: impl AsFd) -> bool {
    let is_connected = SockRef::from(&socket).peer_addr().is_ok();
    let mut polled = [PollFd::new(&socket, PollFlags::RDHUP)];
    let is_shut = poll(&mut polled, Some(&Timespec::default())).is_ok_and(|events| events > 0)
        && polled[0].revents().intersects(PollFlags::RDHUP | PollFlags::HUP);
    !is_connected && !is_shut
}

#[cfg(test)]
mod tests;
