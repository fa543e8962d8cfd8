//! Closing the connections of apps that have had no ready worker for too long.
//!
//! They wait in the kernel's queue and, few of them, in the switchboard; the listener stays open all the time. When it is
//! time is decided by [`Hold`](crate::handover::Hold). What workers accept by themselves is closed only where none of them
//! has the socket open.

use std::os::fd::{AsFd, OwnedFd};
use std::time::Instant;

use rustix::fs::OFlags;

use super::accept::{Accepted, accept};
use super::port::Manner;
use super::{Fact, Plane, PlaneApp, tell};
use crate::handover::LineId;
use crate::ids::AppId;
use crate::listen::{Address, address_of};

/// How many connections of one listener are closed at a time; as many as the primary asks its queue to hold.
const BATCH: u64 = 4096;
/// How many reads are done of what a client has sent that is sent away.
const READS: usize = 4;

impl PlaneApp {
    /// Returns when waiting connections are closed; those of an app that ends have another fate.
    fn holds_until(&self) -> Option<Instant> {
        self.hold.next_deadline().filter(|_| self.closing.is_none())
    }
}

impl Plane {
    pub(super) fn next_held_too_long(&self) -> Option<Instant> {
        self.apps.values().filter_map(PlaneApp::holds_until).min()
    }

    /// Closes the connections of apps that have had no ready worker for too long.
    pub(super) fn close_held_too_long(&mut self) {
        let now = self.now;
        let is_due = |app: &mut PlaneApp| app.closing.is_none() && app.hold.is_over(now);
        let due: Vec<AppId> =
            self.apps.iter_mut().filter_map(|(id, app)| is_due(app).then_some(*id)).collect();
        for app in due {
            self.close_held(app);
        }
    }

    fn close_held(&mut self, app: AppId) {
        let lines = self.lines_of(app).into_iter().filter(|line| !self.is_datagram(*line));
        let (theirs, ours): (Vec<LineId>, Vec<LineId>) = lines.partition(|line| self.workers_accept(*line));
        for line in ours {
            let Some(port) = self.port(line) else { continue };
            let (address, queued) = (
                port.listener.address.to_string(),
                port.listener.sockets().iter().map(close_queued).sum::<u64>(),
            );
            let count = queued + self.switchboard.drop_waiting(line);
            self.tell_held(app, address, count);
        }
        // What no worker has asked for, unless it is what they have.
        let inherited = self.apps.get(&app).filter(|_| theirs.is_empty()).map(|app| &app.inherited);
        for socket in inherited.into_iter().flatten() {
            let address = address_of(socket).map(|address| address.to_string()).unwrap_or_default();
            self.tell_held(app, address, close_queued(socket));
        }
    }

    fn is_datagram(&self, line: LineId) -> bool {
        self.port(line).is_some_and(|port| matches!(port.listener.address, Address::Udp(_)))
    }

    /// Returns true when workers have the socket itself, ready or not: its connections are theirs.
    fn workers_accept(&self, line: LineId) -> bool {
        let is_shared = self.port(line).is_some_and(|port| port.manner == Manner::Shared);
        is_shared && self.switchboard.has_members(line)
    }

    pub(super) fn tell_held(&self, app: AppId, address: String, count: u64) {
        if count > 0 {
            tell(&self.facts, Fact::HeldTooLong { app, address, count });
        }
    }
}

/// Accepts and closes what waits at a listening socket, unless that may block. Returns how many that were.
fn close_queued(listener: impl AsFd) -> u64 {
    let mut count = 0;
    if !never_blocks(&listener) {
        return count;
    }
    for _ in 0..BATCH {
        match accept(&listener) {
            Accepted::Connection(connection, _client) => {
                read_off(&connection);
                count += 1;
            }
            Accepted::Gone => {}
            Accepted::Empty | Accepted::NoRoom(_) | Accepted::Dead(_) => break,
        }
    }
    count
}

/// Reads what a client has sent: closing its connection would reset it otherwise.
pub(crate) fn read_off(connection: &OwnedFd) {
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
