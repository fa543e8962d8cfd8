//! What a `bind` or `listen` of a worker is answered.

use std::fs;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd, RawFd};

use rustix::fs::OFlags;
use socket2::{Protocol, SockRef, Type};

use super::asker::{Asker, Wanted};
use super::notify::{Answer, Call, Question};
use super::{CaptureFact, Watched, options};
use crate::process::tree;
use crate::slots::Identity;
use crate::spec::CaptureAddress;

/// What came of a question beside the answer.
#[derive(Debug)]
pub(super) enum Outcome {
    /// Nothing that anybody should know.
    Silent(Answer),
    Told(Answer, CaptureFact),
}

impl Watched {
    /// Takes the next question, does what is needed, and answers it. Returns what the control plane should know, or
    /// that nobody will ask any more.
    pub(super) fn serve(&mut self) -> io::Result<Option<CaptureFact>> {
        let Some(question) = self.notifier.receive()? else { return Ok(None) };
        let outcome = match question.call {
            Call::Bind { socket, address, length } => self.on_bind(&question, socket, address, length),
            Call::Listen { socket } => self.on_listen(&question, socket),
            Call::Other => Ok(Outcome::Silent(Answer::Continue)),
        };
        let outcome = outcome.unwrap_or_else(|error| self.cannot_see(&error));
        let (answer, fact) = match outcome {
            Outcome::Silent(answer) => (answer, None),
            Outcome::Told(answer, fact) => (answer, Some(fact)),
        };
        self.notifier.answer(&question, answer);
        Ok(fact)
    }

    /// The program binds as it would alone when we cannot see what it does: it has changed its user, for example.
    fn cannot_see(&mut self, error: &io::Error) -> Outcome {
        let is_forbidden = error.kind() == io::ErrorKind::PermissionDenied;
        if is_forbidden && !std::mem::replace(&mut self.is_blind, true) {
            let fact = CaptureFact::Blind { worker: self.worker, error: error.to_string() };
            return Outcome::Told(Answer::Continue, fact);
        }
        Outcome::Silent(Answer::Continue)
    }

    fn on_bind(&self, question: &Question, number: RawFd, address: u64, length: u64) -> io::Result<Outcome> {
        let pass = Ok(Outcome::Silent(Answer::Continue));
        let asker = Asker::find(question.thread)?;
        let Wanted::Internet(address) = asker.address(address, length)? else { return pass };
        // Only now is it sure that all of this was read of who asks.
        if !self.notifier.still_waits(question) || !owns(&self.addresses, address.port()) {
            return pass;
        }
        let theirs = asker.socket(number)?;
        let identity = Identity::of(&theirs)?;
        if self.slots.knows(identity) {
            // A signal came between our answer and its arrival, and the call is made again.
            return Ok(Outcome::Silent(Answer::Done));
        }
        if !is_unbound_tcp(&theirs, address.is_ipv6()) {
            return pass;
        }
        let v6only = address.is_ipv6() && SockRef::from(&theirs).only_v6()?;
        let is_taken = self.slots.held(self.worker, address, v6only).is_some_and(|held| {
            !SockRef::from(&theirs).reuse_port().unwrap_or(false) && self.is_open(held, asker.process)
        });
        if is_taken {
            return Ok(self.refuse(address.to_string(), libc::EADDRINUSE));
        }
        let prepare = |ours: BorrowedFd<'_>| options::copy(theirs.as_fd(), ours);
        let taken = match self.slots.take(self.worker, address, v6only, &prepare) {
            Ok(taken) => taken,
            Err(error) => {
                return Ok(self.refuse(address.to_string(), error.raw_os_error().unwrap_or(libc::EADDRINUSE)));
            }
        };
        options::copy(theirs.as_fd(), taken.socket.as_fd());
        take_over_flags(&theirs, &taken.socket, taken.is_shared)?;
        let close_on_exec = asker.closes_on_exec(number)?;
        self.notifier.put(question, taken.socket.as_fd(), number, close_on_exec)?;
        Ok(Outcome::Silent(Answer::Done))
    }

    fn on_listen(&self, question: &Question, number: RawFd) -> io::Result<Outcome> {
        let theirs = Asker::find(question.thread)?.socket(number)?;
        if !self.notifier.still_waits(question) {
            return Ok(Outcome::Silent(Answer::Continue));
        }
        Ok(match self.slots.listen(Identity::of(&theirs)?) {
            None => Outcome::Silent(Answer::Continue),
            Some(Err(error)) => Outcome::Silent(Answer::Fail(error.raw_os_error().unwrap_or(libc::EINVAL))),
            Some(Ok(address)) => {
                Outcome::Told(Answer::Done, CaptureFact::Listening { worker: self.worker, address })
            }
        })
    }

    fn refuse(&self, address: String, errno: i32) -> Outcome {
        Outcome::Told(Answer::Fail(errno), CaptureFact::Failed { worker: self.worker, address, errno })
    }

    /// Returns whether any process of the worker has a socket open.
    fn is_open(&self, socket: Identity, asker: u32) -> bool {
        let mut processes = tree::members(self.leader, &self.mark);
        processes.insert(asker);
        let link = socket.link();
        processes.into_iter().any(|process| {
            let descriptors = fs::read_dir(format!("/proc/{process}/fd")).into_iter().flatten().flatten();
            let mut links = descriptors.filter_map(|entry| fs::read_link(entry.path()).ok());
            links.any(|target| target.as_os_str() == link.as_str())
        })
    }
}

/// Returns whether a TCP port belongs to the app.
fn owns(addresses: &[CaptureAddress], port: u16) -> bool {
    port != 0 && (addresses.is_empty() || addresses.contains(&CaptureAddress::Port(port)))
}

/// Returns whether a socket can be replaced by one of ours; what is wrong with another one is for the kernel to say.
fn is_unbound_tcp(socket: &OwnedFd, wants_v6: bool) -> bool {
    let socket = SockRef::from(socket);
    let is_tcp = socket.r#type().is_ok_and(|kind| kind == Type::STREAM)
        && socket.protocol().is_ok_and(|protocol| {
            // Programs in Go ask for multipath TCP, and are content with TCP.
            protocol.is_some_and(|protocol| [Protocol::TCP, Protocol::MPTCP].contains(&protocol))
        });
    let is_unbound = socket.local_addr().is_ok_and(|address| {
        let family_fits = address.is_ipv6() == wants_v6;
        family_fits && address.as_socket().is_some_and(|address| address.port() == 0)
    });
    is_tcp && is_unbound
}

/// Lets calls on our socket wait, or not, as they would on the program's own.
///
/// That is a property of the socket itself, and so of all who have it: while another worker may rely on it, a socket
/// never begins to wait.
fn take_over_flags(theirs: &OwnedFd, ours: &OwnedFd, is_shared: bool) -> io::Result<()> {
    let flags = rustix::fs::fcntl_getfl(theirs)?;
    let is_nonblocking = flags.contains(OFlags::NONBLOCK);
    if is_nonblocking || !is_shared {
        rustix::io::ioctl_fionbio(ours, is_nonblocking)?;
    }
    Ok(())
}
