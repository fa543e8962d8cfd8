//! Connections whose first bytes say where they belong: they are looked at, not read.
//!
//! A client that sends nothing, or too slowly, is looked at for [`LOOK_FOR`] and then goes by its address; it holds up
//! nobody, as each connection is looked at by itself.

use std::collections::VecDeque;
use std::mem::MaybeUninit;
use std::net::IpAddr;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::net::{RecvFlags, recv};
use socket2::SockRef;

use super::Plane;
use super::poll::{Interest, Token};
use crate::handover::LineId;
use crate::ids::AppId;
use crate::sticky::{self, Key, LONGEST_LOOK, Look, StickyBy};

/// How long the first bytes are waited for.
const LOOK_FOR: Duration = Duration::from_millis(500);
/// How many connections are looked at at a time; the next ones go by their clients' addresses.
const MOST_LOOKED_AT: usize = 16 * 1024;

/// A connection that is looked at.
#[derive(Debug)]
pub(super) struct Looked {
    line: LineId,
    connection: OwnedFd,
    client: Option<IpAddr>,
    until: Instant,
}

/// A connection that is looked at; the number is free for another one after that.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct LookedId(pub(super) usize);

/// All connections that are looked at.
#[derive(Debug, Default)]
pub(super) struct Looking {
    /// Indexed by [`LookedId`].
    connections: Vec<Option<Looked>>,
    free: Vec<usize>,
    /// When each is over, in that order; some are over before.
    ends: VecDeque<(Instant, LookedId)>,
}

impl Looking {
    fn count(&self) -> usize {
        self.connections.len() - self.free.len()
    }

    fn add(&mut self, looked: Looked) -> LookedId {
        let index = self.free.pop().unwrap_or(self.connections.len());
        let id = LookedId(index);
        self.ends.push_back((looked.until, id));
        super::put(&mut self.connections, index, looked);
        id
    }

    fn get(&self, id: LookedId) -> Option<&Looked> {
        self.connections.get(id.0)?.as_ref()
    }

    fn take(&mut self, id: LookedId) -> Option<Looked> {
        let looked = self.connections.get_mut(id.0)?.take()?;
        self.free.push(id.0);
        Some(looked)
    }

    /// Returns one that has been looked at for long enough.
    fn pop_end(&mut self, now: Instant) -> Option<LookedId> {
        while let Some((until, id)) = self.ends.pop_front_if(|(until, _)| *until <= now) {
            // Otherwise it was over before, and there may be another one in its place.
            if self.get(id).is_some_and(|looked| looked.until == until) {
                return Some(id);
            }
        }
        None
    }

    fn ids(&self, wanted: impl Fn(&Looked) -> bool) -> Vec<LookedId> {
        let all = self.connections.iter().enumerate();
        all.filter_map(|(index, looked)| wanted(looked.as_ref()?).then_some(LookedId(index))).collect()
    }
}

impl Plane {
    /// Hands a connection over that was just accepted, as soon as it is known where it belongs.
    pub(super) fn connect_by_key(&mut self, line: LineId, connection: OwnedFd) {
        let Some(by) = self.port(line).and_then(|port| port.sticky.clone()) else {
            return self.connect_to(line, connection, None);
        };
        // A client of a Unix socket has no address.
        let client = SockRef::from(&connection).peer_addr().ok();
        let client = client.and_then(|client| client.as_socket()).map(|client| client.ip());
        match self.look(&by, client, &connection) {
            Look::Key(key) => self.connect_to(line, connection, Some(key)),
            Look::Nothing => self.connect_by_address(line, connection, client),
            Look::More => self.look_again(Looked { line, connection, client, until: self.now + LOOK_FOR }),
        }
    }

    fn look_again(&mut self, looked: Looked) {
        let id = match self.looking.count() {
            0..MOST_LOOKED_AT => self.looking.add(looked),
            _ => return self.connect_by_address(looked.line, looked.connection, looked.client),
        };
        let added = self
            .looking
            .get(id)
            .map(|looked| self.poll.add(&looked.connection, Token::Looked(id), Interest::NEWS));
        if added.is_some_and(|added| added.is_err()) {
            // Without memory for a registration nothing would tell of more bytes.
            if let Some(looked) = self.looking.take(id) {
                self.connect_by_address(looked.line, looked.connection, looked.client);
            }
        }
    }

    /// Looks again at a connection that has more to see.
    pub(super) fn on_looked(&mut self, id: LookedId) {
        let Some(looked) = self.looking.get(id) else { return };
        let Some(by) = self.port(looked.line).and_then(|port| port.sticky.clone()) else { return };
        match self.look(&by, looked.client, &looked.connection) {
            Look::More => {}
            Look::Key(key) => self.end_look(id, Some(key)),
            Look::Nothing => self.end_look(id, None),
        }
    }

    /// Looks at what a connection has sent so far.
    fn look(&self, by: &StickyBy, client: Option<IpAddr>, connection: &OwnedFd) -> Look {
        if !by.needs_bytes() {
            return sticky::look(by, client, &[]);
        }
        peek(connection, |bytes, is_all| match sticky::look(by, client, bytes) {
            Look::More if is_all => Look::Nothing,
            look => look,
        })
    }

    fn connect_by_address(&mut self, line: LineId, connection: OwnedFd, client: Option<IpAddr>) {
        let key = peek(&connection, |bytes, _is_all| sticky::fallback(client, bytes));
        self.connect_to(line, connection, key);
    }

    /// Hands a connection over that was looked at; without a key it goes by its client's address.
    fn end_look(&mut self, id: LookedId, key: Option<Key>) {
        let Some(looked) = self.looking.take(id) else { return };
        // The registration lives as long as the socket, which a worker gets a copy of.
        self.poll.remove(&looked.connection);
        match key {
            Some(key) => self.connect_to(looked.line, looked.connection, Some(key)),
            None => self.connect_by_address(looked.line, looked.connection, looked.client),
        }
    }

    /// Returns when the next connection has been looked at for long enough.
    pub(super) fn next_look_over(&self) -> Option<Instant> {
        self.looking.ends.front().map(|(until, _)| *until)
    }

    /// Hands over what has been looked at for long enough.
    pub(super) fn end_long_looks(&mut self) {
        let now = self.now;
        while let Some(id) = self.looking.pop_end(now) {
            self.end_look(id, None);
        }
    }

    /// Hands over what is looked at for an app, which ends.
    pub(super) fn end_looks_of(&mut self, app: AppId) {
        let is_of_app = |line: LineId| self.port(line).is_some_and(|port| port.app == app);
        for id in self.looking.ids(|looked| is_of_app(looked.line)) {
            self.end_look(id, None);
        }
    }

    /// Closes what is looked at for a listener that is closed. Returns how many connections that were.
    pub(super) fn drop_looks_at(&mut self, line: LineId) -> u64 {
        let mut dropped = 0;
        for id in self.looking.ids(|looked| looked.line == line) {
            if let Some(looked) = self.looking.take(id) {
                self.poll.remove(&looked.connection);
                dropped += 1;
            }
        }
        dropped
    }
}

/// Shows what a connection has sent so far, and whether no more will be seen.
fn peek<R>(connection: &OwnedFd, see: impl FnOnce(&[u8], bool) -> R) -> R {
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
