//! Datagram sockets, one for each worker: who gets which, and when a worker that leaves has read what it has.
//!
//! What is queued at a datagram socket only its worker can read. So a worker that leaves gets nothing new first, and is told
//! to leave when it has read what was there before, or has had [`READING_OUT`] for it. What is left behind all the same is
//! read by one more worker.

use std::io;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use super::{Fact, Plane, tell};
use crate::handover::{LineId, SeatId};
use crate::ids::WorkerId;
use crate::listen::{Flows, LeftBehind};

/// How long a worker may take to read the datagrams that are queued for it before it is told to leave, of the time that it has
/// for that at most a quarter: one whose event loop is blocked needs longer than others.
const READING_OUT: Duration = Duration::from_secs(2);
const LOOK_EVERY: Duration = Duration::from_millis(2);
/// How often what workers left behind is looked at.
const LOOK_AT_LEFT_EVERY: Duration = Duration::from_secs(1);

impl Plane {
    /// Returns a copy of the socket from which a worker reads.
    pub(super) fn flows_socket_for(&mut self, line: LineId, seat: SeatId) -> io::Result<OwnedFd> {
        let gone = || io::Error::from_raw_os_error(libc::EBADF);
        let (worker, slot) = self.peer(seat).map(|peer| (peer.worker, peer.slot)).ok_or_else(gone)?;
        let flows = self.port_mut(line).and_then(|port| port.listener.flows_mut());
        flows.ok_or_else(gone)?.give(worker, slot, &|_| {})
    }

    /// Takes the sockets of a listener from a worker that has closed it, or of all when it is gone.
    pub(super) fn release_flows(&mut self, worker: WorkerId, of: Option<LineId>) {
        for (index, port) in self.ports.iter_mut().enumerate() {
            let is_meant = of.is_none_or(|line| line.0 == index);
            let flows = port.as_mut().and_then(|port| port.listener.flows_mut());
            if let Some(flows) = flows.filter(|_| is_meant) {
                flows.release(worker);
            }
        }
        self.look_at_left_behind_soon();
    }

    /// Sends flows to the workers in rotation.
    pub(super) fn steer_flows(&mut self, line: LineId) {
        let serving = self.serving(line);
        if let Some(flows) = self.port_mut(line).and_then(|port| port.listener.flows_mut()) {
            flows.steer(|worker| serving.contains(&worker));
        }
    }

    /// Returns the workers in rotation that read there.
    fn serving(&self, line: LineId) -> Vec<WorkerId> {
        let peers = self.peers.iter().enumerate();
        let serving = peers.filter(|(index, _)| self.switchboard.serves(line, SeatId(*index)));
        serving.filter_map(|(_, peer)| peer.as_ref().map(|peer| peer.worker)).collect()
    }

    /// Tells a worker to leave, once it has read what is queued for it alone. Not at once: a datagram may be on its way to
    /// the socket that was chosen for it before.
    pub(super) fn disconnect_when_read(&mut self, seat: SeatId, within: Duration) {
        let by = self.now + READING_OUT.min(within / 4);
        let has_flows = self.own_flows(seat).next().is_some();
        match self.peer_mut(seat) {
            Some(peer) if has_flows => {
                peer.reads_out_by.get_or_insert(by);
                self.look_at_flows_at.get_or_insert(self.now + LOOK_EVERY);
            }
            Some(_) | None => self.disconnect(seat),
        }
    }

    /// Tells those to leave that have read what they had, or took too long.
    pub(super) fn look_at_flows(&mut self) {
        if self.look_at_flows_at.is_none_or(|at| at > self.now) {
            return;
        }
        self.look_at_flows_at = None;
        for index in 0..self.peers.len() {
            let seat = SeatId(index);
            let Some(by) = self.peer(seat).and_then(|peer| peer.reads_out_by) else { continue };
            if by > self.now && self.has_unread(seat) {
                self.look_at_flows_at = Some(self.now + LOOK_EVERY);
            } else {
                if let Some(peer) = self.peer_mut(seat) {
                    peer.reads_out_by = None;
                }
                self.disconnect(seat);
            }
        }
    }

    pub(super) fn next_flows_look(&self) -> Option<Instant> {
        self.look_at_flows_at.into_iter().chain(self.look_at_left_behind_at).min()
    }

    /// Workers have changed: what one of them has not read may be nobody's now.
    pub(super) fn look_at_left_behind_soon(&mut self) {
        if self.ports.iter().flatten().any(|port| port.listener.flows().is_some()) {
            self.look_at_left_behind_at.get_or_insert(self.now + LOOK_AT_LEFT_EVERY);
        }
    }

    /// Asks for a worker that reads what others left behind, or throws away what was left there for too long.
    pub(super) fn look_at_left_behind(&mut self) {
        if self.look_at_left_behind_at.is_none_or(|at| at > self.now) {
            return;
        }
        self.look_at_left_behind_at = None;
        for index in 0..self.ports.len() {
            let (line, now) = (LineId(index), self.now);
            let Some(port) = self.port(line).filter(|port| port.listener.flows().is_some()) else { continue };
            let (app, address) = (port.app, port.listener.address.to_string());
            let hold = self.apps.get(&app).and_then(|app| app.hold.limit()).unwrap_or(Duration::MAX);
            let serving = self.serving(line);
            let Some(flows) = self.port_mut(line).and_then(|port| port.listener.flows_mut()) else {
                continue;
            };
            match flows.look_for_left_behind(|worker| serving.contains(&worker), hold, now) {
                None => continue,
                Some(LeftBehind::Waits { slot, is_due: true }) => {
                    tell(&self.facts, Fact::Orphaned { app, address, count: 1, slot });
                }
                Some(LeftBehind::Waits { is_due: false, .. }) => {}
                Some(LeftBehind::ThrownAway { count }) => {
                    tell(&self.facts, Fact::HeldTooLong { app, address, count });
                }
            }
            self.look_at_left_behind_at = Some(now + LOOK_AT_LEFT_EVERY);
        }
    }

    /// Returns whether datagrams wait that only this worker can read.
    fn has_unread(&self, seat: SeatId) -> bool {
        let Some(peer) = self.peer(seat) else { return false };
        self.own_flows(seat).any(|flows| flows.waits_for(peer.worker))
    }

    /// Returns the sockets of the addresses that a worker reads from.
    fn own_flows(&self, seat: SeatId) -> impl Iterator<Item = &Flows> {
        let servers = self.peer(seat).into_iter().flat_map(|peer| peer.servers.values());
        servers.filter_map(|line| self.port(*line)?.listener.flows())
    }
}
