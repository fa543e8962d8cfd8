//! Pings: a worker that has connections and gets no new ones shows only so that its event loop turns.

use std::time::Duration;

use worksong_channel::message::Extension;

use super::Plane;
use crate::handover::SeatId;

/// How often workers in rotation are pinged. An unanswered ping counts as an unanswered hand-over does.
const PING_EVERY: Duration = Duration::from_secs(5);

impl Plane {
    /// Pings the workers that understand it, while there are any.
    pub(super) fn ping(&mut self) {
        if self.ping_at.is_none_or(|at| at > self.now) {
            return;
        }
        self.ping_at = None;
        for index in 0..self.peers.len() {
            let seat = SeatId(index);
            if !self.peer(seat).is_some_and(|peer| peer.abilities.ping) {
                continue;
            }
            self.ping_soon();
            self.ping_now(seat);
        }
    }

    /// Pings a worker, unless it owes an answer already.
    pub(super) fn ping_now(&mut self, seat: SeatId) {
        if self.switchboard.pinged(seat, self.now) {
            let seq = self.seq();
            if let Some(peer) = self.peer_mut(seat) {
                peer.ping = Some(seq);
            }
            self.send(seat, Extension::Ping { seq }.encode(), None);
        }
    }

    pub(super) fn ping_soon(&mut self) {
        self.ping_at.get_or_insert(self.now + PING_EVERY);
    }

    /// Only the last ping's answer counts: a worker cannot answer in advance.
    pub(super) fn on_pong(&mut self, seat: SeatId, ack: u64) {
        let Some(peer) = self.peer_mut(seat).filter(|peer| peer.ping == Some(ack)) else { return };
        peer.ping = None;
        self.with_courier(|switchboard, now, courier| switchboard.ponged(seat, now, courier));
    }
}
