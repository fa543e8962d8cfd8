//! How many connections wait in the kernel's queues, and who is told when they are many.
//!
//! Queues are looked at once a second at most, and only when something else has woken the loop, unless they are long or
//! nobody is accepting. Where workers accept without our hearing of it, the first connection wakes the loop, which looks
//! every second from then on until nothing waits any more.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use super::poll::{Interest, Poll, Token};
use super::port::{Accepting, Manner, Port};
use super::{Fact, Plane, PlaneApp, tell};
use crate::handover::LineId;
use crate::ids::{AppId, WorkerId};
use crate::listen::{Address, Arrivals, Change, Fullness, QueueLength, address_of, queue_length, queued};

/// How often queues are looked at.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// The queue of one listening socket, of TCP or with a path: connections that the kernel has completed and nobody has accepted.
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
#[derive(Debug)]
pub(super) struct Depths {
    /// Tells of connections at sockets from which workers accept without our hearing of it.
    arrivals: Arrivals,
    /// One has come there, and nothing was seen to be empty since.
    has_arrived: bool,
    looked_at: Option<Instant>,
    long: BTreeMap<QueueId, Fullness>,
}

/// A socket: which one it is of those that an app has for an address.
type QueueId = (AppId, String, usize);

impl Depths {
    pub(super) fn new(poll: &Poll) -> io::Result<Self> {
        let arrivals = Arrivals::new()?;
        poll.add(&arrivals, Token::Arrivals, Interest::READ)?;
        Ok(Self { arrivals, has_arrived: false, looked_at: None, long: BTreeMap::new() })
    }

    /// Tells of the next connection at a socket from which workers accept without our hearing of it.
    pub(super) fn watch(&self, socket: impl AsFd) {
        self.arrivals.watch(socket);
    }

    /// Forgets such a socket, which is about to be closed here.
    pub(super) fn forget(&self, socket: impl AsFd) {
        self.arrivals.forget(socket);
    }
}

impl Plane {
    /// A connection has come where workers accept without our hearing of it.
    pub(super) fn on_arrival(&mut self) {
        self.depths.arrivals.clear();
        if !std::mem::replace(&mut self.depths.has_arrived, true) {
            // It has a moment to be accepted.
            self.depths.looked_at = Some(self.now);
        }
    }

    /// Returns when queues have to be looked at, whatever else happens.
    pub(super) fn next_depth_look(&self) -> Option<Instant> {
        let is_paused = |port: &Port| port.entrances.iter().any(|one| one.accepting == Accepting::Paused);
        let is_needed = self.depths.has_arrived
            || !self.depths.long.is_empty()
            || self.ports.iter().flatten().any(is_paused);
        let last = self.depths.looked_at.unwrap_or(self.now);
        is_needed.then(|| last + LOOK_EVERY)
    }

    /// Waits for the next connection where workers accept without our hearing of it, unless some wait there now.
    fn watch_when_empty(&mut self) {
        let shared = self.ports.iter().flatten().filter(|port| port.manner == Manner::Shared);
        let shared = shared.flat_map(|port| port.listener.sockets());
        let inherited = self.apps.iter().filter(|(app, _)| !self.is_asked_for(**app));
        let sockets: Vec<_> = shared.chain(inherited.flat_map(|(_, known)| &known.inherited)).collect();
        // Those of datagrams have no queue of connections, and nothing is told of them.
        let sockets = sockets.into_iter().filter_map(|socket| Some((socket, queued(socket).ok()?)));
        let (waiting, empty): (Vec<_>, Vec<_>) = sockets.partition(|(_, queued)| *queued > 0);
        for (socket, _) in empty {
            self.depths.arrivals.watch(socket);
        }
        self.depths.has_arrived = !waiting.is_empty();
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
                let mut fullness = known.remove(&id).unwrap_or_default();
                match fullness.look(QueueLength { queued, backlog }, now) {
                    Change::Nothing => {}
                    Change::Fills => tell(&self.facts, Fact::QueueFills { app, address, queued, backlog }),
                    Change::IsOver { took, most } => {
                        tell(&self.facts, Fact::QueueOver { app, address, took, most });
                    }
                }
                if fullness.is_long() {
                    self.depths.long.insert(id, fullness);
                }
            }
        }
        // Their sockets are closed.
        for ((app, address, _), mut fullness) in known {
            if let Change::IsOver { took, most } = fullness.end(now) {
                tell(&self.facts, Fact::QueueOver { app, address, took, most });
            }
        }
        if self.depths.has_arrived {
            self.watch_when_empty();
        }
    }

    /// Returns the queues of all sockets that an app listens on.
    pub(super) fn queues_of(&self, app: AppId) -> Vec<Queue> {
        let lines = self.lines_of(app);
        if lines.is_empty() {
            let inherited = self.apps.get(&app).map_or(&[][..], |known: &PlaneApp| &known.inherited);
            let queue = |socket| {
                let address = address_of(socket).ok().filter(Address::takes_connections)?;
                queue_of(socket, address.to_string(), None)
            };
            return inherited.iter().filter_map(queue).collect();
        }
        lines.into_iter().flat_map(|line| self.queues_of_line(line)).collect()
    }

    fn queues_of_line(&self, line: LineId) -> Vec<Queue> {
        let port = self.port(line).filter(|port| port.listener.address.takes_connections());
        let Some(port) = port else { return Vec::new() };
        let sockets = port.entrances.iter().zip(port.listener.sockets());
        let queue = |(entrance, socket): (&super::port::Entrance, _)| {
            let worker = entrance.holder.and_then(|seat| self.peer(seat)).map(|peer| peer.worker);
            queue_of(socket, port.listener.address.to_string(), worker)
        };
        sockets.filter_map(queue).collect()
    }
}

fn queue_of(socket: &OwnedFd, address: String, worker: Option<WorkerId>) -> Option<Queue> {
    let QueueLength { queued, backlog } = queue_length(socket).ok()?;
    Some(Queue { address, worker, queued, backlog })
}
