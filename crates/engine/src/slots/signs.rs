//! What tells that an app's sockets have to be looked at. While nothing happens, nothing wakes anybody.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::event::{EventfdFlags, Timespec, epoll, eventfd};

use super::Identity;
use crate::listen::Arrivals;

/// The number by which the kernel knows a socket, and no other one (`SO_COOKIE`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Cookie(pub(super) u64);

/// Readable when a socket has died, a connection has come, or something has changed among the workers.
#[derive(Debug)]
pub(super) struct Signs {
    any: OwnedFd,
    /// Has all listening sockets, and is readable when one of them has died.
    deaths: OwnedFd,
    arrivals: Arrivals,
    changes: OwnedFd,
}

/// What has happened since it was asked before.
#[derive(Clone, Copy, Debug)]
pub(super) struct News {
    pub(super) has_arrived: bool,
    pub(super) has_changed: bool,
}

impl Signs {
    pub(super) fn new() -> io::Result<Self> {
        let any = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        let deaths = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        let arrivals = Arrivals::new()?;
        let changes = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        for sign in [deaths.as_fd(), arrivals.as_fd(), changes.as_fd()] {
            epoll::add(&any, sign, epoll::EventData::new_u64(0), epoll::EventFlags::IN)?;
        }
        Ok(Self { any, deaths, arrivals, changes })
    }

    /// Makes the death of a listening socket known, and the next connection that comes to it.
    pub(super) fn watch(&self, socket: &OwnedFd, identity: Identity) {
        let data = epoll::EventData::new_u64(identity.cookie.0);
        // Its end is told in any case, and once. Without memory for it the next look finds it.
        let _unwatched = epoll::add(&self.deaths, socket, data, epoll::EventFlags::ET);
        self.arrivals.watch(socket);
    }

    /// Makes the next connection known that comes to a socket, or one that waits there now.
    pub(super) fn watch_arrivals(&self, socket: &OwnedFd) {
        self.arrivals.watch(socket);
    }

    /// Forgets a socket, which is about to be closed here: it ends with its last copy otherwise, which a worker may have.
    pub(super) fn forget(&self, socket: &OwnedFd) {
        let _gone = epoll::delete(&self.deaths, socket);
        self.arrivals.forget(socket);
    }

    /// Tells that something has changed among the workers.
    pub(super) fn change(&self) {
        // Full means that it is told already.
        let _pending = rustix::io::write(&self.changes, &1_u64.to_ne_bytes());
    }

    /// Takes what was told.
    pub(super) fn take(&self) -> News {
        let mut count = [0; 8];
        let has_changed = rustix::io::read(&self.changes, &mut count).is_ok();
        News { has_arrived: self.arrivals.clear(), has_changed }
    }

    /// Returns sockets that have died since it was asked before, in the order in which they did.
    ///
    /// An epoll tells in the order in which it was told. Only of two that die on two processors within the same call of
    /// the system the wrong one may be told first.
    pub(super) fn dead(&self) -> Vec<Cookie> {
        let mut room = [const { MaybeUninit::uninit() }; 64];
        match epoll::wait(&self.deaths, &mut room[..], Some(&Timespec::default())) {
            // The kernel's struct is packed: its fields can be copied, not borrowed.
            Ok((events, _rest)) => events.iter().map(|event| Cookie(event.data.u64())).collect(),
            Err(_interrupted) => Vec::new(),
        }
    }
}

impl AsFd for Signs {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.any.as_fd()
    }
}
