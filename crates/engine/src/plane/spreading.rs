//! Listeners with a socket for each worker: which worker has which, and where the kernel sends new connections.
//!
//! New connections go to the sockets of workers in rotation. What is queued at another one (its worker left, is gone, or
//! stands still) is accepted by us and handed over; so a socket's queue outlives its worker, and a worker that was never
//! ready has never had a connection. With no worker in rotation connections wait at a socket that nobody has.
//!
//! The kernel would go on sending a worker its share while that stands still. So queues are looked at every few
//! milliseconds while connections come; whoever has one waiting is pinged, and gets nothing new while it leaves the ping
//! unanswered longer than a busy worker would; `stalled.rs` has those that know no pings. The connection that wakes us
//! costs one event, and nothing after it does.

use std::io;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use rustix::io::Errno;

use super::Plane;
use super::poll::{Interest, Token};
use super::port::{Accepting, Entrance, EntranceId, Manner, Port, Watch};
use crate::handover::{LineId, SeatId};
use crate::listen::{Target, queued};

/// How often queues are looked at.
const LOOK_EVERY: Duration = Duration::from_millis(5);
/// How long they are looked at after a connection came.
const WATCH_FOR: Duration = Duration::from_secs(1);
/// How long a worker may leave a ping unanswered while connections wait for it. A worker with much to do needs some
/// milliseconds for a turn of its event loop.
pub(super) const STILL_AFTER: Duration = Duration::from_millis(15);

impl Plane {
    /// Returns a copy of the socket from which a worker accepts.
    pub(super) fn socket_for(&mut self, line: LineId, seat: SeatId) -> io::Result<OwnedFd> {
        let gone = || io::Error::from_raw_os_error(libc::EBADF);
        let index = match self.port(line).map(|port| port.manner).ok_or_else(gone)? {
            Manner::Flows => return self.flows_socket_for(line, seat),
            Manner::Shared | Manner::HandedOver => 0,
            Manner::Spread => self.own_entrance(line, seat)?,
        };
        let copy = self.socket(EntranceId { line, index }).ok_or_else(gone)?.try_clone()?;
        if let Some(port) = self.port_mut(line).filter(|port| port.manner == Manner::Spread)
            && let Some(entrance) = port.entrances.get_mut(index)
        {
            entrance.holder = Some(seat);
        }
        Ok(copy)
    }

    /// Finds a socket for a worker where nothing waits and nothing new comes: it may not be ready for a long time.
    fn own_entrance(&mut self, line: LineId, seat: SeatId) -> io::Result<usize> {
        let idle = |port: &Port| port.entrance_of(seat).or_else(|| port.idle_free());
        if let Some(index) = self.port(line).and_then(idle) {
            return Ok(index);
        }
        // Without room for another one: better with connections than not at all.
        let any = self.port(line).and_then(Port::best_free);
        self.add_entrance(line).or_else(|error| any.ok_or(error))
    }

    /// Adds a socket that nobody has.
    fn add_entrance(&mut self, line: LineId) -> io::Result<usize> {
        let gone = || io::Error::from_raw_os_error(libc::EBADF);
        let now = self.now;
        let port = self.ports.get_mut(line.0).and_then(Option::as_mut).ok_or_else(gone)?;
        let index = port.listener.group_mut().ok_or_else(gone)?.grow()?;
        let socket = port.listener.sockets().get(index).ok_or_else(gone)?;
        let polled = self.poll.add(socket, Token::Entrance(EntranceId { line, index }), Interest::NONE);
        if polled.is_ok() {
            port.entrances.push(Entrance::new(Accepting::Paused, now));
        } else if let Some(group) = port.listener.group_mut() {
            // Nothing waits there: it was no target yet.
            group.drop_last();
        }
        polled.map(|()| index)
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
            let Some(port) = self.port(line) else { continue };
            // Where an app ends nobody new gets in.
            let is_open = self.apps.get(&port.app).is_some_and(|app| app.closing.is_none());
            match port.manner {
                Manner::Spread if is_open => self.steer_port(line),
                Manner::Flows if is_open => self.steer_flows(line),
                Manner::Spread | Manner::Flows | Manner::HandedOver | Manner::Shared => {}
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
        let Some(port) = self.port_mut(line) else { return };
        if port.targets != targets
            && let Some(group) = port.listener.group_mut()
        {
            if group.steer(&targets).is_err() {
                // Out of memory: as before, until the next look.
                return;
            }
            if let [Target { index, .. }] = targets[..] {
                // Perhaps it is where connections wait now, and its last worker has made its queue shorter.
                group.lengthen_queue(index as usize);
            }
            port.targets = targets;
            self.open_own_targets(line);
        }
        self.share_out(line);
    }

    /// Accepts where connections come now that go to no worker; paused by the first one that finds none.
    fn open_own_targets(&mut self, line: LineId) {
        let Some(port) = self.port(line) else { return };
        let is_own = |index: &usize| port.entrances.get(*index).is_some_and(|one| one.holder.is_none());
        let own: Vec<usize> =
            port.targets.iter().map(|target| target.index as usize).filter(is_own).collect();
        for index in own {
            self.set_accepting(EntranceId { line, index }, Accepting::Open);
        }
    }

    /// Drops a socket that its worker has shut down; connections go to the others. The last one is a listener's end.
    pub(super) fn lose_entrance(&mut self, at: EntranceId, error: Errno) {
        let Some(port) = self.ports.get_mut(at.line.0).and_then(Option::as_mut) else { return };
        let Some(last) = port.entrances.len().checked_sub(1).filter(|last| *last > 0 && at.index <= *last)
        else {
            return self.lose_port(at.line, error);
        };
        if let Some(socket) = port.listener.sockets().get(at.index) {
            self.poll.remove(socket);
        }
        let holder = port.entrances.swap_remove(at.index).holder;
        if let Some(group) = port.listener.group_mut() {
            group.drop_dead(at.index);
        }
        // Indexes have changed, and with them what the program means.
        port.targets.clear();
        if at.index < last {
            let accepting = port.entrances.get(at.index).map(|moved| moved.accepting);
            let interest = accepting.map_or(Interest::NONE, |accepting| port.interest(accepting));
            if let Some(socket) = port.listener.sockets().get(at.index) {
                self.poll.modify(socket, Token::Entrance(at), interest);
            }
        }
        if let Some(seat) = holder {
            let error = "it has shut its listening socket down; connections are handed over to it".to_owned();
            self.report_garbage(seat, error);
        }
    }

    /// Begins to look at the queues of workers: a connection came.
    pub(super) fn watch_queues(&mut self, line: LineId) {
        let (next, until) = (self.now + LOOK_EVERY, self.now + WATCH_FOR);
        if let Some(port) = self.port_mut(line) {
            let look_at = match port.watch {
                Watch::Asleep => next,
                Watch::Awake { look_at, .. } => look_at,
            };
            port.watch = Watch::Awake { look_at, until };
        }
    }

    /// Returns when queues are looked at next.
    pub(super) fn next_look(&self) -> Option<Instant> {
        let next = |port: &Port| match port.watch {
            Watch::Asleep => None,
            Watch::Awake { look_at, .. } => Some(look_at),
        };
        self.ports.iter().flatten().filter_map(next).min()
    }

    /// Pings the workers at whose sockets connections wait; those that know no pings are suspected.
    pub(super) fn look_at_queues(&mut self) {
        for index in 0..self.ports.len() {
            let (line, now) = (LineId(index), self.now);
            let Some(port) = self.port_mut(line) else { continue };
            match port.watch {
                Watch::Awake { look_at, until } if look_at <= now && until <= now => {
                    port.watch = Watch::Asleep;
                    self.sleep_until_next(line);
                }
                Watch::Awake { look_at, until } if look_at <= now => {
                    port.watch = Watch::Awake { look_at: now + LOOK_EVERY, until };
                    self.look_at(line);
                }
                Watch::Awake { .. } | Watch::Asleep => {}
            }
        }
    }

    fn look_at(&mut self, line: LineId) {
        let Some(port) = self.port(line) else { return };
        let count = port.entrances.len();
        for at in (0..count).map(|index| EntranceId { line, index }) {
            let has_waiting =
                self.socket(at).is_some_and(|socket| queued(socket).is_ok_and(|length| length > 0));
            let Some(entrance) = self.entrance_mut(at) else { return };
            match (entrance.accepting, entrance.holder) {
                (Accepting::Theirs, Some(_)) if !has_waiting => entrance.suspicion.is_unfounded(),
                (Accepting::Theirs, Some(seat)) => {
                    if self.peer(seat).is_some_and(|peer| peer.abilities.ping) {
                        self.ping_now(seat);
                    } else {
                        self.suspect(at);
                    }
                }
                (Accepting::Theirs, None) | (Accepting::Open | Accepting::Paused, _) => {}
            }
        }
    }

    /// Lets the next connection of each worker wake us.
    fn sleep_until_next(&mut self, line: LineId) {
        let Some(port) = self.port(line) else { return };
        for (index, (entrance, socket)) in port.entrances.iter().zip(port.listener.sockets()).enumerate() {
            if entrance.accepting == Accepting::Theirs {
                self.poll.modify(socket, Token::Entrance(EntranceId { line, index }), Interest::READ_ONCE);
            }
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
                // Paused by the first connection that finds no worker.
                (false, Accepting::Theirs) => self.set_accepting(at, Accepting::Open),
                (false, Accepting::Open | Accepting::Paused) => {}
            }
        }
    }

    /// Returns the sockets of the workers that get new connections: those in rotation, without those that stand still
    /// unless all do.
    fn targets(&mut self, line: LineId) -> Vec<Target> {
        let Some(port) = self.port(line) else { return Vec::new() };
        let held: Vec<_> = (0..)
            .zip(&port.entrances)
            .filter_map(|(index, entrance)| Some((index, entrance.holder?)))
            .collect();
        let mut moving = Vec::new();
        let mut all = Vec::new();
        for (index, seat) in held {
            let Some(slot) = self.peer(seat).map(|peer| peer.slot.0) else { continue };
            if self.switchboard.serves(line, seat) && !self.switchboard.is_at_limit(seat) {
                let target = Target { index, slot };
                all.push(target);
                self.switchboard.let_rest(seat, STILL_AFTER, self.now);
                if !self.switchboard.is_still(seat) {
                    moving.push(target);
                }
            }
        }
        if moving.is_empty() { all } else { moving }
    }
}

impl Port {
    fn entrance_of(&self, seat: SeatId) -> Option<usize> {
        self.entrances.iter().position(|entrance| entrance.holder == Some(seat))
    }

    /// Returns a socket that nobody has, where nothing waits and nothing new comes.
    fn idle_free(&self) -> Option<usize> {
        let is_target = |index: usize| self.targets.iter().any(|target| target.index as usize == index);
        let entrances = self.entrances.iter().zip(self.listener.sockets()).enumerate();
        let mut free = entrances.filter(|(_, (entrance, _))| entrance.holder.is_none());
        free.find(|(index, (_, socket))| !is_target(*index) && queued(socket).is_ok_and(|length| length == 0))
            .map(|(index, _)| index)
    }

    /// Returns the socket that nobody has and where most connections wait.
    fn best_free(&self) -> Option<usize> {
        let free = self.entrances.iter().enumerate().filter(|(_, entrance)| entrance.holder.is_none());
        let length =
            |index: &usize| self.listener.sockets().get(*index).and_then(|socket| queued(socket).ok());
        free.map(|(index, _)| index).max_by_key(length)
    }
}
