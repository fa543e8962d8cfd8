//! Listening sockets of one address, one for each slot: the kernel spreads connections over them (`SO_REUSEPORT`).
//!
//! What Linux does, and [`tests`](self) check (kernel 6.18; the same since 4.6):
//!
//! - Closing a socket resets what it has queued, and so does every hand in which it was the last copy. So a member
//!   stays open as long as its group, whoever serves its slot; a slot that is dropped leaves an empty socket behind.
//! - The sockets have indexes, in the order in which they began to listen. Closing one moves the last one into its place;
//!   as none is closed, an index is for ever.
//! - A program that is attached to one of them sends each new connection to an index, and a new program takes the
//!   place of an old one at once. What was queued before, or is half-way through its handshake, stays where it is.
//! - With an index that does not exist the kernel chooses among all.
//! - `TCP_INFO` of a listening socket tells how many connections wait in its queue.
//! - Somebody who shares a member and calls `shutdown` on it ends it for all.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use socket2::{Domain, Protocol, Socket, Type};

use super::raw;
use super::spread::{Spread, Target, program};

/// More would not fit into one program, of which older kernels take 20 KiB (`net.core.optmem_max`).
const MOST_MEMBERS: usize = 200;

/// Listening sockets of one address. Dropping it closes this process's copies of them.
#[derive(Debug)]
pub(crate) struct Group {
    address: SocketAddr,
    v6only: bool,
    backlog: i32,
    /// In the order in which they began to listen, which is the kernel's.
    members: Vec<Member>,
}

#[derive(Debug)]
struct Member {
    slot: u32,
    socket: OwnedFd,
}

impl Group {
    /// Binds an address that nobody else listens on, with the socket of one slot.
    pub(crate) fn bind(address: SocketAddr, v6only: bool, backlog: u32, slot: u32) -> io::Result<Self> {
        let socket = stream_at(address, v6only)?;
        // Bound alone first: together with an equal one of the same user the port would never be in use.
        socket.bind(&address.into())?;
        socket.set_reuse_port(true)?;
        let backlog = i32::try_from(backlog).unwrap_or(i32::MAX);
        socket.listen(backlog)?;
        let bound = socket.local_addr()?.as_socket();
        let address = bound.ok_or_else(|| io::Error::from_raw_os_error(libc::EAFNOSUPPORT))?;
        let members = vec![Member { slot, socket: socket.into() }];
        let group = Self { address, v6only, backlog, members };
        group.steer(Spread::default(), &[slot])?;
        Ok(group)
    }

    /// Returns where the group listens.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Returns the socket of a slot; one that is new gets no connection before the next [`steer`](Self::steer).
    pub(crate) fn socket(&mut self, slot: u32) -> io::Result<BorrowedFd<'_>> {
        let at = match self.members.iter().position(|member| member.slot == slot) {
            Some(at) => at,
            None => self.add(slot)?,
        };
        Ok(self.members[at].socket.as_fd())
    }

    fn add(&mut self, slot: u32) -> io::Result<usize> {
        if self.members.len() >= MOST_MEMBERS {
            return Err(io::Error::from_raw_os_error(libc::EMFILE));
        }
        let socket = stream_at(self.address, self.v6only)?;
        socket.set_reuse_port(true)?;
        socket.bind(&self.address.into())?;
        socket.listen(self.backlog)?;
        self.members.push(Member { slot, socket: socket.into() });
        Ok(self.members.len() - 1)
    }

    /// Sends new connections to these slots and no others; to the same as before when none of them has a socket.
    pub(crate) fn steer(&self, spread: Spread, slots: &[u32]) -> io::Result<()> {
        let members = (0..).zip(&self.members).filter(|(_, member)| slots.contains(&member.slot));
        let targets: Vec<_> = members.map(|(index, member)| Target { index, slot: member.slot }).collect();
        match self.members.first().filter(|_| !targets.is_empty()) {
            Some(any) => raw::attach_reuseport_program(any.socket.as_fd(), &program(spread, &targets)),
            None => Ok(()),
        }
    }

    /// Returns how many connections wait in the queue of a slot's socket.
    pub(crate) fn queued(&self, slot: u32) -> io::Result<u32> {
        match self.members.iter().find(|member| member.slot == slot) {
            Some(member) => raw::queue_length(member.socket.as_fd()),
            None => Ok(0),
        }
    }
}

fn stream_at(address: SocketAddr, v6only: bool) -> io::Result<Socket> {
    let kind = Type::STREAM.nonblocking().cloexec();
    let socket = Socket::new(Domain::for_address(address), kind, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    if address.is_ipv6() {
        socket.set_only_v6(v6only)?;
    }
    Ok(socket)
}

#[cfg(test)]
mod tests;
