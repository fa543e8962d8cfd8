//! Listeners with a socket for each worker: which worker has which, and where the kernel sends new connections.
//!
//! New connections go to the sockets of workers in rotation. What is queued at another one (its worker left, is gone, or
//! stands still) is accepted by us and handed over; so a socket's queue outlives its worker, and a worker that was never
//! ready has never had a connection. With no worker in rotation connections wait at a socket that nobody has.

use std::io;
use std::os::fd::OwnedFd;

use super::Plane;
use super::poll::{Interest, Token};
use super::port::{Accepting, Entrance, EntranceId, Manner, Port};
use crate::handover::{LineId, SeatId};
use crate::listen::{Target, queued};

impl Plane {
    /// Returns a copy of the socket from which a worker accepts.
    pub(super) fn socket_for(&mut self, line: LineId, seat: SeatId) -> io::Result<OwnedFd> {
        let gone = || io::Error::from_raw_os_error(libc::EBADF);
        let index = match self.port(line).map(|port| port.manner).ok_or_else(gone)? {
            Manner::Shared | Manner::HandedOver => 0,
            Manner::Spread => {
                let index = match self
                    .port(line)
                    .and_then(|port| port.entrance_of(seat).or_else(|| port.best_free()))
                {
                    Some(index) => index,
                    None => self.add_entrance(line)?,
                };
                if let Some(entrance) = self.port_mut(line).and_then(|port| port.entrances.get_mut(index)) {
                    entrance.holder = Some(seat);
                }
                index
            }
        };
        self.socket(EntranceId { line, index }).ok_or_else(gone)?.try_clone()
    }

    /// Adds a socket that nobody has.
    fn add_entrance(&mut self, line: LineId) -> io::Result<usize> {
        let gone = || io::Error::from_raw_os_error(libc::EBADF);
        let now = self.now;
        let port = self.ports.get_mut(line.0).and_then(Option::as_mut).ok_or_else(gone)?;
        // A socket of the group that is not polled would never be emptied; it is tried again with the next worker.
        let index = match port.listener.sockets().len() {
            count if count > port.entrances.len() => port.entrances.len(),
            _ => port.listener.group_mut().ok_or_else(gone)?.grow()?,
        };
        let socket = port.listener.sockets().get(index).ok_or_else(gone)?;
        self.poll.add(socket, Token::Entrance(EntranceId { line, index }), Interest::NONE)?;
        port.entrances.push(Entrance::new(Accepting::Paused, now));
        Ok(index)
    }

    /// Takes the socket of a listener from a worker that has closed its server, or of all when it is gone.
    pub(super) fn free_entrances(&mut self, seat: SeatId, of: Option<LineId>) {
        for (index, port) in self.ports.iter_mut().enumerate() {
            let is_meant = of.is_none_or(|line| line.0 == index);
            for entrance in port.iter_mut().filter(|_| is_meant).flat_map(|port| &mut port.entrances) {
                entrance.holder = entrance.holder.filter(|holder| *holder != seat);
            }
        }
    }

    /// Sends new connections to the workers in rotation. Everything may change who that is, so it is looked at whenever
    /// the loop is awake.
    pub(super) fn steer(&mut self) {
        for index in 0..self.ports.len() {
            let line = LineId(index);
            if self.port(line).is_some_and(|port| port.manner == Manner::Spread) {
                self.steer_port(line);
            }
        }
    }

    fn steer_port(&mut self, line: LineId) {
        let mut targets = self.targets(line);
        if targets.is_empty() {
            let free = self.port(line).and_then(Port::best_free);
            // Without room for another one, connections stay with workers that may not serve them yet.
            let Ok(index) = free.map_or_else(|| self.add_entrance(line), Ok) else { return };
            targets.push(Target { index: index as u32, slot: 0 });
        }
        let Some(port) = self.port_mut(line).filter(|port| port.targets != targets) else { return };
        if let Some(group) = port.listener.group_mut()
            // Out of memory: as before, until the next look.
            && group.steer(&targets).is_ok()
        {
            port.targets.clone_from(&targets);
            self.share_out(line);
        }
    }

    /// Leaves the sockets of workers that serve to them, and sees to the others.
    fn share_out(&mut self, line: LineId) {
        let count = self.port(line).map_or(0, |port| port.entrances.len());
        for at in (0..count).map(|index| EntranceId { line, index }) {
            let Some(port) = self.port(line) else { return };
            let is_target = port.targets.iter().any(|target| target.index as usize == at.index);
            let Some(entrance) = port.entrances.get(at.index) else { return };
            match (is_target && entrance.holder.is_some(), entrance.accepting) {
                (true, _) => self.set_accepting(at, Accepting::Theirs),
                (false, Accepting::Theirs) => self.set_accepting(at, Accepting::Paused),
                (false, Accepting::Open | Accepting::Paused) => {}
            }
        }
    }

    /// Returns the sockets of the workers that get new connections.
    fn targets(&self, line: LineId) -> Vec<Target> {
        let Some(port) = self.port(line) else { return Vec::new() };
        let held = port.entrances.iter().enumerate();
        let serving = held.filter_map(|(index, entrance)| {
            let holder = entrance.holder.filter(|holder| self.switchboard.serves(line, *holder))?;
            Some(Target { index: index as u32, slot: self.peer(holder)?.slot.0 })
        });
        serving.collect()
    }
}

impl Port {
    fn entrance_of(&self, seat: SeatId) -> Option<usize> {
        self.entrances.iter().position(|entrance| entrance.holder == Some(seat))
    }

    /// Returns the socket that nobody has and where most connections wait.
    fn best_free(&self) -> Option<usize> {
        let free = self.entrances.iter().enumerate().filter(|(_, entrance)| entrance.holder.is_none());
        let length =
            |index: &usize| self.listener.sockets().get(*index).and_then(|socket| queued(socket).ok());
        free.map(|(index, _)| index).max_by_key(length)
    }
}
