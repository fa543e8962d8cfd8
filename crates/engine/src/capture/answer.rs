//! What a `bind` or `listen` of a worker is answered.

use std::collections::HashSet;
use std::ffi::{OsStr, OsString};
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::fs::FileExt;
use std::time::{Duration, Instant};

use rustix::io::Errno;
use socket2::{Protocol, SockRef, Type};

use super::asker::{Asker, Wanted};
use super::notify::{Answer, Call, Question};
use super::{CaptureFact, Refused, Watched, datagrams, options};
use crate::listen::Address;
use crate::process::descriptors::descriptors_of;
use crate::process::tree;
use crate::shortage::Shortage;
use crate::slots::{Identity, Listened};
use crate::spec::CaptureAddress;

/// How often it is told in how long that a worker cannot have an address: who has it is looked for each time.
const MOST_TOLD: u32 = 4;
const WINDOW: Duration = Duration::from_secs(1);
/// With each so many sockets that are bound and do not listen it is looked which of them are closed.
const MANY: usize = 64;

/// What came of a question beside the answer.
#[derive(Debug)]
pub(super) enum Outcome {
    /// Nothing that anybody should know.
    Silent(Answer),
    Told(Answer, CaptureFact),
    /// It cannot be answered for want of something, or only with this errno.
    Short(Shortage, Errno),
}

impl Watched {
    /// Does what is needed before a question is answered.
    pub(super) fn decide(&mut self, question: &Question) -> Outcome {
        let outcome = match question.call {
            Call::Bind { socket, address, length } => self.on_bind(question, socket, address, length),
            Call::Listen { socket } => self.on_listen(question, socket),
            Call::LookWhetherItListens { socket, value, length } => {
                self.on_look(question, socket, value, length)
            }
            Call::Remove { folder, path } => Ok(self.on_remove(question, folder, path)),
            Call::Other => Ok(Outcome::Silent(Answer::Continue)),
        };
        outcome.unwrap_or_else(|error| self.cannot_see(&error))
    }

    /// The program binds as it would alone when we cannot see what it does: it has changed its user, for example.
    fn cannot_see(&mut self, error: &io::Error) -> Outcome {
        // Alone it would take the port from all others, because we are short of something for a moment.
        if let Some((of, errno)) = shortage(error) {
            return Outcome::Short(of, errno);
        }
        if error.kind() == io::ErrorKind::PermissionDenied {
            return self.blind(error.to_string());
        }
        Outcome::Silent(Answer::Continue)
    }

    /// Lets the program bind by itself, which is told once.
    pub(super) fn blind(&mut self, reason: String) -> Outcome {
        if std::mem::replace(&mut self.is_blind, true) {
            return Outcome::Silent(Answer::Continue);
        }
        Outcome::Told(Answer::Continue, CaptureFact::Blind { worker: self.worker, error: reason })
    }

    fn on_bind(
        &mut self,
        question: &Question,
        number: RawFd,
        address: u64,
        length: u64,
    ) -> io::Result<Outcome> {
        let pass = Ok(Outcome::Silent(Answer::Continue));
        let asker = Asker::find(question.thread)?;
        let address = match asker.address(address, length)? {
            Wanted::Internet(address) => address,
            Wanted::Unix(path) => return self.on_bind_unix(question, &asker, number, &path),
            Wanted::Other => return pass,
        };
        // Only now is it sure that all of this was read of who asks.
        let (owns_streams, owns_datagrams) =
            (owns(&self.addresses, address), datagrams::owns(&self.addresses, address));
        if !self.notifier.still_waits(question) || !(owns_streams || owns_datagrams) {
            return pass;
        }
        let theirs = asker.descriptor(number)?;
        let identity = Identity::of(&theirs)?;
        if self.slots.knows(identity) {
            // A signal came between our answer and its arrival, and the call is made again.
            return Ok(Outcome::Silent(Answer::Done));
        }
        if !options::are_of_one_network(theirs.as_fd()) {
            return pass;
        }
        if owns_datagrams && datagrams::is_unbound(&theirs, address.is_ipv6()) {
            return self.bind_datagrams(question, &asker, number, &theirs, address);
        }
        if !owns_streams || !is_unbound_tcp(&theirs, address.is_ipv6()) {
            return pass;
        }
        let v6only = address.is_ipv6() && SockRef::from(&theirs).only_v6()?;
        let may_share = SockRef::from(&theirs).reuse_port().unwrap_or(false);
        let held = self.slots.held(self.worker, address, v6only);
        if self.still_open(&held, asker.thread)? && !may_share {
            return Ok(self.refuse(address.to_string(), libc::EADDRINUSE));
        }
        self.forget_closed(asker.thread)?;
        let prepare = |ours: BorrowedFd<'_>| options::copy(theirs.as_fd(), ours);
        let taken = match self.slots.take(self.worker, address, v6only, &prepare) {
            Ok(taken) => taken,
            Err(error) => return self.fail(question, address.to_string(), error),
        };
        options::copy(theirs.as_fd(), taken.socket.as_fd());
        if let Err(error) = self.replace(question, &asker, number, &theirs, &taken) {
            self.slots.forget_bound(Identity::of(&taken.socket)?);
            return self.fail(question, address.to_string(), error);
        }
        Ok(Outcome::Silent(Answer::Done))
    }

    fn on_listen(&mut self, question: &Question, number: RawFd) -> io::Result<Outcome> {
        let asker = Asker::find(question.thread)?;
        let theirs = asker.descriptor(number)?;
        let identity = Identity::of(&theirs)?;
        if !self.notifier.still_waits(question) {
            return Ok(Outcome::Silent(Answer::Continue));
        }
        if self.slots.unix().knows(identity) {
            return self.on_listen_unix(&asker, identity);
        }
        let Listened { address, instead } = match self.slots.listen(self.worker, &theirs) {
            None => return Ok(Outcome::Silent(Answer::Continue)),
            Some(Ok(listened)) => listened,
            Some(Err(error)) if shortage(&error).is_some() => return Err(error),
            Some(Err(error)) => {
                return Ok(Outcome::Silent(Answer::Fail(error.raw_os_error().unwrap_or(libc::EINVAL))));
            }
        };
        let identity = match instead {
            None => identity,
            Some(taken) => {
                if let Err(error) = self.replace(question, &asker, number, &theirs, &taken) {
                    // Its own socket is known to nobody any more, so it cannot be tried again.
                    let errno = error.raw_os_error().unwrap_or(libc::EINVAL);
                    return Ok(Outcome::Silent(Answer::Fail(errno)));
                }
                Identity::of(&taken.socket)?
            }
        };
        Ok(self.note_listening(identity, address, Answer::Done))
    }

    /// A program that finds its socket listening does not call `listen` (gunicorn): it has the entrance of one that is
    /// gone.
    fn on_look(
        &mut self,
        question: &Question,
        number: RawFd,
        value: u64,
        length: u64,
    ) -> io::Result<Outcome> {
        let asker = Asker::find(question.thread)?;
        let theirs = asker.descriptor(number)?;
        let identity = Identity::of(&theirs)?;
        if !SockRef::from(&theirs).is_listener()? {
            // Another worker may let it listen before the kernel looks, and this one would never say that it does.
            let is_told =
                self.slots.unix().knows(identity) && self.tell_no(question, &asker, value, length)?;
            return Ok(Outcome::Silent(if is_told { Answer::Done } else { Answer::Continue }));
        }
        if !self.notifier.still_waits(question) {
            return Ok(Outcome::Silent(Answer::Continue));
        }
        if let Some(name) = self.slots.unix().name(identity) {
            return Ok(self.note_listening(identity, Address::Unix(name), Answer::Continue));
        }
        Ok(match self.slots.listen(self.worker, &theirs) {
            Some(Ok(Listened { address, .. })) => self.note_listening(identity, address, Answer::Continue),
            Some(Err(_)) | None => Outcome::Silent(Answer::Continue),
        })
    }

    /// Writes the answer that a socket does not listen, as the kernel would; false where there is no room for it.
    fn tell_no(&self, question: &Question, asker: &Asker, value: u64, length: u64) -> io::Result<bool> {
        let memory = asker.memory()?;
        // From now on it is sure whose memory that is.
        if !self.notifier.still_waits(question) {
            return Ok(false);
        }
        let mut room = [0; 4];
        memory.read_exact_at(&mut room, length)?;
        let has_room = u32::from_ne_bytes(room) == 4;
        if has_room {
            memory.write_all_at(&[0; 4], value)?;
        }
        Ok(has_room)
    }

    /// Notes that the worker listens, which is told once for each socket.
    pub(super) fn note_listening(&mut self, socket: Identity, address: Address, answer: Answer) -> Outcome {
        if self.listening.contains(&socket) {
            return Outcome::Silent(answer);
        }
        self.listening.push(socket);
        Outcome::Told(answer, CaptureFact::Listening { worker: self.worker, address })
    }

    /// Lets the call fail with an error, but for a shortage; not if nobody waits for it any more.
    pub(super) fn fail(
        &mut self,
        question: &Question,
        address: String,
        error: io::Error,
    ) -> io::Result<Outcome> {
        if shortage(&error).is_some() {
            return Err(error);
        }
        if !self.notifier.still_waits(question) {
            return Ok(Outcome::Silent(Answer::Continue));
        }
        Ok(self.refuse(address, error.raw_os_error().unwrap_or(libc::EADDRINUSE)))
    }

    /// Lets the call fail, which is told now and then: a program may try as often as it likes.
    pub(super) fn refuse(&mut self, address: String, errno: i32) -> Outcome {
        let now = Instant::now();
        if now.saturating_duration_since(self.refused.since) >= WINDOW {
            self.refused = Refused { since: now, count: 0 };
        }
        self.refused.count += 1;
        if self.refused.count > MOST_TOLD {
            return Outcome::Silent(Answer::Fail(errno));
        }
        Outcome::Told(Answer::Fail(errno), CaptureFact::Failed { worker: self.worker, address, errno })
    }

    /// Returns whether any process of the worker has one of these sockets open, and forgets those that are closed and
    /// never listened.
    pub(super) fn still_open(&self, sockets: &[Identity], asker: u32) -> io::Result<bool> {
        if sockets.is_empty() {
            return Ok(false);
        }
        let mut processes = tree::members(self.leader, &self.mark);
        // The process is not seen any more when its first thread has ended.
        processes.insert(asker);
        let mut links = HashSet::new();
        for process in processes {
            links.extend(links_of(process)?);
        }
        let mut any = false;
        for socket in sockets {
            let is_open = links.contains(OsStr::new(&socket.link()));
            any |= is_open;
            if !is_open {
                self.slots.forget_bound(*socket);
            }
        }
        Ok(any)
    }

    /// Forgets sockets that were closed and never listened, when there are many: a client may fix the port of each of its
    /// connections.
    fn forget_closed(&self, asker: u32) -> io::Result<()> {
        let bound = self.slots.only_bound(self.worker);
        if !bound.is_empty() && bound.len().is_multiple_of(MANY) {
            self.still_open(&bound, asker)?;
        }
        Ok(())
    }
}

/// Returns what the descriptors of a process are, as far as they can be seen.
fn links_of(process: u32) -> io::Result<Vec<OsString>> {
    let links = match descriptors_of(process) {
        Err(error) if shortage(&error).is_none() => return Ok(Vec::new()),
        links => links?,
    };
    let is_seen = |found: &io::Result<_>| found.as_ref().err().is_none_or(|error| shortage(error).is_some());
    links.filter(is_seen).map(|found| Ok(found?.1)).collect()
}

/// Returns what the system is short of by an error, if it is that.
pub(super) fn shortage(error: &io::Error) -> Option<(Shortage, Errno)> {
    let errno = Errno::from_io_error(error)?;
    Some((Shortage::of(errno)?, errno))
}

/// Returns whether a TCP address belongs to the app.
fn owns(addresses: &[CaptureAddress], bound: SocketAddr) -> bool {
    let is_named = addresses.is_empty() || addresses.iter().any(|address| address.is_tcp(bound));
    bound.port() != 0 && is_named
}

/// Returns whether a socket can be replaced by one of ours; what is wrong with another one is for the kernel to say.
fn is_unbound_tcp(socket: &OwnedFd, wants_v6: bool) -> bool {
    let socket = SockRef::from(socket);
    let is_tcp = socket.r#type().is_ok_and(|kind| kind == Type::STREAM)
        && socket.protocol().is_ok_and(|protocol| {
            // Programs in Go ask for multipath TCP, and are content with TCP.
            protocol.is_some_and(|protocol| [Protocol::TCP, Protocol::MPTCP].contains(&protocol))
        });
    is_tcp && is_unbound(&socket, wants_v6)
}

/// Returns whether a socket is of this family and has no port.
pub(super) fn is_unbound(socket: &SockRef<'_>, wants_v6: bool) -> bool {
    socket.local_addr().is_ok_and(|address| {
        let family_fits = address.is_ipv6() == wants_v6;
        family_fits && address.as_socket().is_some_and(|address| address.port() == 0)
    })
}
