//! Connections whose first bytes say where they belong: they are looked at, not read.
//!
//! A client that sends nothing, or too slowly, is looked at for [`LOOK_FOR`] and then goes by its address; it holds up
//! nobody, as each connection is looked at by itself.

use std::mem::MaybeUninit;
use std::net::IpAddr;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::net::{RecvFlags, recv};
use socket2::SockRef;

use super::Plane;
use super::poll::{Interest, Token};
use super::port::Guide;
use crate::handover::{Arrival, LineId};
use crate::ids::AppId;
use crate::sticky::{self, Key, LONGEST_LOOK, Look, StickyBy};

/// How long the first bytes are waited for. A packet that is lost comes again after a second, or three; who sends nothing at
/// all is a browser that wants to be quick later.
pub(super) const LOOK_FOR: Duration = Duration::from_secs(5);
/// How many connections are looked at at a time; the next ones go by their clients' addresses.
const MOST_LOOKED_AT: usize = 16 * 1024;

/// A connection that is looked at.
#[derive(Debug)]
pub(super) struct Looked {
    line: LineId,
    connection: OwnedFd,
    /// Where it has to be known.
    client: Option<IpAddr>,
}

/// A connection that is looked at; the number is free for another one after that.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct LookedId(pub(super) usize);

impl Plane {
    /// Hands a connection over that was just accepted, as soon as it is known where it belongs.
    pub(super) fn connect_by_key(&mut self, line: LineId, connection: OwnedFd, client: Option<IpAddr>) {
        let Some(port) = self.ports.get_mut(line.0).and_then(Option::as_mut) else { return };
        if matches!(port.guide, Guide::Nothing) {
            return self.connect_to(line, connection, None);
        }
        let is_closing = self.apps.get(&port.app).is_none_or(|app| app.closing.is_some());
        match port.guide.look(client, &connection) {
            Look::More if !is_closing && self.looking.count() < MOST_LOOKED_AT => {
                self.look_again(Looked { line, connection, client });
            }
            look => {
                let key = port.guide.key_of(look, &connection);
                self.connect_to(line, connection, key);
            }
        }
    }

    fn look_again(&mut self, looked: Looked) {
        self.switchboard.look_at(looked.line);
        let id = LookedId(self.looking.add(looked, self.now + LOOK_FOR));
        let Some(looked) = self.looking.get(id.0) else { return };
        let added = self.poll.add(&looked.connection, Token::Looked(id), Interest::NEWS);
        if added.is_err() {
            // Without memory for a registration nothing would tell of more bytes.
            self.end_look(id, Look::More, Registered::No);
        }
    }

    /// Looks again at a connection that has more to see.
    pub(super) fn on_looked(&mut self, id: LookedId) {
        let Some(looked) = self.looking.get(id.0) else { return };
        let Some(port) = self.ports.get_mut(looked.line.0).and_then(Option::as_mut) else { return };
        match port.guide.look(looked.client, &looked.connection) {
            Look::More => {}
            seen => self.end_look(id, seen, Registered::Yes),
        }
    }

    /// Hands a connection over that was looked at, where it belongs by what was seen.
    fn end_look(&mut self, id: LookedId, seen: Look, registered: Registered) {
        let Some(Looked { line, connection, .. }) = self.looking.take(id.0) else { return };
        match registered {
            // The registration lives as long as the socket, which a worker gets a copy of.
            Registered::Yes => self.poll.remove(&connection),
            Registered::No => {}
        }
        let key = self.port(line).and_then(|port| port.guide.key_of(seen, &connection));
        if self.is_kept_out(line, key) {
            return self.turn_looked_at_away(line, connection);
        }
        self.with_courier(|switchboard, now, courier| {
            switchboard.connect(line, Arrival::looked_at(connection, key), now, courier);
        });
        self.read_half_full();
    }

    /// Returns when the next connection has been looked at for long enough.
    pub(super) fn next_look_over(&self) -> Option<Instant> {
        self.looking.next_end()
    }

    /// Hands over what has been looked at for long enough.
    pub(super) fn end_long_looks(&mut self) {
        while let Some(id) = self.looking.ended(self.now) {
            self.end_look(LookedId(id), Look::More, Registered::Yes);
        }
    }

    /// Hands over those that have been looked at for the longest time, at most so many: descriptors are short.
    pub(super) fn end_oldest_looks(&mut self, count: usize) {
        for _ in 0..count {
            let Some(id) = self.looking.oldest() else { return };
            self.end_look(LookedId(id), Look::More, Registered::Yes);
        }
    }

    /// Hands over what is looked at for an app, which ends.
    pub(super) fn end_looks_of(&mut self, app: AppId) {
        let is_of_app = |line: LineId| self.port(line).is_some_and(|port| port.app == app);
        for id in self.looking.which(|looked| is_of_app(looked.line)) {
            self.end_look(LookedId(id), Look::More, Registered::Yes);
        }
    }

    /// Closes what is looked at for a listener that is closed; the switchboard has counted it.
    pub(super) fn drop_looks_at(&mut self, line: LineId) {
        for id in self.looking.which(|looked| looked.line == line) {
            if let Some(looked) = self.looking.take(id) {
                self.poll.remove(&looked.connection);
            }
        }
    }
}

/// Whether the poll tells of what a connection sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Registered {
    Yes,
    No,
}

impl Guide {
    /// Returns true when the address of the client matters to what is [looked](Self::look) for.
    pub(super) fn needs_address(&self) -> bool {
        match self {
            Self::Sticky(by) => by.needs_address(),
            Self::Nothing | Self::Own(_) => false,
        }
    }

    /// Looks at what a connection has sent so far.
    fn look(&mut self, client: Option<IpAddr>, connection: &OwnedFd) -> Look {
        match self {
            Self::Nothing => Look::Anyone,
            Self::Sticky(by) => look(by, client, connection),
            Self::Own(adviser) => adviser.look(connection),
        }
    }

    /// Returns the key of a connection of which no more is seen, where connections have keys.
    fn key_of(&self, seen: Look, connection: &OwnedFd) -> Option<Key> {
        match self {
            Self::Sticky(by) => key_of(by, seen, connection),
            Self::Nothing | Self::Own(_) => None,
        }
    }
}

/// Looks at what a connection has sent so far.
fn look(by: &StickyBy, client: Option<IpAddr>, connection: &OwnedFd) -> Look {
    if !by.needs_bytes() {
        return sticky::look(by, client, &[]);
    }
    peek(connection, |bytes, is_all| match sticky::look(by, client, bytes) {
        Look::More if is_all => Look::Nothing,
        look => look,
    })
}

/// Returns the key of a connection of which no more is seen. One that does not tell any has that of its client's address.
fn key_of(by: &StickyBy, seen: Look, connection: &OwnedFd) -> Option<Key> {
    match seen {
        Look::Key(key) => Some(key),
        Look::Anyone => None,
        Look::More | Look::Nothing => {
            let client = address_of_client(connection);
            peek(connection, |bytes, _is_all| sticky::fallback(by, client, bytes))
        }
    }
}

/// Returns the address of the other end; a client of a Unix socket has none.
fn address_of_client(connection: &OwnedFd) -> Option<IpAddr> {
    let client = SockRef::from(connection).peer_addr().ok()?;
    client.as_socket().map(|client| client.ip())
}

/// Shows what a connection has sent so far, and whether no more will be seen.
pub(super) fn peek<R>(connection: &OwnedFd, see: impl FnOnce(&[u8], bool) -> R) -> R {
    let mut buffer = [const { MaybeUninit::<u8>::uninit() }; LONGEST_LOOK];
    match recv(connection, &mut buffer, RecvFlags::PEEK) {
        Ok(((bytes, _rest), _length)) => {
            let is_all = bytes.is_empty() || bytes.len() == LONGEST_LOOK;
            see(bytes, is_all)
        }
        Err(Errno::AGAIN | Errno::INTR) => see(&[], false),
        Err(_broken) => see(&[], true),
    }
}
