//! Puts a socket of ours in the place of a program's.

use std::io;
use std::os::fd::{AsFd, OwnedFd, RawFd};

use rustix::fs::OFlags;

use super::asker::Asker;
use super::notify::Question;
use super::{Watched, interest};
use crate::slots::Taken;

impl Watched {
    /// Puts a socket at the number of the program's own, with the flags that this has there, and lets the program's epoll
    /// instances tell of it.
    pub(super) fn replace(
        &self,
        question: &Question,
        asker: &Asker,
        number: RawFd,
        theirs: &OwnedFd,
        ours: &Taken,
    ) -> io::Result<()> {
        wait_as_before(theirs, ours)?;
        let close_on_exec = asker.closes_on_exec(number)?;
        let interests = interest::find(asker, number, theirs.as_fd())?;
        let (from, to) = (theirs.as_fd(), ours.socket.as_fd());
        let placed = interest::transfer(&interests, number, from, to)
            .and_then(|()| self.notifier.put(question, to, number, close_on_exec));
        if placed.is_err() {
            // The call may be made again, about the program's own socket.
            let _as_before = interest::transfer(&interests, number, to, from);
        }
        placed
    }
}

/// Lets calls on our socket wait, or not, as they would on the program's own.
///
/// That is a property of the socket itself, and so of all who have it: while another worker may rely on it, a socket
/// never begins to wait.
fn wait_as_before(theirs: &OwnedFd, ours: &Taken) -> io::Result<()> {
    let nonblocking = rustix::fs::fcntl_getfl(theirs)?.contains(OFlags::NONBLOCK);
    if nonblocking || !ours.is_shared {
        rustix::io::ioctl_fionbio(&ours.socket, nonblocking)?;
    }
    Ok(())
}
