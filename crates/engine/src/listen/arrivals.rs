//! Wakes once when a connection comes at sockets from which others accept.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::event::{Timespec, epoll};

/// Becomes readable with the first connection at a socket that is watched, and tells nothing more of that socket until it
/// is watched again: what comes meanwhile costs nothing.
#[derive(Debug)]
pub(crate) struct Arrivals {
    epoll: OwnedFd,
}

impl Arrivals {
    pub(crate) fn new() -> io::Result<Self> {
        Ok(Self { epoll: epoll::create(epoll::CreateFlags::CLOEXEC)? })
    }

    /// Waits for the next connection at a socket, or for one that waits there now.
    pub(crate) fn watch(&self, socket: impl AsFd) {
        let once = epoll::EventFlags::IN | epoll::EventFlags::ONESHOT;
        let data = epoll::EventData::new_u64(0);
        if epoll::modify(&self.epoll, &socket, data, once).is_err() {
            // Without memory for it nobody is woken, and the next look that something else causes finds what waits.
            let _unwatched = epoll::add(&self.epoll, &socket, data, once);
        }
    }

    /// Forgets a socket that others may go on using.
    pub(crate) fn forget(&self, socket: impl AsFd) {
        let _unwatched = epoll::delete(&self.epoll, socket);
    }

    /// Takes what was told. Returns whether anything was.
    pub(crate) fn clear(&self) -> bool {
        let mut room = [const { MaybeUninit::uninit() }; 64];
        let now = Timespec::default();
        let mut any = false;
        while epoll::wait(&self.epoll, &mut room[..], Some(&now)).is_ok_and(|(told, _)| !told.is_empty()) {
            any = true;
        }
        any
    }
}

impl AsFd for Arrivals {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.epoll.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};

    use rustix::event::{PollFd, PollFlags, poll};

    use super::*;

    fn is_told(arrivals: &Arrivals) -> bool {
        let mut polled = [PollFd::new(arrivals, PollFlags::IN)];
        poll(&mut polled, Some(&Timespec::default())).expect("a poll") == 1
    }

    #[test]
    fn the_first_connection_is_told_and_no_other_one_until_it_is_asked_for() {
        let arrivals = Arrivals::new().expect("an epoll");
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let connect = || TcpStream::connect(listener.local_addr().expect("an address")).expect("connect");
        arrivals.watch(&listener);
        assert!(!is_told(&arrivals));
        let _first = connect();
        assert!(is_told(&arrivals) && arrivals.clear());
        assert!(!arrivals.clear());
        let _second = connect();
        assert!(!is_told(&arrivals));
        arrivals.watch(&listener);
        assert!(is_told(&arrivals), "two wait");
        arrivals.forget(&listener);
        assert!(!is_told(&arrivals));
    }
}
