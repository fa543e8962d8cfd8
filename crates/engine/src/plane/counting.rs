//! How many connections workers have open: who is asked, and what they say.

use std::time::Duration;

use worksong_channel::message::Extension;

use super::Plane;
use crate::handover::SeatId;
use crate::ids::AppId;

/// How long a worker waits between two reports at least.
const REPORT_EVERY: Duration = Duration::from_millis(50);

impl Plane {
    /// Asks a worker that can count for reports, where the number matters. It is asked again whenever it says what it
    /// can do, which is rare.
    pub(super) fn ask_to_count(&mut self, seat: SeatId) {
        let Some(peer) = self.peer(seat).filter(|peer| peer.abilities.count) else { return };
        if self.counts_open(peer.worker.app) {
            self.send(seat, Extension::Count { every: REPORT_EVERY.as_millis() as u64 }.encode(), None);
        }
    }

    /// Returns true when it matters how many connections each worker of the app has open.
    fn counts_open(&self, app: AppId) -> bool {
        self.apps.get(&app).is_some_and(|app| app.policy.counts_open())
    }

    /// Believes what a worker says of how many connections it has open, if it counts them all.
    pub(super) fn on_open(&mut self, seat: SeatId, open: u64) {
        let counts = |peer: &super::Peer| peer.abilities.count && self.counts_open(peer.worker.app);
        if self.peer(seat).is_some_and(counts) {
            self.with_courier(|switchboard, now, courier| switchboard.counted(seat, open, now, courier));
        }
    }
}
