//! What a `bind` of a datagram socket is answered: it reads from then on, so there is nothing more to ask about.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd, RawFd};

use socket2::{Protocol, SockRef, Type};

use super::answer::{self, Outcome};
use super::asker::Asker;
use super::notify::{Answer, Question};
use super::{CaptureFact, Watched, options};
use crate::listen::{At, Transport};
use crate::slots::Identity;
use crate::spec::CaptureAddress;

impl Watched {
    pub(super) fn bind_datagrams(
        &mut self,
        question: &Question,
        asker: &Asker,
        number: RawFd,
        theirs: &OwnedFd,
        address: SocketAddr,
    ) -> io::Result<Outcome> {
        let v6only = address.is_ipv6() && SockRef::from(theirs).only_v6()?;
        let may_share = SockRef::from(theirs).reuse_port().unwrap_or(false);
        let at = At { transport: Transport::Udp, address, v6only };
        let held = self.slots.held_datagrams(self.worker, at);
        if !may_share && self.still_open(held.as_slice(), asker.thread)? {
            return self.bind_further(question, theirs, at);
        }
        let prepare = |ours: BorrowedFd<'_>| options::copy(theirs.as_fd(), ours);
        let told = at.told().to_string();
        let taken = match self.slots.take_datagrams(self.worker, at, &prepare) {
            Ok(taken) => taken,
            Err(error) => return self.fail(question, told, error),
        };
        options::copy(theirs.as_fd(), taken.socket.as_fd());
        let identity = Identity::of(&taken.socket)?;
        if let Err(error) = self.replace(question, asker, number, theirs, &taken) {
            let failed = self.fail(question, told, error)?;
            if !self.listening.contains(&identity) {
                self.slots.take_back_datagrams(self.worker, at);
            }
            return Ok(failed);
        }
        if self.listening.contains(&identity) {
            return Ok(Outcome::Silent(Answer::Done));
        }
        self.listening.push(identity);
        Ok(Outcome::Told(Answer::Done, CaptureFact::Listening { worker: self.worker, address: at.told() }))
    }

    /// Servers of DTLS bind a socket for each client to the address of the first one, and connect it. For that it has to be
    /// their own, of which there is no other copy: what comes from the client would go there for ever.
    fn bind_further(&mut self, question: &Question, theirs: &OwnedFd, at: At) -> io::Result<Outcome> {
        let told = at.told().to_string();
        if !SockRef::from(theirs).reuse_address()? {
            return Ok(self.refuse(told, libc::EADDRINUSE));
        }
        match self.slots.bind_beside(self.worker, at, theirs.as_fd()) {
            Ok(()) => Ok(Outcome::Silent(Answer::Done)),
            Err(error) => self.fail(question, told, error),
        }
    }
}

/// Returns whether a UDP address was named for the app: what is named nowhere is the program's own.
pub(super) fn owns(addresses: &[CaptureAddress], bound: SocketAddr) -> bool {
    bound.port() != 0 && addresses.iter().any(|address| address.is_udp(bound))
}

/// Returns whether a socket can be replaced by one of ours.
pub(super) fn is_unbound(socket: &OwnedFd, wants_v6: bool) -> bool {
    let socket = SockRef::from(socket);
    let is_udp = socket.r#type().is_ok_and(|kind| kind == Type::DGRAM)
        && socket.protocol().is_ok_and(|protocol| protocol == Some(Protocol::UDP));
    is_udp && answer::is_unbound(&socket, wants_v6)
}
