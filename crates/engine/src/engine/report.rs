//! What a reload did to connections, told when the last worker that it replaced is gone.
//!
//! It says what is known and nothing else: an old worker that speaks no more than Node's protocol, or none, and had to be
//! ended, had nobody knows how many connections.

use std::time::Instant;

use tokio::sync::oneshot;

use super::control::{AppState, Control, Note};
use crate::event::Event;
use crate::handover::Tally;
use crate::ids::{AppId, Generation, WorkerId};
use crate::plane::Command;
use crate::spec::Policy;

/// A reload that runs, or whose old workers have not all ended.
pub(super) struct Report {
    generation: Generation,
    began: Instant,
    /// What had happened before it began; `None` until the data plane has said so.
    before: Option<Tally>,
    /// Every slot has a ready worker of the new generation.
    is_done: bool,
    is_asked: bool,
    /// How many connections of old workers were cut; `None` when one of them cannot have said.
    cut: Option<u64>,
}

impl Control {
    /// Begins to count; what an earlier reload has not told by now is never told.
    pub(super) fn begin_report(&mut self, app: AppId, generation: Generation) {
        let Some(state) = self.apps.get_mut(&app) else { return };
        state.report = Some(Report {
            generation,
            began: Instant::now(),
            before: None,
            is_done: false,
            is_asked: false,
            cut: Some(0),
        });
        self.count_for_report(app, generation);
    }

    pub(super) fn drop_report(&mut self, app: AppId) {
        if let Some(state) = self.apps.get_mut(&app) {
            state.report = None;
        }
    }

    /// The reload has its workers; its report waits for the end of the old ones.
    pub(super) fn complete_report(&mut self, app: AppId) {
        if let Some(report) = self.apps.get_mut(&app).and_then(|state| state.report.as_mut()) {
            report.is_done = true;
        }
        self.end_report_when_settled(app);
    }

    /// Counts what a gone worker took with it. It is still known.
    pub(super) fn report_end_of(&mut self, worker: WorkerId) {
        let Some(state) = self.apps.get_mut(&worker.app) else { return };
        let Some((known, report)) = state.workers.get(&worker).zip(state.report.as_mut()) else { return };
        if known.generation < report.generation {
            // One that was not forced has ended when its last connection had, as far as a channel tells.
            let has_channel = state.spec.dialect.has_channel();
            let cut = if known.was_forced { known.open } else { has_channel.then_some(0) };
            report.cut = report.cut.zip(cut).map(|(all, cut): (u64, u64)| all.saturating_add(cut));
        }
    }

    pub(super) fn end_report_when_settled(&mut self, app: AppId) {
        let Some(state) = self.apps.get_mut(&app) else { return };
        let Some(report) = &mut state.report else { return };
        let is_old = |generation: Generation| generation < report.generation;
        let is_settled = report.is_done && !state.workers.values().any(|worker| is_old(worker.generation));
        if is_settled && !std::mem::replace(&mut report.is_asked, true) {
            let generation = report.generation;
            self.count_for_report(app, generation);
        }
    }

    /// Asks the data plane what has happened so far; the answer is a note.
    fn count_for_report(&mut self, app: AppId, generation: Generation) {
        let (tally, counted) = oneshot::channel();
        self.plane.send(Command::Count { app: Some(app), tally });
        let notes = self.notes.clone();
        tokio::spawn(async move {
            // Without an answer the data plane is gone, which is told in another way.
            if let Ok(tally) = counted.await {
                let _ended = notes.send(Note::Counted { app, generation, tally });
            }
        });
    }

    pub(super) fn on_counted(&mut self, app: AppId, generation: Generation, now: Tally) {
        let Some(state) = self.apps.get_mut(&app) else { return };
        let Some(mut report) = state.report.take_if(|report| report.generation == generation) else { return };
        match report.before {
            None => {
                report.before = Some(now);
                state.report = Some(report);
            }
            Some(before) => {
                let event = tell(&report, state, before, now);
                self.emit(app, event);
            }
        }
    }
}

fn tell(report: &Report, state: &AppState, before: Tally, now: Tally) -> Event {
    let has_channel = state.spec.dialect.has_channel();
    let hands_over = has_channel && state.spec.policy == Policy::RoundRobin;
    // A listener that was closed meanwhile took its numbers with it.
    let since = |count: fn(&Tally) -> u64| count(&now).saturating_sub(count(&before));
    Event::ReloadReport {
        generation: report.generation,
        workers: state.workers.values().filter(|worker| worker.generation == report.generation).count(),
        took: report.began.elapsed(),
        handed_over: hands_over.then(|| since(|tally| tally.handed_over)),
        moved: has_channel.then(|| since(|tally| tally.moved)),
        redispatched: hands_over.then(|| since(|tally| tally.redispatched)),
        cut: report.cut,
    }
}
