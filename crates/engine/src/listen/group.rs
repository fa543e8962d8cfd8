//! Listening sockets of one address, one for each worker: the kernel spreads connections over them (`SO_REUSEPORT`).
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

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use socket2::SockRef;

use super::raw;
use super::spread::{Spread, Target, program};

/// Listening sockets of one address. Dropping it closes this process's copies of them.
#[derive(Debug)]
pub(crate) struct Group {
    address: SocketAddr,
    v6only: bool,
    backlog: i32,
    spread: Spread,
    /// In the order in which they began to listen, which is the kernel's.
    members: Vec<OwnedFd>,
}

impl Group {
    /// Binds an address that nobody else listens on, with one socket.
    pub(crate) fn bind(address: SocketAddr, v6only: bool, backlog: u32, spread: Spread) -> io::Result<Self> {
        let (mut group, socket) = Self::open(address, v6only, backlog, spread, &|_| {})?;
        group.admit(socket)?;
        group.steer(&[Target { index: 0, slot: 0 }])?;
        Ok(group)
    }

    /// Binds an address that nobody else listens on, with one socket that does not listen yet and is no member:
    /// [`admit`](Self::admit) makes it one. What has to be set before it is bound is set by `prepare`.
    pub(crate) fn open(
        address: SocketAddr,
        v6only: bool,
        backlog: u32,
        spread: Spread,
        prepare: &dyn Fn(BorrowedFd<'_>),
    ) -> io::Result<(Self, OwnedFd)> {
        let socket = super::tcp_socket(address, v6only)?;
        prepare(socket.as_fd());
        // Bound alone first: together with an equal one of the same user the port would never be in use.
        socket.bind(&address.into())?;
        socket.set_reuse_port(true)?;
        let bound = socket.local_addr()?.as_socket();
        let address = bound.ok_or_else(|| io::Error::from_raw_os_error(libc::EAFNOSUPPORT))?;
        let backlog = i32::try_from(backlog).unwrap_or(i32::MAX);
        Ok((Self { address, v6only, backlog, spread, members: Vec::new() }, socket.into()))
    }

    /// Returns where the group listens.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Returns whether it leaves IPv4 alone.
    pub(crate) fn is_v6only(&self) -> bool {
        self.v6only
    }

    /// Returns the sockets; there is always one once one was admitted.
    pub(crate) fn members(&self) -> &[OwnedFd] {
        &self.members
    }

    /// Adds a socket, which gets no connection before the next [`steer`](Self::steer), and returns its index.
    pub(crate) fn grow(&mut self) -> io::Result<usize> {
        if self.members.len() >= self.spread.most_sockets() {
            return Err(io::Error::from_raw_os_error(libc::EMFILE));
        }
        let first = self.members.first();
        let socket = self.spare(&|socket| first.into_iter().for_each(|first| bind_alike(first, socket)))?;
        self.admit(socket)
    }

    /// Binds a further socket, which does not listen yet and is no member.
    pub(crate) fn spare(&self, prepare: &dyn Fn(BorrowedFd<'_>)) -> io::Result<OwnedFd> {
        let socket = super::tcp_socket(self.address, self.v6only)?;
        prepare(socket.as_fd());
        socket.set_reuse_port(true)?;
        socket.bind(&self.address.into())?;
        Ok(socket.into())
    }

    /// Lets a socket listen that was bound for this group, and returns its index.
    pub(crate) fn admit(&mut self, socket: OwnedFd) -> io::Result<usize> {
        SockRef::from(&socket).listen(self.backlog)?;
        self.members.push(socket);
        Ok(self.members.len() - 1)
    }

    /// Gives a socket its queue again, which somebody who shares it may have made shorter.
    pub(crate) fn lengthen_queue(&self, index: usize) {
        if let Some(socket) = self.members.get(index) {
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
            Some(any) => raw::attach_reuseport_program(any.as_fd(), &program(self.spread, targets)),
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

#[cfg(test)]
mod tests;
