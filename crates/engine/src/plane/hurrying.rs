//! Workers that leave and have little time left.
//!
//! A connection moves when it is idle, and only one at a time: where clients never pause, or the machine is very busy, not all
//! of them do before the worker is ended. So after half of the time that it has a worker is told to hurry: what it answers
//! from then on says that the connection ends. It goes on giving what is idle, also where connections wait for a worker.

use std::time::{Duration, Instant};

use worksong_channel::message::Extension;

use super::Plane;
use super::peer::Stage;
use crate::handover::SeatId;

/// Whether a worker has little time left to leave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Haste {
    /// It stays, or has time enough.
    None,
    /// It has to hurry from then on.
    From(Instant),
    /// It was told to.
    Hurries,
}

impl Plane {
    /// Lets a worker that is told to leave hurry after a while, if it still has connections then.
    pub(super) fn hurry_after(&mut self, seat: SeatId, time: Duration) {
        // Beyond the clock's end nobody has to hurry.
        let Some(at) = self.now.checked_add(time) else { return };
        if let Some(peer) = self.peer_mut(seat).filter(|peer| peer.haste == Haste::None) {
            peer.haste = Haste::From(at);
            self.look_at_haste_at = Some(self.look_at_haste_at.map_or(at, |sooner| sooner.min(at)));
        }
    }

    /// Lets those hurry whose time has come.
    pub(super) fn hurry_those_in_time(&mut self) {
        if self.look_at_haste_at.is_none_or(|at| at > self.now) {
            return;
        }
        let mut next: Option<Instant> = None;
        for index in 0..self.peers.len() {
            let seat = SeatId(index);
            match self.peer(seat).map(|peer| peer.haste) {
                Some(Haste::From(at)) if at <= self.now => self.hurry(seat),
                Some(Haste::From(at)) => next = Some(next.map_or(at, |sooner| sooner.min(at))),
                Some(Haste::None | Haste::Hurries) | None => {}
            }
        }
        self.look_at_haste_at = next;
    }

    fn hurry(&mut self, seat: SeatId) {
        let Some(peer) = self.peer_mut(seat) else { return };
        peer.haste = Haste::Hurries;
        if peer.stage == Stage::Told && peer.abilities.drain && !peer.keeps_all {
            self.send(seat, Extension::Hurry.encode(), None);
        }
    }
}
