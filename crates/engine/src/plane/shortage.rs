//! What becomes of connections while the system is short of descriptors or memory, and how that is told.
//!
//! Connections stay in the kernel's queues, which are asked again every [`RETRY`]. After [`PATIENCE`] those are shed that
//! there is no descriptor for. That something is short is told once, and that it is over once, however often it is missed
//! meanwhile.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::process::{Resource, getrlimit};

use super::accept::{Accepted, BATCH};
use super::port::{Accepting, EntranceId};
use super::{Fact, Plane, tell};
use crate::ids::AppId;
use crate::shortage::Shortage;

/// How soon a listener tries again after the process ran out of descriptors.
const RETRY: Duration = Duration::from_millis(20);
/// For how long connections are left in the kernel's queue, hoping for descriptors, before they are shed.
const PATIENCE: Duration = Duration::from_secs(1);
/// How often it is told how many were shed.
const TELL_EVERY: Duration = Duration::from_secs(1);
/// A shortage that can be measured is over when nothing was missed for this long, and there is enough again.
const OVER_AFTER: Duration = Duration::from_secs(1);
/// Of another one is known only that nothing was missed: for longer than workers that cannot be started wait.
const SURELY_OVER_AFTER: Duration = Duration::from_secs(20);
/// How many descriptors it takes to start a worker, with some to spare: with fewer, the shortage goes on.
const ENOUGH: usize = 16;

/// Listeners could not get a descriptor for a connection.
#[derive(Debug)]
pub(super) struct Starved {
    since: Instant,
    pub(super) retry_at: Instant,
}

/// The system is, or was a moment ago, short of something.
#[derive(Debug)]
pub(super) struct Episode {
    of: Shortage,
    since: Instant,
    /// When something was missed last.
    missed_at: Instant,
    /// Connections that were shed and not told of yet.
    shed: BTreeMap<AppId, u64>,
    /// When it is told how many were shed.
    tell_at: Instant,
}

impl Episode {
    fn over_at(&self) -> Instant {
        match self.of {
            Shortage::Descriptors | Shortage::SystemDescriptors => self.missed_at + OVER_AFTER,
            Shortage::Memory | Shortage::Processes => self.missed_at + SURELY_OVER_AFTER,
        }
    }
}

impl Plane {
    /// Notes that something could not be had, for a connection, a listener or a worker.
    pub(super) fn note_shortage(&mut self, of: Shortage) {
        let now = self.now;
        if let Some(episode) = &mut self.shortage {
            episode.missed_at = now;
            return;
        }
        let limit = getrlimit(Resource::Nofile).current.filter(|_| of == Shortage::Descriptors);
        tell(&self.facts, Fact::Shortage { of, limit });
        let shed = BTreeMap::new();
        self.shortage = Some(Episode { of, since: now, missed_at: now, shed, tell_at: now });
    }

    /// Returns when a shortage may be over, or what it cost is told.
    pub(super) fn next_shortage_look(&self) -> Option<Instant> {
        let episode = self.shortage.as_ref()?;
        let tell_at = (!episode.shed.is_empty()).then_some(episode.tell_at);
        Some(tell_at.map_or(episode.over_at(), |at| at.min(episode.over_at())))
    }

    /// Tells of a shortage that is over, and what it has cost until now.
    pub(super) fn look_at_shortage(&mut self) {
        let now = self.now;
        let Some(mut episode) = self.shortage.take_if(|episode| {
            episode.over_at() <= now || episode.tell_at <= now && !episode.shed.is_empty()
        }) else {
            return;
        };
        if !episode.shed.is_empty() {
            episode.tell_at = now + TELL_EVERY;
        }
        for (app, count) in std::mem::take(&mut episode.shed) {
            tell(&self.facts, Fact::Shed { app, count });
        }
        let is_quiet = episode.over_at() <= now;
        if is_quiet && self.has_enough() {
            let took = now.saturating_duration_since(episode.since);
            return tell(&self.facts, Fact::ShortageOver { of: episode.of, took });
        }
        if is_quiet {
            episode.missed_at = now;
        }
        self.shortage = Some(episode);
    }

    /// Returns true when there are descriptors for a worker.
    fn has_enough(&mut self) -> bool {
        self.spare = self.spare.take().or_else(|| spare().ok());
        let Some(spare) = &self.spare else { return false };
        let copies: Result<Vec<OwnedFd>, _> = (0..ENOUGH).map(|_| spare.try_clone()).collect();
        copies.is_ok()
    }

    /// Leaves connections in the kernel's queue for a moment: answers of workers free descriptors.
    pub(super) fn starve(&mut self, at: EntranceId, error: Errno) {
        let since = self.starved.as_ref().map_or(self.now, |starved| starved.since);
        self.note_shortage(Shortage::of(error).unwrap_or(Shortage::Memory));
        if self.now.saturating_duration_since(since) >= PATIENCE {
            self.shed(at);
        }
        self.end_oldest_looks(BATCH);
        self.end_oldest_turned_away(BATCH);
        self.starved = Some(Starved { since, retry_at: self.now + RETRY });
        self.set_accepting(at, Accepting::Paused);
    }

    /// Asks for nothing that needs a descriptor until there is a free one.
    pub(super) fn wait_for_descriptors(&mut self) {
        self.note_shortage(Shortage::Descriptors);
        self.starved.get_or_insert(Starved { since: self.now, retry_at: self.now + RETRY });
    }

    /// Closes queued connections, with the one descriptor that is kept for this.
    fn shed(&mut self, at: EntranceId) {
        let mut count = 0;
        let Some(app) = self.port(at.line).map(|port| port.app) else { return };
        self.spare = None;
        while count < BATCH as u64
            && let Accepted::Connection(connection, _client) = self.accept_at(at)
        {
            drop(connection);
            count += 1;
        }
        self.spare = spare().ok();
        // Without the spare one, all of them go on waiting.
        if count > 0
            && let Some(episode) = &mut self.shortage
        {
            *episode.shed.entry(app).or_default() += count;
        }
    }

    pub(super) fn retry_starved(&mut self) {
        let Some(starved) = &self.starved else { return };
        if starved.retry_at > self.now {
            return;
        }
        match spare() {
            // There are descriptors again: the patience begins anew the next time.
            Ok(free) => {
                self.starved = None;
                self.spare.get_or_insert(free);
            }
            Err(_still) => {
                let since = starved.since;
                self.starved = None;
                self.reopen_ports();
                self.starved = Some(Starved { since, retry_at: self.now + RETRY });
            }
        }
    }
}

/// Opens the descriptor that is given up to accept and close a connection when there is no other.
pub(super) fn spare() -> io::Result<OwnedFd> {
    Ok(File::open("/dev/null")?.into())
}
