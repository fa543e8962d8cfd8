//! Accepting connections.

use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use rustix::io::Errno;
use rustix::net::{SocketFlags, accept_with, acceptfrom_with};

use super::Plane;
use super::poll::{Ready, Token};
use super::port::{Accepting, EntranceId, Manner};
use crate::handover::{Arrival, LineId};
use crate::shortage::Shortage;
use crate::sticky::Key;

/// How many connections of one listener are accepted before others get their turn.
pub(super) const BATCH: usize = 64;
/// A listener that is reported again after less than this has more than one connection waiting. One that is quiet gets
/// a single `accept4`: asking once more for nothing would cost as much as the next report, which is rarely needed.
const BUSY: Duration = Duration::from_micros(200);
/// What connections are like in this process: no worker inherits them, and what is asked of them never blocks.
const FLAGS: SocketFlags = SocketFlags::NONBLOCK.union(SocketFlags::CLOEXEC);

/// What a listener that closes has left in the kernel's queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Rest {
    Nothing,
    /// Perhaps connections that no worker can take now, or that there is no descriptor for.
    Unknown,
}

impl Plane {
    pub(super) fn on_entrance(&mut self, at: EntranceId, ready: Ready) {
        let now = self.now;
        let line = at.line;
        let entrance = self.port_mut(line).and_then(|port| port.entrances.get_mut(at.index));
        let Some(entrance) = entrance else { return };
        match (entrance.accepting, ready.closed) {
            (Accepting::Theirs, false) => return self.watch_queues(line),
            (Accepting::Theirs, true) => return self.lose_entrance(at, Errno::INVAL),
            (Accepting::Open | Accepting::Paused, _) => {}
        }
        let before = std::mem::replace(&mut entrance.reported_at, now);
        let is_busy = now.saturating_duration_since(before) < BUSY;
        for _ in 0..(if is_busy { BATCH } else { 1 }) {
            let is_let_in = self.switchboard.can_accept(line, self.now);
            let is_turned_away = !is_let_in && self.turns_away(line);
            // A socket that was shut down is reported in any case, so it has to be found out in any case.
            if !ready.closed && !is_let_in && !is_turned_away {
                self.note_waiting(line);
                self.set_accepting(at, Accepting::Paused);
                return;
            }
            match self.accept_at(at) {
                Accepted::Connection(connection, _client) if is_turned_away => {
                    self.turn_away(line, connection);
                }
                Accepted::Connection(connection, client) => self.connect_by_key(line, connection, client),
                Accepted::Empty => return,
                Accepted::NoRoom(error) => {
                    self.starve(at, error);
                    return;
                }
                Accepted::Gone => {}
                Accepted::Dead(error) => {
                    self.lose_entrance(at, error);
                    return;
                }
            }
        }
    }

    /// Accepts a connection, and never blocks.
    pub(super) fn accept_at(&self, at: EntranceId) -> Accepted {
        let Some(port) = self.port(at.line) else { return Accepted::Empty };
        let Some(socket) = port.listener.sockets().get(at.index) else { return Accepted::Empty };
        if port.manner == Manner::Spread {
            // Whoever shares it can make it block, by handing it to a program that wants it so.
            let _as_it_should_be = rustix::io::ioctl_fionbio(socket, true);
        }
        if port.guide.needs_address() { accept_with_address(socket) } else { accept(socket) }
    }

    /// Returns the listening socket at an entrance.
    pub(super) fn socket(&self, at: EntranceId) -> Option<&OwnedFd> {
        self.port(at.line)?.listener.sockets().get(at.index)
    }

    /// Hands over a connection that was accepted.
    pub(super) fn connect_to(&mut self, line: LineId, connection: OwnedFd, key: Option<Key>) {
        if key.is_some() && self.is_kept_out(line, key) {
            return self.turn_away(line, connection);
        }
        self.with_courier(|switchboard, now, courier| {
            switchboard.connect(line, Arrival::new(connection, key), now, courier);
        });
        self.read_half_full();
    }

    /// Reads the answers of workers that have used half of their window.
    pub(super) fn read_half_full(&mut self) {
        while let Some(seat) = self.half_full.pop() {
            self.read(seat);
        }
    }

    /// Polls the listeners again whose connections find a worker now.
    pub(super) fn reopen_ports(&mut self) {
        if self.starved.is_some() {
            return;
        }
        for index in 0..self.ports.len() {
            let line = LineId(index);
            let count = self.port(line).map_or(0, |port| port.entrances.len());
            for at in (0..count).map(|index| EntranceId { line, index }) {
                if self.accepting(at) == Some(Accepting::Paused)
                    && (self.switchboard.can_accept(line, self.now) || self.turns_away(line))
                {
                    self.set_accepting(at, Accepting::Open);
                }
            }
        }
    }

    fn accepting(&self, at: EntranceId) -> Option<Accepting> {
        self.port(at.line)?.entrances.get(at.index).map(|entrance| entrance.accepting)
    }

    pub(super) fn set_accepting(&mut self, at: EntranceId, accepting: Accepting) {
        let Some(port) = self.ports.get_mut(at.line.0).and_then(Option::as_mut) else { return };
        let Some(entrance) = port.entrances.get_mut(at.index) else { return };
        if entrance.accepting == accepting || !port.manner.hands_over() {
            return;
        }
        entrance.accepting = accepting;
        let interest = port.interest(accepting);
        if let Some(socket) = port.listener.sockets().get(at.index) {
            self.poll.modify(socket, Token::Entrance(at), interest);
        }
    }

    /// Accepts what the kernel has queued for a listener that is about to close, as far as workers can take it.
    pub(super) fn accept_rest(&mut self, line: LineId) -> Rest {
        let entrances: Vec<_> =
            self.port(line).map(|port| port.own_entrances(line).collect()).unwrap_or_default();
        let rests = entrances.into_iter().map(|at| self.accept_rest_at(at));
        rests.max().unwrap_or(Rest::Nothing)
    }

    fn accept_rest_at(&mut self, at: EntranceId) -> Rest {
        while self.socket(at).is_some() {
            let is_let_in = self.switchboard.can_accept(at.line, self.now);
            let is_turned_away = !is_let_in && self.turns_away(at.line);
            if !is_let_in && !is_turned_away {
                return Rest::Unknown;
            }
            match self.accept_at(at) {
                Accepted::Connection(connection, _client) if is_turned_away => {
                    self.turn_away(at.line, connection);
                }
                Accepted::Connection(connection, client) => self.connect_by_key(at.line, connection, client),
                Accepted::Empty | Accepted::Dead(_) => break,
                Accepted::NoRoom(error) => {
                    self.starve(at, error);
                    return Rest::Unknown;
                }
                Accepted::Gone => {}
            }
        }
        Rest::Nothing
    }
}

/// What became of an `accept4`.
pub(super) enum Accepted {
    /// With the address of its client, where that was asked for and there is one.
    Connection(OwnedFd, Option<IpAddr>),
    /// The queue is empty.
    Empty,
    /// There is no descriptor or memory for it; the connection stays in the queue.
    NoRoom(Errno),
    /// The connection is gone before it was accepted; Linux reports its network errors here.
    Gone,
    /// This socket will never give one again; somebody who shares it has shut it down.
    Dead(Errno),
}

pub(super) fn accept(listener: impl AsFd) -> Accepted {
    accept_with(listener, FLAGS).map(|connection| (connection, None)).into()
}

/// Does the same, and saves whoever has to know it the question for the client's address.
fn accept_with_address(listener: impl AsFd) -> Accepted {
    let accepted = acceptfrom_with(listener, FLAGS);
    let ip = |address| SocketAddr::try_from(address).ok().map(|address| address.ip());
    accepted.map(|(connection, client)| (connection, client.and_then(ip))).into()
}

impl From<Result<(OwnedFd, Option<IpAddr>), Errno>> for Accepted {
    fn from(result: Result<(OwnedFd, Option<IpAddr>), Errno>) -> Self {
        match result {
            Ok((connection, client)) => Self::Connection(connection, client),
            Err(Errno::AGAIN) => Self::Empty,
            Err(error) if Shortage::of(error).is_some() => Self::NoRoom(error),
            Err(error @ (Errno::INVAL | Errno::BADF | Errno::NOTSOCK)) => Self::Dead(error),
            Err(_gone) => Self::Gone,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What `accept4` may say, of accept(2). The first ones cannot be brought about for one process alone.
    #[test]
    fn a_connection_without_room_stays_and_a_listener_without_one_is_not_blamed() {
        for error in [Errno::NFILE, Errno::NOMEM, Errno::NOBUFS, Errno::MFILE] {
            assert!(matches!(Accepted::from(Err(error)), Accepted::NoRoom(said) if said == error), "{error}");
        }
        for error in [Errno::CONNABORTED, Errno::PROTO, Errno::NETDOWN, Errno::HOSTUNREACH, Errno::PERM] {
            assert!(matches!(Accepted::from(Err(error)), Accepted::Gone), "{error}");
        }
        assert!(matches!(Accepted::from(Err(Errno::INVAL)), Accepted::Dead(_)));
    }
}
