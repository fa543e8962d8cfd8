//! How much memory the workers have, looked at every few seconds while somebody wants to know.

use std::time::Duration;

use rustix::param::page_size;
use tokio::time::{Interval, MissedTickBehavior};

use super::control::Control;
use super::state::AppState;
use crate::ids::WorkerId;
use crate::supervise::Input;

/// How often.
const EVERY: Duration = Duration::from_secs(2);

/// Returns what says that it is time to look.
pub(super) fn interval() -> Interval {
    let mut interval = tokio::time::interval(EVERY);
    interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
    interval
}

impl Control {
    /// Returns true while an app has a limit of memory.
    pub(super) fn watches_memory(&self) -> bool {
        self.apps.values().any(has_limit)
    }

    /// Tells the supervisors how much memory their workers have.
    pub(super) fn look_at_memory(&mut self) {
        let watched = self.apps.values().filter(|app| has_limit(app)).flat_map(|app| &app.workers);
        // Until it is reaped its process id is nobody else's.
        let running = watched.filter(|(_, worker)| worker.pid != 0 && worker.exited.is_none());
        let found: Vec<(WorkerId, u64)> =
            running.filter_map(|(id, worker)| Some((*id, resident_bytes(worker.pid)?))).collect();
        for (worker, bytes) in found {
            self.tell(worker.app, Input::Resident { worker, bytes });
        }
    }
}

fn has_limit(app: &AppState) -> bool {
    app.spec.recycle.max_memory_bytes.is_some()
}

/// Returns how much memory of a process is resident, shared pages included, as `ps` and PM2 count it; `None` when it
/// has ended.
///
/// `smaps_rollup` would leave out what others share, but the kernel walks all pages for it, and the process waits.
fn resident_bytes(pid: u32) -> Option<u64> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/statm")).ok()?;
    let pages: u64 = text.split(' ').nth(1)?.parse().ok()?;
    pages.checked_mul(page_size() as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn resident_memory_is_read_of_living_processes_only() {
        let before = resident_bytes(std::process::id()).expect("we live");
        assert!(before > 100 * 1024, "{before}");
        let ballast = std::hint::black_box(vec![1_u8; 64 * 1024 * 1024]);
        let grown = resident_bytes(std::process::id()).expect("we live") - before;
        assert!(grown > ballast.len() as u64 / 2, "{grown}");
        assert_eq!(resident_bytes(u32::MAX), None);
    }
}
