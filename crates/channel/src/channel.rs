//! A channel on a non-blocking socket.

mod unread;

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketFlags, SocketType, recvmsg, sendmsg, socketpair,
};

use crate::inbox::{Inbox, Incoming};
use crate::message::{DecodeError, HandleAnswer, encode};
use crate::outbox::{Bytes, Outbox, Overfull};

/// How many bytes one [`Channel::receive`] wants to be offered.
pub const READ_BUFFER: usize = 64 * 1024;
/// How many descriptors one read takes. Node sends one at a time; more than this in one message is an attack.
const MAX_HANDLES_PER_READ: usize = 64;

/// One end of a channel: a non-blocking socket with what was read and what waits to be written.
///
/// Dropping it closes this end. A Node worker whose primary closes the channel exits at once.
#[derive(Debug)]
pub struct Channel {
    socket: OwnedFd,
    inbox: Inbox<OwnedFd>,
    outbox: Outbox<OwnedFd>,
    exhausted: bool,
}

/// How much a read brought.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// Something came; there may be more.
    Read,
    /// Something came, and it was all there was.
    ReadAll,
    /// Nothing is there now.
    WouldBlock,
    /// The other end closed, or shut down its writing half.
    Closed,
}

/// Why a connection did not go out on this channel; it belongs to the caller still.
#[derive(Debug)]
pub enum NotSent {
    /// Unread messages fill the channel, or others wait before this one: wait until it is writable.
    Full,
    /// The system has no room for one more descriptor in flight; the channel's readiness says nothing about it.
    Exhausted,
    /// Too much plain data since the last handle message: wait for answers.
    Fenced,
    /// The other end is gone.
    Broken(io::Error),
}

/// Returns the two ends of a new channel: the primary's, non-blocking, and the worker's, blocking as Node's is.
pub fn pair() -> io::Result<(OwnedFd, OwnedFd)> {
    let (ours, theirs) = socketpair(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
    rustix::io::ioctl_fionbio(&ours, true)?;
    Ok((ours, theirs))
}

impl Channel {
    /// Takes a connected `AF_UNIX` stream socket, which must be non-blocking.
    #[must_use]
    pub fn new(socket: OwnedFd) -> Self {
        Self { socket, inbox: Inbox::default(), outbox: Outbox::default(), exhausted: false }
    }

    /// Reads once into `scratch` ([`READ_BUFFER`] long) and appends the messages that are complete now to `out`.
    pub fn receive(
        &mut self,
        scratch: &mut [u8],
        out: &mut Vec<Result<Incoming<OwnedFd>, DecodeError>>,
    ) -> io::Result<Progress> {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_HANDLES_PER_READ))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let received = loop {
            let buffers = &mut [IoSliceMut::new(scratch)];
            match recvmsg(&self.socket, buffers, &mut control, RecvFlags::CMSG_CLOEXEC) {
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return Ok(Progress::WouldBlock),
                // The peer died with unread messages of ours in its queue.
                Err(Errno::CONNRESET) => return Ok(Progress::Closed),
                Err(error) => return Err(error.into()),
                Ok(received) => break received.bytes,
            }
        };
        let mut descriptors = false;
        for message in control.drain() {
            if let RecvAncillaryMessage::ScmRights(handles) = message {
                descriptors = true;
                handles.for_each(|handle| self.inbox.take_handle(handle));
            }
        }
        if received == 0 {
            return Ok(Progress::Closed);
        }
        self.inbox.feed(&scratch[..received], out);
        // A read ends at the end of the queue, at the end of the buffer, or behind descriptors.
        Ok(if received < scratch.len() && !descriptors { Progress::ReadAll } else { Progress::Read })
    }

    /// Writes a connection with its message in one call, or not at all.
    pub fn hand_over(&mut self, message: &[u8], connection: BorrowedFd<'_>) -> Result<(), NotSent> {
        if !self.outbox.is_empty() {
            return Err(NotSent::Full);
        }
        if !self.outbox.may_send_handle(message.len()) {
            return Err(NotSent::Fenced);
        }
        match write(&self.socket, message, Some(connection)) {
            Ok(written) => {
                self.outbox.sent_handle(message, written);
                Ok(())
            }
            Err(Errno::AGAIN) => Err(NotSent::Full),
            Err(error) if is_exhaustion(error) => Err(NotSent::Exhausted),
            Err(error) => Err(NotSent::Broken(error.into())),
        }
    }

    /// Sends a message of the protocol, now or when the peer reads again.
    pub fn send(&mut self, message: impl Into<Vec<u8>>, handle: Option<OwnedFd>) -> io::Result<()> {
        self.outbox.push(message.into(), handle);
        self.flush()
    }

    /// Sends a user message, unless too much waits for a peer that does not read.
    pub fn send_bounded(
        &mut self,
        message: impl Into<Bytes>,
        handle: Option<OwnedFd>,
    ) -> Result<io::Result<()>, Overfull> {
        self.outbox.push_bounded(message, handle)?;
        Ok(self.flush())
    }

    /// Answers the peer's oldest unanswered handle message.
    pub fn answer_handle(&mut self, answer: HandleAnswer) -> io::Result<()> {
        self.send(encode::handle_answer(answer), None)
    }

    /// Writes what waits, as far as the peer reads and the fence allows.
    pub fn flush(&mut self) -> io::Result<()> {
        self.exhausted = false;
        while let Some((bytes, handle)) = self.outbox.next() {
            match write(&self.socket, bytes, handle.map(AsFd::as_fd)) {
                Ok(written) => self.outbox.wrote(written),
                Err(Errno::AGAIN) => break,
                Err(error) if is_exhaustion(error) => {
                    self.exhausted = true;
                    break;
                }
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    /// Forgets what waits to be written, and closes its descriptors: the peer will not read it.
    pub fn discard_unsent(&mut self) {
        self.outbox.clear();
        self.exhausted = false;
    }

    /// Notes that the peer answered our oldest unanswered handle message; `false` when it owed no answer.
    ///
    /// Call [`flush`](Self::flush) afterwards: the fence may have opened.
    #[must_use]
    pub fn answered(&mut self) -> bool {
        self.outbox.answered()
    }

    /// Returns true when something waits that can be written as soon as the socket takes it.
    #[must_use]
    pub fn wants_write(&self) -> bool {
        !self.exhausted && self.outbox.next().is_some()
    }

    /// Returns true when the last [`flush`](Self::flush) ended because the system has no room for one more
    /// descriptor in flight. Try again after a while: a writable socket does not mean that there is room.
    #[must_use]
    pub fn is_exhausted(&self) -> bool {
        self.exhausted
    }

    /// Returns true when the other end has not read everything that was written.
    #[must_use]
    pub fn has_unread(&self) -> bool {
        unread::bytes(self.socket.as_fd()) > 0
    }

    /// Returns the queue of what waits to be written.
    #[must_use]
    pub fn outbox(&self) -> &Outbox<OwnedFd> {
        &self.outbox
    }
}

impl AsFd for Channel {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// Returns true when the system, not the peer, is the reason that nothing more can be sent now.
fn is_exhaustion(error: Errno) -> bool {
    matches!(error, Errno::TOOMANYREFS | Errno::NOBUFS | Errno::NOMEM)
}

fn write(socket: &OwnedFd, bytes: &[u8], handle: Option<BorrowedFd<'_>>) -> Result<usize, Errno> {
    let handles: &[BorrowedFd<'_>] = handle.as_slice();
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !handles.is_empty() {
        let fits = control.push(SendAncillaryMessage::ScmRights(handles));
        debug_assert!(fits, "one descriptor fits");
    }
    loop {
        let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
        match sendmsg(socket, &[IoSlice::new(bytes)], &mut control, flags) {
            Err(Errno::INTR) => {}
            result => return result,
        }
    }
}

#[cfg(test)]
mod tests;
