//! How many connections wait in the kernel's queues, and who is told when they are many.
//!
//! Queues are looked at once a second at most, and only when something else has woken the loop, unless they are long,
//! nobody is accepting, or workers accept without our hearing of it.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use super::port::{Accepting, Manner};
use super::{Fact, Plane, PlaneApp, tell};
use crate::handover::LineId;
use crate::ids::{AppId, WorkerId};
use crate::listen::{Address, address_of, tcp_info};

/// How often queues are looked at.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// The queue of one listening TCP socket: connections that the kernel has completed and nobody has accepted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Queue {
    /// Where it listens.
    pub address: String,
    /// The worker that accepts from it, where each has a socket of its own (policy `kernel`).
    pub worker: Option<WorkerId>,
    /// How many wait.
    pub queued: u32,
    /// How many may; the kernel lets in one more, and leaves others to try again.
    pub backlog: u32,
}

/// The queues that are long, and when they were looked at.
#[derive(Debug, Default)]
pub(super) struct Depths {
    looked_at: Option<Instant>,
    long: BTreeMap<QueueId, Long>,
}

/// A socket: which one it is of those that an app has for an address.
type QueueId = (AppId, String, usize);

/// A queue that is more than half full, or was, and has not become much shorter.
#[derive(Clone, Copy, Debug)]
struct Long {
    since: Instant,
    most: u32,
}

/// What a look at a queue means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Change {
    Nothing,
    Fills,
    StaysLong,
    IsOver,
}

fn change(is_long: bool, queued: u32, backlog: u32) -> Change {
    let (queued, backlog) = (u64::from(queued), u64::from(backlog));
    match is_long {
        false if queued * 2 > backlog => Change::Fills,
        false => Change::Nothing,
        // Not at once: it would be told again and again.
        true if queued * 4 > backlog => Change::StaysLong,
        true => Change::IsOver,
    }
}

impl Plane {
    /// Returns when queues have to be looked at, whatever else happens.
    pub(super) fn next_depth_look(&self) -> Option<Instant> {
        let is_needed = !self.depths.long.is_empty()
            || self.ports.iter().flatten().any(|port| match port.manner {
                Manner::Shared => matches!(port.listener.address, Address::Tcp(_)),
                Manner::HandedOver | Manner::Spread => {
                    port.entrances.iter().any(|entrance| entrance.accepting == Accepting::Paused)
                }
            })
            || self.apps.keys().any(|app| !self.is_asked_for(*app));
        let last = self.depths.looked_at.unwrap_or(self.now);
        is_needed.then(|| last + LOOK_EVERY)
    }

    /// Returns false while no worker has asked for the `--listen` sockets of an app: it may have inherited them.
    fn is_asked_for(&self, app: AppId) -> bool {
        let has_inherited = self.apps.get(&app).is_some_and(|known| !known.inherited.is_empty());
        !has_inherited || !self.lines_of(app).is_empty()
    }

    /// Tells of queues that have become long, and of those that are so no more.
    pub(super) fn look_at_depths(&mut self) {
        let now = self.now;
        if self.depths.looked_at.is_some_and(|last| now < last + LOOK_EVERY) {
            return;
        }
        self.depths.looked_at = Some(now);
        let mut known = std::mem::take(&mut self.depths.long);
        let apps: Vec<AppId> = self.apps.keys().copied().collect();
        for app in apps {
            for (index, Queue { address, queued, backlog, .. }) in self.queues_of(app).into_iter().enumerate()
            {
                let id = (app, address.clone(), index);
                let long = known.remove(&id);
                match (change(long.is_some(), queued, backlog), long) {
                    (Change::Nothing | Change::IsOver, None) => {}
                    (Change::Fills | Change::StaysLong, None) => {
                        self.depths.long.insert(id, Long { since: now, most: queued });
                        tell(&self.facts, Fact::QueueFills { app, address, queued, backlog });
                    }
                    (Change::Fills | Change::StaysLong, Some(Long { since, most })) => {
                        self.depths.long.insert(id, Long { since, most: most.max(queued) });
                    }
                    (Change::Nothing | Change::IsOver, Some(Long { since, most })) => {
                        let took = now.saturating_duration_since(since);
                        tell(&self.facts, Fact::QueueOver { app, address, took, most });
                    }
                }
            }
        }
        // Their sockets are closed.
        for ((app, address, _), Long { since, most }) in known {
            let took = now.saturating_duration_since(since);
            tell(&self.facts, Fact::QueueOver { app, address, took, most });
        }
    }

    /// Returns the queues of all TCP sockets that an app listens on.
    pub(super) fn queues_of(&self, app: AppId) -> Vec<Queue> {
        let lines = self.lines_of(app);
        if lines.is_empty() {
            let inherited = self.apps.get(&app).map_or(&[][..], |known: &PlaneApp| &known.inherited);
            let queue = |socket| {
                let address = address_of(socket).ok().filter(|address| matches!(address, Address::Tcp(_)))?;
                queue_of(socket, address.to_string(), None)
            };
            return inherited.iter().filter_map(queue).collect();
        }
        lines.into_iter().flat_map(|line| self.queues_of_line(line)).collect()
    }

    fn queues_of_line(&self, line: LineId) -> Vec<Queue> {
        let tcp = self.port(line).filter(|port| matches!(port.listener.address, Address::Tcp(_)));
        let Some(port) = tcp else { return Vec::new() };
        let sockets = port.entrances.iter().zip(port.listener.sockets());
        let queue = |(entrance, socket): (&super::port::Entrance, _)| {
            let worker = entrance.holder.and_then(|seat| self.peer(seat)).map(|peer| peer.worker);
            queue_of(socket, port.listener.address.to_string(), worker)
        };
        sockets.filter_map(queue).collect()
    }
}

fn queue_of(socket: &std::os::fd::OwnedFd, address: String, worker: Option<WorkerId>) -> Option<Queue> {
    // For a listening socket the kernel puts the length of its queue and its limit here (`tcp_get_info`).
    let info = tcp_info(socket).ok()?;
    Some(Queue { address, worker, queued: info.tcpi_unacked, backlog: info.tcpi_sacked })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_queue_is_long_from_one_half_to_one_quarter() {
        assert_eq!(change(false, 64, 128), Change::Nothing);
        assert_eq!(change(false, 65, 128), Change::Fills);
        assert_eq!(change(true, 33, 128), Change::StaysLong);
        assert_eq!(change(true, 32, 128), Change::IsOver);
        assert_eq!(change(false, 0, 0), Change::Nothing);
    }
}
