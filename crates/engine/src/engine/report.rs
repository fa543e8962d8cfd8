//! What a reload did to connections, told when the last worker that it replaced is gone.
//!
//! It says what is known and nothing else: an old worker that speaks no more than Node's protocol, or none, had nobody knows
//! how many connections when it ended.

use std::time::Instant;

use tokio::sync::oneshot;

use super::control::{Control, Note};
use super::state::AppState;
use crate::event::Event;
use crate::handover::Tally;
use crate::ids::{AppId, Generation};
use crate::plane::{AppCount, Command};

/// A reload that runs, or whose old workers have not all ended.
pub(super) struct Report {
    generation: Generation,
    began: Instant,
    /// What had happened before it began; `None` until the data plane has said so.
    before: Option<AppCount>,
    /// How many workers the new generation has, once every slot has a ready one.
    workers: Option<usize>,
    is_asked: bool,
    /// How many connections of old workers were cut; `None` when one of them cannot have said.
    cut: Option<u64>,
}

/// What an event means for the reports.
#[derive(Clone, Copy)]
pub(super) enum ReportStep {
    Begin(Generation),
    Complete(Generation),
    Drop(Generation),
    /// A worker of this generation is gone, and has cut so many connections.
    Lose(Generation, Option<u64>),
}

impl ReportStep {
    pub(super) fn of(event: &Event) -> Option<Self> {
        match event {
            Event::ReloadStarted { generation } => Some(Self::Begin(*generation)),
            Event::ReloadDone { generation, .. } => Some(Self::Complete(*generation)),
            Event::ReloadFailed { generation, .. } => Some(Self::Drop(*generation)),
            Event::Unkillable { worker, .. } => Some(Self::Lose(worker.generation, None)),
            Event::Exit { worker, cut, .. } => Some(Self::Lose(worker.generation, *cut)),
            Event::SpawnFailed { worker, .. } => Some(Self::Lose(worker.generation, Some(0))),
            _ => None,
        }
    }
}

impl Control {
    /// Returns what an event means for the reports. A worker that was given up is lost once.
    pub(super) fn report_step(&mut self, app: AppId, event: &Event) -> Option<ReportStep> {
        if let Event::Unkillable { worker, .. } | Event::Exit { worker, .. } = event
            && let Some(known) = self.apps.get_mut(&app).and_then(|app| app.workers.get_mut(&worker.id))
        {
            if known.given_up {
                return None;
            }
            known.given_up = matches!(event, Event::Unkillable { .. });
        }
        ReportStep::of(event)
    }

    /// Follows the reloads of an app.
    pub(super) fn report(&mut self, app: AppId, step: ReportStep) {
        match step {
            ReportStep::Begin(generation) => self.begin_report(app, generation),
            ReportStep::Complete(generation) => self.complete_report(app, generation),
            ReportStep::Drop(generation) => self.drop_report(app, generation),
            ReportStep::Lose(generation, cut) => self.lose(app, generation, cut),
        }
    }

    /// Begins to count. Reports of earlier reloads may still wait for workers that take their time.
    fn begin_report(&mut self, app: AppId, generation: Generation) {
        let Some(state) = self.apps.get_mut(&app) else { return };
        state.reports.push(Report {
            generation,
            began: Instant::now(),
            before: None,
            workers: None,
            is_asked: false,
            cut: Some(0),
        });
        self.count_for_report(app, generation);
    }

    fn drop_report(&mut self, app: AppId, generation: Generation) {
        if let Some(state) = self.apps.get_mut(&app) {
            state.reports.retain(|report| report.generation != generation);
        }
    }

    /// The reload has its workers; its report waits for the end of the old ones.
    fn complete_report(&mut self, app: AppId, generation: Generation) {
        let Some(state) = self.apps.get_mut(&app) else { return };
        let workers = state.workers.values().filter(|worker| worker.generation == generation).count();
        for report in state.reports.iter_mut().filter(|report| report.generation == generation) {
            report.workers = Some(workers);
        }
        self.end_when_settled(app);
    }

    /// Counts what a gone worker has cut, for the reload that replaced it.
    fn lose(&mut self, app: AppId, generation: Generation, cut: Option<u64>) {
        let Some(state) = self.apps.get_mut(&app) else { return };
        if let Some(report) = state.reports.iter_mut().find(|report| generation < report.generation) {
            report.cut = report.cut.zip(cut).map(|(all, cut): (u64, u64)| all.saturating_add(cut));
        }
        self.end_when_settled(app);
    }

    fn end_when_settled(&mut self, app: AppId) {
        let Some(state) = self.apps.get_mut(&app) else { return };
        let awaited = state.workers.values().filter(|worker| !worker.given_up);
        let oldest = awaited.map(|worker| worker.generation).min();
        let mut settled = Vec::new();
        for report in &mut state.reports {
            let has_old = oldest.is_some_and(|oldest| oldest < report.generation);
            if report.workers.is_some() && !has_old && !std::mem::replace(&mut report.is_asked, true) {
                settled.push(report.generation);
            }
        }
        for generation in settled {
            self.count_for_report(app, generation);
        }
    }

    /// Asks the data plane what has happened so far; the answer is a note.
    fn count_for_report(&mut self, app: AppId, generation: Generation) {
        let (count, counted) = oneshot::channel();
        self.plane.send(Command::CountOf { app, count });
        let notes = self.notes.clone();
        tokio::spawn(async move {
            // Without an answer the data plane is gone, which is told in another way.
            if let Ok(count) = counted.await {
                let _ended = notes.send(Note::Counted { app, generation, count });
            }
        });
    }

    pub(super) fn on_counted(&mut self, app: AppId, generation: Generation, now: AppCount) {
        let Some(state) = self.apps.get_mut(&app) else { return };
        let Some(at) = state.reports.iter().position(|report| report.generation == generation) else {
            return;
        };
        match state.reports[at].before {
            None => state.reports[at].before = Some(now),
            Some(before) => {
                let report = state.reports.remove(at);
                let event = tell(&report, state, before, now);
                self.emit(app, event);
            }
        }
    }
}

fn tell(report: &Report, state: &AppState, before: AppCount, now: AppCount) -> Event {
    let accepts_itself = state.slots.as_ref().is_some_and(|slots| !slots.ports().is_empty());
    let has_channel = state.spec.dialect.has_channel() && !accepts_itself;
    let hands_over = has_channel && state.spec.policies.hands_over_all();
    let since = |count| grown(&before, &now, count);
    Event::ReloadReport {
        generation: report.generation,
        workers: report.workers.unwrap_or(0),
        took: report.began.elapsed(),
        handed_over: hands_over.then(|| since(|tally| tally.handed_over)).flatten(),
        moved: has_channel.then(|| since(|tally| tally.moved)).flatten(),
        redispatched: hands_over.then(|| since(|tally| tally.redispatched)).flatten(),
        turned_away: state.spec.limits.is_any().then(|| since(|tally| tally.turned_away)).flatten(),
        cut: report.cut,
    }
}

/// Returns how much a number has grown; `None` when a listener that was closed meanwhile took its part with it.
fn grown(before: &AppCount, now: &AppCount, count: fn(&Tally) -> u64) -> Option<u64> {
    let is_whole = before.closed_listeners == now.closed_listeners;
    is_whole.then(|| count(&now.tally)).and_then(|grown| grown.checked_sub(count(&before.tally)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn count(handed_over: u64, closed_listeners: u64) -> AppCount {
        AppCount { tally: Tally { handed_over, ..Tally::default() }, closed_listeners }
    }

    #[test]
    fn numbers_of_which_a_closed_listener_took_a_part_are_not_known() {
        let handed_over = |before, now| grown(&before, &now, |tally| tally.handed_over);
        assert_eq!(handed_over(count(3, 1), count(10, 1)), Some(7));
        assert_eq!(handed_over(count(3, 1), count(3, 1)), Some(0));
        assert_eq!(handed_over(count(3, 0), count(2, 1)), None, "less than before");
        assert_eq!(handed_over(count(3, 0), count(10, 1)), None, "more than before, and still too little");
    }
}
