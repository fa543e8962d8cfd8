//! What a `bind` or `listen` of a worker is answered.

use std::collections::HashSet;
use std::ffi::{OsStr, OsString};
use std::fs;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd, RawFd};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use rustix::fs::OFlags;
use socket2::{Protocol, SockRef, Type};

use super::asker::{Asker, Wanted};
use super::notify::{Answer, Call, Question};
use super::{CaptureFact, Refused, Watched, datagrams, options};
use crate::listen::Address;
use crate::process::tree;
use crate::slots::{Identity, Listened, Taken};
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
}

impl Watched {
    /// Takes the next question, does what is needed, and answers it. Returns what the control plane should know, or
    /// that nobody will ask any more.
    pub(super) fn serve(&mut self) -> io::Result<Option<CaptureFact>> {
        let Some(question) = self.notifier.receive()? else { return Ok(None) };
        let (answer, fact) = match self.decide(&question) {
            Outcome::Silent(answer) => (answer, None),
            Outcome::Told(answer, fact) => (answer, Some(fact)),
        };
        self.notifier.answer(&question, answer);
        Ok(fact)
    }

    /// Does what is needed before a question is answered.
    pub(super) fn decide(&mut self, question: &Question) -> Outcome {
        let outcome = match question.call {
            Call::Bind { socket, address, length } => self.on_bind(question, socket, address, length),
            Call::Listen { socket } => self.on_listen(question, socket),
            Call::LookWhetherItListens { socket } => self.on_look(question, socket),
            Call::Remove { folder, path } => Ok(self.on_remove(question, folder, path)),
            Call::Other => Ok(Outcome::Silent(Answer::Continue)),
        };
        outcome.unwrap_or_else(|error| self.cannot_see(&error))
    }

    /// The program binds as it would alone when we cannot see what it does: it has changed its user, for example.
    fn cannot_see(&mut self, error: &io::Error) -> Outcome {
        // Alone it would take the port from all others, because we are short of something for a moment.
        if let Some(errno @ (libc::EMFILE | libc::ENFILE | libc::ENOMEM)) = error.raw_os_error() {
            return Outcome::Silent(Answer::Fail(errno));
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
        let theirs = asker.socket(number)?;
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
        if self.still_open(&held, asker.thread) && !may_share {
            return Ok(self.refuse(address.to_string(), libc::EADDRINUSE));
        }
        self.forget_closed(asker.thread);
        let prepare = |ours: BorrowedFd<'_>| options::copy(theirs.as_fd(), ours);
        let taken = match self.slots.take(self.worker, address, v6only, &prepare) {
            Ok(taken) => taken,
            Err(error) => {
                return Ok(self.refuse(address.to_string(), error.raw_os_error().unwrap_or(libc::EADDRINUSE)));
            }
        };
        options::copy(theirs.as_fd(), taken.socket.as_fd());
        let nonblocking = rustix::fs::fcntl_getfl(&theirs)?.contains(OFlags::NONBLOCK);
        wait_as_before(nonblocking, &taken)?;
        let close_on_exec = asker.closes_on_exec(number)?;
        self.notifier.put(question, taken.socket.as_fd(), number, close_on_exec)?;
        Ok(Outcome::Silent(Answer::Done))
    }

    fn on_listen(&mut self, question: &Question, number: RawFd) -> io::Result<Outcome> {
        let asker = Asker::find(question.thread)?;
        let theirs = asker.socket(number)?;
        let identity = Identity::of(&theirs)?;
        if !self.notifier.still_waits(question) {
            return Ok(Outcome::Silent(Answer::Continue));
        }
        if self.slots.unix().knows(identity) {
            return self.on_listen_unix(&asker, identity);
        }
        let nonblocking = rustix::fs::fcntl_getfl(&theirs)?.contains(OFlags::NONBLOCK);
        let Listened { address, instead } = match self.slots.listen(self.worker, &theirs) {
            None => return Ok(Outcome::Silent(Answer::Continue)),
            Some(Ok(listened)) => listened,
            Some(Err(error)) => {
                return Ok(Outcome::Silent(Answer::Fail(error.raw_os_error().unwrap_or(libc::EINVAL))));
            }
        };
        let identity = match instead {
            None => identity,
            Some(taken) => {
                wait_as_before(nonblocking, &taken)?;
                self.notifier.put(question, taken.socket.as_fd(), number, asker.closes_on_exec(number)?)?;
                Identity::of(&taken.socket)?
            }
        };
        Ok(self.note_listening(identity, address, Answer::Done))
    }

    /// A program that finds its socket listening does not call `listen` (gunicorn): it has the entrance of one that is
    /// gone.
    fn on_look(&mut self, question: &Question, number: RawFd) -> io::Result<Outcome> {
        let theirs = Asker::find(question.thread)?.socket(number)?;
        let identity = Identity::of(&theirs)?;
        if !SockRef::from(&theirs).is_listener()? || !self.notifier.still_waits(question) {
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

    /// Notes that the worker listens, which is told once for each socket.
    pub(super) fn note_listening(&mut self, socket: Identity, address: Address, answer: Answer) -> Outcome {
        if self.listening.contains(&socket) {
            return Outcome::Silent(answer);
        }
        self.listening.push(socket);
        Outcome::Told(answer, CaptureFact::Listening { worker: self.worker, address })
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
    pub(super) fn still_open(&self, sockets: &[Identity], asker: u32) -> bool {
        if sockets.is_empty() {
            return false;
        }
        let mut processes = tree::members(self.leader, &self.mark);
        // The process is not seen any more when its first thread has ended.
        processes.insert(asker);
        let links: HashSet<OsString> = processes.into_iter().flat_map(links_of).collect();
        let mut any = false;
        for socket in sockets {
            let is_open = links.contains(OsStr::new(&socket.link()));
            any |= is_open;
            if !is_open {
                self.slots.forget_bound(*socket);
            }
        }
        any
    }

    /// Forgets sockets that were closed and never listened, when there are many: a client may fix the port of each of its
    /// connections.
    fn forget_closed(&self, asker: u32) {
        let bound = self.slots.only_bound(self.worker);
        if !bound.is_empty() && bound.len().is_multiple_of(MANY) {
            self.still_open(&bound, asker);
        }
    }
}

/// Returns what the descriptors of a process are.
fn links_of(process: u32) -> impl Iterator<Item = OsString> {
    let descriptors = fs::read_dir(format!("/proc/{process}/fd")).into_iter().flatten().flatten();
    descriptors.filter_map(|entry| fs::read_link(entry.path()).ok().map(PathBuf::into_os_string))
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

/// Lets calls on our socket wait, or not, as they would on the program's own.
///
/// That is a property of the socket itself, and so of all who have it: while another worker may rely on it, a socket
/// never begins to wait.
pub(super) fn wait_as_before(nonblocking: bool, ours: &Taken) -> io::Result<()> {
    if nonblocking || !ours.is_shared {
        rustix::io::ioctl_fionbio(&ours.socket, nonblocking)?;
    }
    Ok(())
}
