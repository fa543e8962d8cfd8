//! What becomes of Unix sockets and their paths.

use std::io;
use std::os::fd::{AsFd, OwnedFd, RawFd};
use std::path::{Path, PathBuf};

use rustix::net::SocketAddrUnix;
use socket2::{Domain, SockRef, Type};

use super::answer::{Outcome, shortage};
use super::asker::{self, Asker};
use super::notify::{Answer, Question};
use super::{Watched, options};
use crate::listen::{Address, KeptPath, Place};
use crate::slots::{FirstBound, Identity, Offer, UnixPlace};
use crate::spec::{CaptureAddress, is_abstract};

impl Watched {
    /// A program binds a Unix socket, whose path may be one that is shared.
    pub(super) fn on_bind_unix(
        &mut self,
        question: &Question,
        asker: &Asker,
        number: RawFd,
        path: &Path,
    ) -> io::Result<Outcome> {
        let pass = Ok(Outcome::Silent(Answer::Continue));
        let Some(place) = self.named(asker, libc::AT_FDCWD, path)? else { return pass };
        // Only now is it sure that all of this was read of who asks.
        if !self.notifier.still_waits(question) {
            return pass;
        }
        if matches!(place, UnixPlace::Path(_)) && !asker.sees_our_files()? {
            let reason = "its files are others than those of worksong: another root or other mounts";
            return Ok(self.blind(reason.to_owned()));
        }
        let theirs = asker.descriptor(number)?;
        let unix = self.slots.unix().clone();
        if unix.knows(Identity::of(&theirs)?) {
            // A signal came between our answer and its arrival, and the call is made again.
            return Ok(Outcome::Silent(Answer::Done));
        }
        let is_reachable = matches!(place, UnixPlace::Path(_)) || options::are_of_one_network(theirs.as_fd());
        if !is_unbound_stream(&theirs) || !is_reachable {
            return pass;
        }
        let told = path.to_string_lossy().replace('\0', "@");
        let held = unix.held(self.worker, &place);
        if self.still_open(held.as_slice(), asker.thread)? || !self.slots.has(self.worker) {
            return Ok(self.refuse(told, libc::EADDRINUSE));
        }
        let bound = match unix.take(self.worker, &place) {
            Ok(Offer::Shared(taken)) => self.replace(question, asker, number, &theirs, &taken),
            Ok(Offer::InUse) => Err(io::Error::from_raw_os_error(libc::EADDRINUSE)),
            Ok(Offer::Nothing) => bind_first(asker, theirs, place, path)
                .and_then(|(name, first)| unix.add(self.worker, name, first)),
            Err(error) => Err(error),
        };
        match bound {
            Ok(()) => Ok(Outcome::Silent(Answer::Done)),
            Err(error) => self.fail(question, told, error),
        }
    }

    /// A program listens on a shared socket. That is done with its rights, which its clients can ask for, but by this
    /// process: programs ask for shorter queues than what is needed to hold connections.
    pub(super) fn on_listen_unix(&mut self, asker: &Asker, socket: Identity) -> io::Result<Outcome> {
        let unix = self.slots.unix();
        match asker.rights()?.lend(|| unix.listen(socket)) {
            Ok(name) => Ok(self.note_listening(socket, Address::Unix(name), Answer::Done)),
            Err(error) if shortage(&error).is_some() => Err(error),
            Err(error) => Ok(Outcome::Silent(Answer::Fail(error.raw_os_error().unwrap_or(libc::EINVAL)))),
        }
    }

    /// A program removes a file: a path that others share stays, and the program believes that it is gone.
    pub(super) fn on_remove(&self, question: &Question, folder: RawFd, path: u64) -> Outcome {
        // What cannot be seen is for the kernel to say.
        let keeps = self.keeps(question, folder, path).unwrap_or(false);
        Outcome::Silent(if keeps { Answer::Done } else { Answer::Continue })
    }

    fn keeps(&self, question: &Question, folder: RawFd, path: u64) -> io::Result<bool> {
        let path = asker::path(question.thread, path)?;
        if self.with_name_of(&path).next().is_none() {
            return Ok(false);
        }
        let asker = Asker::find(question.thread)?;
        let Some(UnixPlace::Path(place)) = self.named(&asker, folder, &path)? else { return Ok(false) };
        let is_sure = self.notifier.still_waits(question) && asker.sees_our_files()?;
        Ok(is_sure && self.slots.unix().keeps(self.worker, &place))
    }

    /// Returns where a path leads, if that is one of the addresses that are shared.
    fn named(&self, asker: &Asker, folder: RawFd, path: &Path) -> io::Result<Option<UnixPlace>> {
        let mut named = self.with_name_of(path).peekable();
        if is_abstract(path) {
            return Ok(named.find(|named| *named == path).cloned().map(UnixPlace::Abstract));
        }
        if named.peek().is_none() {
            return Ok(None);
        }
        // Without the folder there is nothing that could be shared.
        let Ok(place) = Place::find(&asker.absolute(folder, path)?) else { return Ok(None) };
        let is_named = named.any(|named| Place::find(named).is_ok_and(|named| named.is(&place)));
        Ok(is_named.then_some(UnixPlace::Path(place)))
    }

    /// Returns the paths that are shared whose last part is that of this one.
    fn with_name_of<'own>(&'own self, path: &'own Path) -> impl Iterator<Item = &'own PathBuf> {
        let named = self.addresses.iter().filter_map(|address| match address {
            CaptureAddress::Unix(named) => Some(named),
            CaptureAddress::Port(_)
            | CaptureAddress::Tcp(_)
            | CaptureAddress::UdpPort(_)
            | CaptureAddress::Udp(_) => None,
        });
        named.filter(|named| named.file_name() == path.file_name())
    }
}

/// Binds the program's own socket, as the program would. Returns how the address is told, and what is kept of it.
fn bind_first(
    asker: &Asker,
    socket: OwnedFd,
    place: UnixPlace,
    path: &Path,
) -> io::Result<(PathBuf, FirstBound)> {
    match place {
        UnixPlace::Abstract(name) => {
            let bytes = name.as_os_str().as_encoded_bytes();
            let address = SocketAddrUnix::new_abstract_name(bytes.strip_prefix(b"\0").unwrap_or(bytes))?;
            rustix::net::bind(&socket, &address)?;
            Ok((name, FirstBound { socket, path: None }))
        }
        UnixPlace::Path(place) => {
            let path = asker.absolute(libc::AT_FDCWD, path)?;
            let rights = asker.rights()?;
            let kept = rights.lend(|| KeptPath::bind(socket.as_fd(), place, &path, rights.umask))?;
            Ok((path, FirstBound { socket, path: Some(kept) }))
        }
    }
}

/// Returns whether a socket can be bound for all; what is wrong with another one is for the kernel to say.
fn is_unbound_stream(socket: &OwnedFd) -> bool {
    let socket = SockRef::from(socket);
    socket.domain().is_ok_and(|domain| domain == Domain::UNIX)
        && socket.r#type().is_ok_and(|kind| kind == Type::STREAM)
        && socket.local_addr().is_ok_and(|address| address.is_unnamed())
}
