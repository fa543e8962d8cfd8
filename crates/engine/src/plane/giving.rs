//! Connections that workers give back: idle ones leave a worker and go on in another, and their clients notice nothing.
//!
//! A worker out of rotation is asked for its idle connections, one after the other, while others of its app are there to
//! take them. One that was told to leave hears `disconnect` when nothing idle is left: Node would close it. After that,
//! as after nothing idle is left of one that stays, it is asked to give what becomes idle.
//!
//! Where connections belong to slots (`sticky`), they move only to the next worker of their slot, and newcomers get no share.

use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use socket2::SockRef;
use worksong_channel::message::encode;
use worksong_channel::message::{Ability, Extension};

use super::hurrying::Haste;
use super::peer::{Peer, Stage};
use super::port::Port;
use super::{Fact, Plane, SWEEP_EVERY, shortage, tell};
use crate::handover::{LineId, SeatId};
use crate::ids::{AppId, WorkerId};
use crate::spec::Policy;

/// How often Node sends a descriptor again that did not arrive (`MAX_HANDLE_RETRANSMISSIONS`).
const RESENDS: u32 = 3;
/// How long a worker that leaves may take to give one more connection before it is told `disconnect` all the same.
const PATIENCE: Duration = Duration::from_secs(1);

/// What a worker understands beyond Node's protocol.
#[derive(Clone, Copy, Debug, Default)]
#[expect(clippy::struct_excessive_bools, reason = "each stands for itself, as in the message")]
pub(super) struct Abilities {
    pub(super) give: bool,
    pub(super) ping: bool,
    pub(super) drain: bool,
    pub(super) count: bool,
}

impl From<Vec<Ability>> for Abilities {
    fn from(told: Vec<Ability>) -> Self {
        let knows = |ability| told.contains(&ability);
        Self {
            give: knows(Ability::Give),
            ping: knows(Ability::Ping),
            drain: knows(Ability::Drain),
            count: knows(Ability::Count),
        }
    }
}

/// How far a worker is with giving its connections back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Giving {
    /// It is not asked.
    Unasked,
    /// It is asked when what it gave before has found a worker.
    Postponed(Which),
    /// It owes an answer.
    Asked(Which),
    /// Nothing is left that could move.
    Done,
}

/// What a worker in rotation gives of its connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum OwnShare {
    /// Nothing.
    Keeps,
    /// The parts of so many newcomers, which are known when it has said how many it has.
    Counts(u64),
    /// So many more.
    Gives(u64),
}

/// Which connections a worker is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Which {
    /// Those that are idle now.
    Idle,
    /// Those that become idle.
    All,
}

impl Plane {
    pub(super) fn on_extension(&mut self, seat: SeatId, message: Extension) {
        match message {
            Extension::Hello { can } => {
                if let Some(peer) = self.peer_mut(seat) {
                    peer.abilities = Abilities::from(can);
                }
                self.ask_to_count(seat);
                self.ping_soon();
            }
            Extension::Open { count } => {
                self.note_open(seat, count);
                self.on_open(seat, count);
            }
            Extension::Nothing { .. } => self.on_nothing(seat),
            Extension::Pong { ack, open } => {
                self.on_pong(seat, ack);
                self.on_open(seat, open);
                self.on_count(seat, open);
            }
            // The connection ended on its way.
            Extension::Given => {
                if let Some(Giving::Asked(which)) = self.peer(seat).map(|peer| peer.giving) {
                    self.ask(seat, which);
                }
            }
            // Messages of a primary; from a worker they mean nothing.
            Extension::Drain { .. }
            | Extension::Hurry
            | Extension::Count { .. }
            | Extension::Give { .. }
            | Extension::Ping { .. }
            | Extension::Unknown => {}
        }
    }

    fn note_open(&mut self, seat: SeatId, count: u64) {
        if let Some(peer) = self.peer_mut(seat) {
            peer.open = Some(count);
        }
    }

    /// Lets the workers in rotation give a newcomer the part of their connections that is its due.
    pub(super) fn rebalance(&mut self, newcomer: WorkerId) {
        if self.is_sticky(newcomer.app) {
            return;
        }
        for index in 0..self.peers.len() {
            let seat = SeatId(index);
            let elder = |peer: &&mut Peer| {
                peer.worker.app == newcomer.app
                    && peer.worker.number < newcomer.number
                    && peer.in_rotation_since.is_some()
                    && peer.abilities.give
                    && peer.abilities.ping
            };
            if let Some(peer) = self.peer_mut(seat).filter(elder) {
                peer.share = match peer.share {
                    OwnShare::Counts(newcomers) => OwnShare::Counts(newcomers + 1),
                    OwnShare::Keeps | OwnShare::Gives(_) => OwnShare::Counts(1),
                };
                self.ping_now(seat);
            }
        }
    }

    /// Asks for what a worker in rotation has to give, now that it has said how many connections it has.
    pub(super) fn on_count(&mut self, seat: SeatId, open: u64) {
        let Some(app) = self.peer(seat).map(|peer| peer.worker.app) else { return };
        let is_in = |peer: &&Peer| peer.worker.app == app && peer.in_rotation_since.is_some();
        let members = self.peers.iter().flatten().filter(is_in).count() as u64;
        let Some(peer) = self.peer_mut(seat) else { return };
        let OwnShare::Counts(newcomers) = peer.share else { return };
        peer.share = match open.saturating_mul(newcomers) / members.max(1) {
            0 => OwnShare::Keeps,
            parts => OwnShare::Gives(parts),
        };
        if peer.giving == Giving::Unasked || peer.giving == Giving::Done {
            self.ask(seat, Which::All);
        }
    }

    /// Asks a worker that has just left rotation for what is idle.
    pub(super) fn empty(&mut self, seat: SeatId) {
        match self.peer(seat).map(|peer| peer.giving) {
            Some(Giving::Unasked | Giving::Done) => self.ask(seat, Which::Idle),
            Some(Giving::Postponed(_) | Giving::Asked(_)) | None => {}
        }
    }

    /// Asks a worker that has closed a server by itself for what it still has, if that was its last one: the program waits until
    /// its connections have ended.
    pub(super) fn empty_closed(&mut self, seat: SeatId, line: LineId) {
        let has_connections = self.takes_connections(line);
        let Some(peer) = self.peer_mut(seat) else { return };
        if has_connections {
            peer.closed.push(line);
        }
        match peer.giving {
            Giving::Unasked | Giving::Done if peer.has_closed_all() => self.ask(seat, Which::All),
            Giving::Unasked | Giving::Done | Giving::Postponed(_) | Giving::Asked(_) => {}
        }
    }

    /// Asks those that left rotation when nobody was there to take what they have.
    pub(super) fn ask_leaving(&mut self, app: AppId) {
        for index in 0..self.peers.len() {
            let seat = SeatId(index);
            // One that starts would give away the first connection that it gets.
            let has_left = |peer: &Peer| peer.was_in_rotation && peer.in_rotation_since.is_none();
            let is_left =
                |peer: &Peer| peer.worker.app == app && has_left(peer) && peer.giving == Giving::Unasked;
            if self.peer(seat).is_some_and(is_left) && self.can_give(seat) {
                self.ask(seat, Which::All);
            }
        }
    }

    /// Lets workers that were told that connections move end them: the app ends, and nobody takes them any more.
    pub(super) fn end_moves(&mut self, app: AppId) {
        for index in 0..self.peers.len() {
            let seat = SeatId(index);
            let keeps =
                |peer: &Peer| peer.worker.app == app && peer.stage == Stage::Told && peer.abilities.drain;
            if self.peer(seat).is_some_and(keeps) {
                self.send(seat, Extension::Drain { moves: false }.encode(), None);
            }
        }
    }

    /// Tells a worker to leave, at once or when nothing idle is left.
    pub(super) fn disconnect(&mut self, seat: SeatId) {
        let moves = self.can_give(seat);
        let by = self.now + PATIENCE;
        let Some(peer) = self.peer_mut(seat) else { return };
        if peer.stage.is_last() {
            return;
        }
        peer.stage = Stage::Told;
        peer.open = None;
        peer.keeps_all = !moves;
        let (abilities, giving, haste) = (peer.abilities, peer.giving, peer.haste);
        if abilities.drain {
            self.send(seat, Extension::Drain { moves }.encode(), None);
            if moves && haste == Haste::Hurries {
                self.send(seat, Extension::Hurry.encode(), None);
            }
        }
        self.keep_until_empty(seat, by, moves && !matches!(giving, Giving::Done | Giving::Asked(Which::All)));
    }

    fn keep_until_empty(&mut self, seat: SeatId, by: Instant, has_idle: bool) {
        if !has_idle {
            return self.say_disconnect(seat);
        }
        if let Some(peer) = self.peer_mut(seat) {
            peer.disconnect_by = Some(by);
        }
        self.look_at_leaving_at = Some(self.look_at_leaving_at.map_or(by, |sooner| sooner.min(by)));
        self.empty(seat);
    }

    fn say_disconnect(&mut self, seat: SeatId) {
        let seq = self.seq();
        if let Some(peer) = self.peer_mut(seat) {
            peer.disconnect_by = None;
            self.send(seat, encode::disconnect(seq), None);
        }
    }

    /// Tells those to leave that took too long to give their connections back.
    pub(super) fn end_patience(&mut self) {
        if self.look_at_leaving_at.is_none_or(|at| at > self.now) {
            return;
        }
        for index in 0..self.peers.len() {
            let seat = SeatId(index);
            let by = self.peer(seat).and_then(|peer| peer.disconnect_by);
            if by.is_some_and(|by| by <= self.now) {
                self.say_disconnect(seat);
            }
        }
        self.look_at_leaving_at = self.peers.iter().flatten().filter_map(|peer| peer.disconnect_by).min();
    }

    /// Asks again those whose last connection had no worker to go to.
    pub(super) fn ask_again(&mut self) {
        for seat in std::mem::take(&mut self.postponed) {
            if let Some(Giving::Postponed(which)) = self.peer(seat).map(|peer| peer.giving) {
                self.ask(seat, which);
            }
        }
    }

    /// Asks for a connection, unless nobody could take it.
    fn ask(&mut self, seat: SeatId, which: Which) {
        let can_give = self.can_give(seat);
        // Who waits for them has better prospects than who stays.
        let is_late = self.peer(seat).is_some_and(|peer| peer.haste == Haste::Hurries);
        let is_postponed = !is_late && self.is_congested(seat) || !self.has_room();
        let Some(peer) = self.peer_mut(seat) else { return };
        if !can_give {
            peer.giving = Giving::Unasked;
            if peer.disconnect_by.is_some() {
                self.say_disconnect(seat);
            }
        } else if is_postponed {
            peer.giving = Giving::Postponed(which);
            self.postponed.push(seat);
        } else {
            peer.giving = Giving::Asked(which);
            self.send(seat, Extension::Give { wait: which == Which::All }.encode(), None);
            self.read_at_once(seat);
        }
    }

    /// Returns true when the worker is one that gives, should give, and others of its app are there to take.
    fn can_give(&self, seat: SeatId) -> bool {
        let Some(peer) = self.peer(seat) else { return false };
        let (app, slot) = (peer.worker.app, peer.slot);
        let is_out = peer.in_rotation_since.is_none();
        let is_sticky = self.is_sticky(app);
        let has_share = matches!(peer.share, OwnShare::Gives(_));
        let has_closed_all = peer.has_closed_all();
        let is_other = |other: &&Peer| {
            let is_newer = other.worker.number > peer.worker.number;
            other.worker.app == app
                && other.in_rotation_since.is_some()
                && (is_out || is_newer || has_closed_all)
                && (other.slot == slot || !is_sticky)
        };
        // What nobody else serves would wait for ever.
        let mut lines = peer.servers.values().chain(&peer.closed).copied();
        let is_served = lines.all(|line| !self.takes_connections(line) || self.switchboard.is_served(line));
        peer.abilities.give
            && !peer.keeps_all
            && is_served
            && (is_out || has_share || has_closed_all)
            && self.apps.get(&app).is_some_and(|app| app.closing.is_none())
            && self.peers.iter().flatten().any(|other| is_other(&other))
    }

    fn takes_connections(&self, line: LineId) -> bool {
        self.port(line).is_some_and(|port| port.listener.address.takes_connections())
    }

    /// Returns true when connections of the app belong to slots, or some of them.
    fn is_sticky(&self, app: AppId) -> bool {
        self.apps.get(&app).is_some_and(|app| app.policies.all().any(Policy::is_sticky))
    }

    /// Returns true when there is a descriptor for one more connection: one that arrives without is lost.
    fn has_room(&mut self) -> bool {
        if self.spare.is_none() {
            self.spare = shortage::spare().ok();
        }
        let has_room = self.spare.is_some() && self.starved.is_none();
        if !has_room {
            self.sweep_at.get_or_insert(self.now + SWEEP_EVERY);
        }
        has_room
    }

    /// Returns true while connections wait already where its own would go: what it would give is better left with it.
    fn is_congested(&self, seat: SeatId) -> bool {
        let Some(peer) = self.peer(seat) else { return false };
        let slot = peer.slot;
        self.lines_of(peer.worker.app).into_iter().any(|line| self.switchboard.is_congested(line, slot))
    }

    /// Hands a connection that a worker gave back to another one, and asks for the next.
    pub(super) fn on_given(&mut self, seat: SeatId, connection: OwnedFd) {
        let Some(peer) = self.peer(seat) else { return };
        let app = peer.worker.app;
        let Giving::Asked(which) = peer.giving else {
            // Its descriptors would fill this process.
            self.report_garbage(seat, "it gave a connection back that it was not asked for".to_owned());
            return;
        };
        if let Some(peer) = self.peer_mut(seat) {
            peer.lost_gifts = 0;
        }
        if let Some(line) = self.line_of(seat, &connection) {
            self.with_courier(|switchboard, now, courier| {
                switchboard.take_over(line, connection, seat, now, courier);
            });
        } else {
            let address = "a listener that is closed by now".to_owned();
            tell(&self.facts, Fact::Dropped { app, address, count: 1 });
        }
        let by = self.now + PATIENCE;
        if let Some(peer) = self.peer_mut(seat) {
            peer.disconnect_by = peer.disconnect_by.map(|_| by);
            peer.share = match peer.share {
                OwnShare::Gives(more @ 2..) => OwnShare::Gives(more - 1),
                OwnShare::Gives(_) | OwnShare::Keeps => OwnShare::Keeps,
                counts @ OwnShare::Counts(_) => counts,
            };
        }
        self.ask(seat, which);
    }

    /// A connection that a worker gave back did not arrive: most likely there was no free descriptor for it.
    pub(super) fn on_lost_gift(&mut self, seat: SeatId) {
        let Some(peer) = self.peer_mut(seat) else { return };
        let Giving::Asked(which) = peer.giving else { return };
        peer.lost_gifts += 1;
        if peer.sends_again() && peer.lost_gifts <= RESENDS {
            // Node does so at once.
            self.spare = None;
        } else {
            peer.lost_gifts = 0;
            // The connection stays with the worker until it is asked again.
            peer.giving = Giving::Postponed(which);
            self.postponed.push(seat);
            self.wait_for_descriptors();
        }
    }

    fn on_nothing(&mut self, seat: SeatId) {
        let Some(peer) = self.peer_mut(seat) else { return };
        let is_told_to_leave = peer.disconnect_by.is_some();
        peer.share = match peer.share {
            OwnShare::Gives(_) | OwnShare::Keeps => OwnShare::Keeps,
            // Newcomers came after it was asked.
            counts @ OwnShare::Counts(_) => counts,
        };
        match peer.giving {
            Giving::Asked(Which::Idle) => {
                if is_told_to_leave {
                    self.say_disconnect(seat);
                }
                self.ask(seat, Which::All);
            }
            Giving::Asked(Which::All) => peer.giving = Giving::Done,
            Giving::Unasked | Giving::Postponed(_) | Giving::Done => {}
        }
    }

    /// Finds the listener that a connection came by: its worker may have closed its server since.
    fn line_of(&self, seat: SeatId, connection: &OwnedFd) -> Option<LineId> {
        let peer = self.peer(seat)?;
        let local = SockRef::from(connection).local_addr().ok()?;
        let fits = |(index, port): (usize, &Option<Port>)| {
            let port = port.as_ref().filter(|port| port.app == peer.worker.app)?;
            Some((port.listener.address.fits(&local)?, LineId(index)))
        };
        self.ports.iter().enumerate().filter_map(fits).max().map(|(_, line)| line)
    }
}
