//! The limit of holding connections while no worker of an app is ready.
//!
//! They wait in the kernel's queue and, few of them, in the switchboard. When that has lasted for the app's limit they
//! are closed, once a second, until a worker is ready; the listener stays open all the time. What workers accept by
//! themselves is none of this: their sockets may block, and the data plane never does.

use std::collections::BTreeSet;
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use rustix::fs::OFlags;

use super::accept::{Accepted, accept};
use super::port::Accepting;
use super::{Fact, Plane, PlaneApp, tell};
use crate::handover::LineId;
use crate::ids::{AppId, WorkerId};
use crate::listen::address_of;
use crate::spec::Policy;

/// How often connections are closed when the limit is over.
const CLOSE_EVERY: Duration = Duration::from_secs(1);
/// How many connections of one listener are closed at a time; as many as the primary asks its queue to hold.
const BATCH: u64 = 4096;
/// How many reads are done of what a client has sent that is sent away.
const READS: usize = 4;

/// For how long an app has had no ready worker.
#[derive(Debug)]
pub(super) struct Holding {
    /// `None`: connections wait for ever.
    limit: Option<Duration>,
    ready: BTreeSet<WorkerId>,
    /// When waiting connections are closed; nothing while a worker is ready.
    close_at: Option<Instant>,
}

impl Holding {
    /// A limit of zero is none.
    pub(super) fn new(limit: Duration, now: Instant) -> Self {
        let limit = Some(limit).filter(|limit| !limit.is_zero());
        Self { limit, ready: BTreeSet::new(), close_at: limit.and_then(|limit| now.checked_add(limit)) }
    }

    fn rotate(&mut self, worker: WorkerId, in_rotation: bool, now: Instant) {
        if in_rotation {
            self.ready.insert(worker);
            self.close_at = None;
        } else if self.ready.remove(&worker) && self.ready.is_empty() {
            self.close_at = self.limit.and_then(|limit| now.checked_add(limit));
        }
    }
}

impl PlaneApp {
    /// Returns when waiting connections are closed; those of an app that ends have another fate.
    fn close_at(&self) -> Option<Instant> {
        self.holding.close_at.filter(|_| self.closing.is_none())
    }
}

impl Plane {
    /// Notes who is ready.
    pub(super) fn hold(&mut self, worker: WorkerId, in_rotation: bool) {
        if let Some(app) = self.apps.get_mut(&worker.app) {
            app.holding.rotate(worker, in_rotation, self.now);
        }
    }

    pub(super) fn next_held_too_long(&self) -> Option<Instant> {
        self.apps.values().filter_map(PlaneApp::close_at).min()
    }

    /// Closes the connections of apps that have had no ready worker for too long.
    pub(super) fn close_held_too_long(&mut self) {
        let now = self.now;
        let is_due = |app: &PlaneApp| app.close_at().is_some_and(|at| at <= now);
        let due: Vec<AppId> = self.apps.iter().filter(|(_, app)| is_due(app)).map(|(id, _)| *id).collect();
        for app in due {
            self.close_held(app);
            if let Some(known) = self.apps.get_mut(&app) {
                known.holding.close_at = Some(now + CLOSE_EVERY);
            }
        }
    }

    fn close_held(&mut self, app: AppId) {
        for index in 0..self.ports.len() {
            let line = LineId(index);
            let Some(port) = self.port(line).filter(|port| port.app == app) else { continue };
            if port.accepting == Accepting::Shared {
                continue;
            }
            let queued = close_queued(&port.listener.socket);
            let count = self.switchboard.drop_waiting(line) + queued;
            let address = self.port(line).map(|port| port.listener.address.to_string());
            if let Some(address) = address.filter(|_| count > 0) {
                tell(&self.facts, Fact::HeldTooLong { app, address, count });
            }
        }
        // Their workers have not even asked for these.
        let Some(known) = self.apps.get(&app).filter(|known| known.policy == Policy::RoundRobin) else {
            return;
        };
        for socket in known.inherited.iter().filter(|socket| never_blocks(socket)) {
            let count = close_queued(socket);
            if count > 0 {
                let address = address_of(socket).map(|address| address.to_string()).unwrap_or_default();
                tell(&self.facts, Fact::HeldTooLong { app, address, count });
            }
        }
    }
}

/// Accepts and closes what waits at a listening socket. Returns how many that were.
fn close_queued(listener: impl AsFd) -> u64 {
    let mut count = 0;
    while count < BATCH {
        match accept(&listener) {
            Accepted::Connection(connection) => {
                read_off(&connection);
                count += 1;
            }
            Accepted::Gone => {}
            Accepted::Empty | Accepted::NoRoom | Accepted::Dead(_) => break,
        }
    }
    count
}

/// Reads what a client has sent: closing its connection would reset it otherwise.
fn read_off(connection: &OwnedFd) {
    let mut unread = [0; 4096];
    for _ in 0..READS {
        if !matches!(rustix::io::read(connection, &mut unread), Ok(1..)) {
            return;
        }
    }
}

fn never_blocks(socket: impl AsFd) -> bool {
    rustix::fs::fcntl_getfl(socket).is_ok_and(|flags| flags.contains(OFlags::NONBLOCK))
}
