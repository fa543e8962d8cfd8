//! Connections that limits keep out: they wait, or are turned away.
//!
//! Whether one has to is decided by the [switchboard](crate::handover). Here it is done, and told once when it begins and
//! once when it is over, however many connections meet a limit meanwhile.

use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::port::EntranceId;
use super::{Fact, Plane, PlaneApp, tell};
use crate::handover::{CLOSE_EVERY, Limits, LineId, Reception, SeatId};
use crate::ids::AppId;
use crate::spec::Overload;
use crate::sticky::Key;

/// An overload is over when no connection has met a limit for this long.
const OVER_AFTER: Duration = Duration::from_secs(1);

/// Connections meet a limit.
#[derive(Clone, Copy, Debug)]
pub(super) struct Overloaded {
    since: Instant,
    /// When one did so last.
    met_at: Instant,
    /// How many were turned away.
    turned_away: u64,
}

impl PlaneApp {
    /// Returns how many connections of the app may be open, if that is limited.
    pub(super) fn limits(&self, app: AppId) -> Option<Limits> {
        let limits = Limits { app, per_worker: self.limits.per_worker, per_app: self.limits.per_app };
        self.limits.is_any().then_some(limits)
    }
}

impl Plane {
    /// Keeps a worker's open connections within the limits of its app.
    pub(super) fn limit_seat(&mut self, seat: SeatId) {
        let Some(app) = self.peer(seat).map(|peer| peer.worker.app) else { return };
        if let Some(limits) = self.apps.get(&app).and_then(|known| known.limits(app)) {
            self.switchboard.limit_seat(seat, limits);
        }
    }

    /// Returns true when the next connection of this line is not let in and does not wait either.
    pub(super) fn turns_away(&self, line: LineId) -> bool {
        self.overload_of(line).is_some_and(|overload| overload != Overload::Wait)
            && self.switchboard.is_overloaded(line, self.now)
    }

    /// Closes a connection that no limit lets in, as its client understands it best.
    pub(super) fn turn_away(&mut self, line: LineId, connection: OwnedFd) {
        self.switchboard.turn_away(line);
        self.send_away(line, connection);
    }

    /// Does the same with a connection that was looked at.
    pub(super) fn turn_looked_at_away(&mut self, line: LineId, connection: OwnedFd) {
        self.switchboard.turn_looked_at_away(line);
        self.send_away(line, connection);
    }

    fn send_away(&mut self, line: LineId, connection: OwnedFd) {
        self.note_limit(line, 1);
        match self.overload_of(line) {
            Some(Overload::Unavailable) => self.answer_unavailable(connection),
            Some(Overload::Reset | Overload::Wait) | None => super::turning_away::reset(connection),
        }
    }

    /// Returns true when the worker is at its limit where a connection belongs, and it does not wait.
    pub(super) fn is_kept_out(&mut self, line: LineId, key: Option<Key>) -> bool {
        let Some(key) = key else { return false };
        match self.switchboard.reception(line, key, self.now) {
            Reception::Free => false,
            Reception::Crowded => true,
            Reception::Full => {
                self.note_limit(line, 0);
                self.overload_of(line).is_some_and(|overload| overload != Overload::Wait)
            }
        }
    }

    /// Returns when the next connection has waited too long for a worker that is at its limit.
    pub(super) fn next_kept_out_too_long(&self) -> Option<Instant> {
        let next = |(app, known): (&AppId, &PlaneApp)| {
            let hold = known.hold.limit().filter(|_| known.limits.is_any() && known.closing.is_none())?;
            let since =
                self.lines_of(*app).into_iter().filter_map(|line| self.switchboard.kept_out_since(line));
            let due = since.min()?.checked_add(hold)?;
            Some(known.closed_at.map_or(due, |last| due.max(last + CLOSE_EVERY)))
        };
        self.apps.iter().filter_map(next).min()
    }

    /// Closes connections that have waited too long for a worker that is at its limit, while others have room.
    pub(super) fn close_kept_out(&mut self) {
        let now = self.now;
        if self.next_kept_out_too_long().is_none_or(|at| at > now) {
            return;
        }
        let apps: Vec<AppId> = self.apps.keys().copied().collect();
        for app in apps {
            let Some(known) = self.apps.get_mut(&app) else { continue };
            let Some(since) = known.hold.limit().and_then(|hold| now.checked_sub(hold)) else { continue };
            known.closed_at = Some(now);
            for line in self.lines_of(app) {
                let count = self.switchboard.drop_kept_out(line, since);
                let address = self.port(line).map(|port| port.listener.address.to_string());
                self.tell_held(app, address.unwrap_or_default(), count);
            }
        }
    }

    /// Notes that a connection of this line has met a limit, and waits.
    pub(super) fn note_waiting(&mut self, line: LineId) {
        if self.switchboard.is_overloaded(line, self.now) {
            self.note_limit(line, 0);
        }
    }

    fn note_limit(&mut self, line: LineId, turned_away: u64) {
        let (now, Some(app)) = (self.now, self.port(line).map(|port| port.app)) else { return };
        let open = self.switchboard.engaged(app);
        let Some(known) = self.apps.get_mut(&app) else { return };
        if known.overloaded.is_none() {
            tell(&self.facts, Fact::Overloaded { app, open });
        }
        let overloaded =
            known.overloaded.get_or_insert(Overloaded { since: now, met_at: now, turned_away: 0 });
        overloaded.met_at = now;
        overloaded.turned_away += turned_away;
    }

    fn overload_of(&self, line: LineId) -> Option<Overload> {
        Some(self.apps.get(&self.port(line)?.app)?.limits.overload)
    }

    /// Returns when it is looked at next whether an overload is over.
    pub(super) fn next_overload_over(&self) -> Option<Instant> {
        let ends = self.apps.values().filter_map(|app| app.overloaded);
        ends.map(|overloaded| overloaded.met_at + OVER_AFTER).min()
    }

    /// Tells of overloads that are over. Connections that wait count as meeting a limit all the time.
    pub(super) fn end_overloads(&mut self) {
        let now = self.now;
        let is_due = |known: &PlaneApp| known.overloaded.is_some_and(|one| one.met_at + OVER_AFTER <= now);
        let due: Vec<AppId> =
            self.apps.iter().filter(|(_, known)| is_due(known)).map(|(id, _)| *id).collect();
        for app in due {
            let goes_on = self.lines_of(app).into_iter().any(|line| self.has_kept_out(line));
            let Some(known) = self.apps.get_mut(&app) else { continue };
            match known.overloaded.as_mut() {
                Some(overloaded) if goes_on => overloaded.met_at = now,
                Some(overloaded) => {
                    let took = overloaded.met_at.saturating_duration_since(overloaded.since);
                    let turned_away = overloaded.turned_away;
                    known.overloaded = None;
                    tell(&self.facts, Fact::OverloadOver { app, took, turned_away });
                }
                None => {}
            }
        }
    }

    /// Limits the time that connections wait while no worker may take one, as if none were ready.
    pub(super) fn hold_kept_out(&mut self) {
        let pressed: Vec<AppId> =
            self.apps.iter().filter(|(_, app)| app.limits.is_any()).map(|(id, _)| *id).collect();
        for app in pressed {
            let lines = self.lines_of(app);
            let is_overloaded = |line| self.switchboard.is_overloaded(line, self.now);
            let now = self.now;
            let is_pressed = self.apps.get(&app).is_some_and(|known| known.overloaded.is_some());
            let is_blocked = is_pressed && lines.into_iter().any(is_overloaded);
            if let Some(known) = self.apps.get_mut(&app) {
                known.hold.block(is_blocked, now);
            }
        }
    }

    /// Returns true when limits keep connections of this line waiting.
    fn has_kept_out(&self, line: LineId) -> bool {
        let has_queued = || {
            let entrances = self.port(line).into_iter().flat_map(|port| port.own_entrances(line));
            entrances.into_iter().any(|at| self.has_queued(at))
        };
        self.switchboard.is_overloaded(line, self.now) && (self.switchboard.is_waiting(line) || has_queued())
    }

    fn has_queued(&self, at: EntranceId) -> bool {
        let Some(socket) = self.socket(at) else { return false };
        let mut queue = [PollFd::new(socket, PollFlags::IN)];
        poll(&mut queue, Some(&Timespec::default())).is_ok_and(|ready| ready > 0)
    }
}
