//! Workers that accept by themselves and cannot be pinged: whether they do is seen by what waits for them.
//!
//! The kernel does not count what a worker accepts. So when connections wait for one at several looks in a row, the oldest
//! is taken from its queue and handed to whoever takes it. If that one had waited for longer than a worker with much to do
//! needs, its worker stands still: it gets nothing new for a while, and then a chance, again and again.

use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use super::Plane;
use super::accept::Accepted;
use super::port::{Entrance, EntranceId};
use super::spreading::STILL_AFTER;
use crate::listen::tcp_info;

/// At how many looks in a row connections wait for a worker before its oldest one is looked at.
const SUSPICIOUS: u32 = 3;
/// How long a worker rests that stands still; doubled each time, while it does.
const FIRST_REST: Duration = Duration::from_millis(50);
const LONGEST_REST: Duration = Duration::from_secs(1);

/// What is known of a queue whose worker cannot be pinged.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Suspicion {
    /// At how many looks in a row connections have waited there.
    looks: u32,
    rest: Option<Rest>,
}

#[derive(Clone, Copy, Debug)]
struct Rest {
    length: Duration,
    until: Instant,
}

impl Suspicion {
    /// Notes that nothing waits.
    pub(super) fn is_unfounded(&mut self) {
        self.looks = 0;
    }

    /// Returns true when it is time to look at what waits.
    fn is_due(&mut self) -> bool {
        self.looks += 1;
        let is_due = self.looks >= SUSPICIOUS;
        if is_due {
            self.looks = 0;
        }
        is_due
    }

    /// Returns until when the worker rests now.
    fn rest(&mut self, now: Instant) -> Instant {
        let again = self.rest.filter(|last| now < last.until + LONGEST_REST);
        let length = again.map_or(FIRST_REST, |last| (last.length * 2).min(LONGEST_REST));
        self.rest = Some(Rest { length, until: now + length });
        now + length
    }
}

impl Plane {
    /// Notes that connections wait for a worker that cannot be pinged, and lets it rest when it does not accept them.
    pub(super) fn suspect(&mut self, at: EntranceId) {
        let now = self.now;
        let Some(entrance) = self.entrance_mut(at) else { return };
        let (is_due, Some(seat)) = (entrance.suspicion.is_due(), entrance.holder) else { return };
        // What nobody else takes is as well off where it is.
        if !is_due || !self.switchboard.has_other_taker(at.line, seat, now) {
            return;
        }
        let Accepted::Connection(oldest, _client) = self.accept_at(at) else { return };
        if waited(&oldest) >= STILL_AFTER {
            let until = self.entrance_mut(at).map(|entrance| entrance.suspicion.rest(now));
            if let Some(until) = until {
                self.switchboard.rest(seat, until);
            }
        }
        self.connect_to(at.line, oldest, None);
    }

    pub(super) fn entrance_mut(&mut self, at: EntranceId) -> Option<&mut Entrance> {
        self.port_mut(at.line)?.entrances.get_mut(at.index)
    }
}

/// Returns how long a connection has waited at least: since its client was last heard of.
fn waited(connection: &OwnedFd) -> Duration {
    let heard = tcp_info(connection).map(|info| info.tcpi_last_ack_recv.max(info.tcpi_last_data_recv));
    heard.map_or(Duration::ZERO, |milliseconds| Duration::from_millis(milliseconds.into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rests_grow_while_a_worker_stands_still_and_begin_anew_later() {
        let mut suspicion = Suspicion::default();
        let mut now = Instant::now();
        let mut lengths = Vec::new();
        for _ in 0..6 {
            let until = suspicion.rest(now);
            lengths.push((until - now).as_millis());
            now = until + Duration::from_millis(20);
        }
        assert_eq!(lengths, [50, 100, 200, 400, 800, 1000]);
        now += LONGEST_REST;
        assert_eq!(suspicion.rest(now) - now, FIRST_REST);
    }

    #[test]
    fn what_waits_at_some_looks_in_a_row_is_looked_at() {
        let mut suspicion = Suspicion::default();
        assert_eq!([(); 4].map(|()| suspicion.is_due()), [false, false, true, false]);
        suspicion.is_unfounded();
        assert_eq!([(); 3].map(|()| suspicion.is_due()), [false, false, true]);
    }
}
