//! How many connections workers have open: who is asked, and what they say.

use worksong_channel::message::Extension;

use super::Plane;
use crate::handover::SeatId;
use crate::ids::AppId;

/// How long a worker waits between two reports at least.
const REPORT_EVERY: u64 = 50;
/// A limit of so many connections shortens that by a millisecond: what has ended makes room when it is reported, so a worker
/// takes no more new ones between two reports than its limit lets in.
const REPORT_SOONER: u64 = 10;

impl Plane {
    /// Asks a worker that can count for reports, where the number matters. It is asked again whenever it says what it
    /// can do, which is rare.
    pub(super) fn ask_to_count(&mut self, seat: SeatId) {
        let Some(peer) = self.peer(seat) else { return };
        if !peer.abilities.count {
            // It may have counted before.
            return self.switchboard.counts_no_more(seat);
        }
        let app = peer.worker.app;
        if self.counts_open(app) {
            self.switchboard.will_count(seat);
            self.limit_seat(seat);
            let every = self.report_every(app);
            self.send(seat, Extension::Count { every }.encode(), None);
        }
    }

    /// Returns how many milliseconds a worker of the app waits between two reports at least.
    fn report_every(&self, app: AppId) -> u64 {
        let limits = self.apps.get(&app).map(|app| app.limits).unwrap_or_default();
        let lowest = limits.per_worker.into_iter().chain(limits.per_app).min();
        lowest.map_or(REPORT_EVERY, |lowest| (lowest / REPORT_SOONER).clamp(1, REPORT_EVERY))
    }

    /// Returns true when it matters how many connections each worker of the app has open.
    fn counts_open(&self, app: AppId) -> bool {
        self.apps.get(&app).is_some_and(|app| app.policies.counts_open() || app.limits.is_any())
    }

    /// Believes what a worker says of how many connections it has open, if it counts them all.
    pub(super) fn on_open(&mut self, seat: SeatId, open: u64) {
        let counts = |peer: &super::Peer| peer.abilities.count && self.counts_open(peer.worker.app);
        if self.peer(seat).is_some_and(counts) {
            self.with_courier(|switchboard, now, courier| switchboard.counted(seat, open, now, courier));
        }
    }
}
