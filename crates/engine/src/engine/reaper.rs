//! Children that ended.

use std::collections::HashMap;

use rustix::io::Errno;
use rustix::process::{Pid, WaitOptions, WaitStatus, waitpid};

use super::Orphans;
use crate::event::ExitStatus;
use crate::ids::WorkerId;
use crate::process::tree;

/// Reaps the workers that have ended, and others as they are to be treated; returns them all.
pub(super) fn ended(workers: &HashMap<u32, WorkerId>, orphans: Orphans) -> Vec<(u32, ExitStatus)> {
    let mut others = match orphans {
        Orphans::Leave => Vec::new(),
        Orphans::Adopt | Orphans::AdoptAndReapAll => tree::children(),
    };
    others.retain(|child| {
        let is_ours = orphans == Orphans::AdoptAndReapAll || !tree::is_in_own_group(*child);
        is_ours && !workers.contains_key(child)
    });
    workers.keys().copied().chain(others).filter_map(|child| Some((child, reap(child)?))).collect()
}

/// Reaps a child if it has ended.
pub(super) fn reap(child: u32) -> Option<ExitStatus> {
    let pid = i32::try_from(child).ok().and_then(Pid::from_raw)?;
    let (_, status) = waitpid(Some(pid), WaitOptions::NOHANG).ok()??;
    exit_status(status)
}

/// Waits for the end of a child and reaps it.
pub(super) fn wait(child: u32) {
    let Some(pid) = i32::try_from(child).ok().and_then(Pid::from_raw) else { return };
    // Any other error says that it is reaped already.
    while waitpid(Some(pid), WaitOptions::empty()).err() == Some(Errno::INTR) {}
}

fn exit_status(status: WaitStatus) -> Option<ExitStatus> {
    if let Some(code) = status.exit_status() {
        return Some(ExitStatus::Code(code));
    }
    status.terminating_signal().map(ExitStatus::Signal)
}

/// Exits of processes that nobody knew yet: a worker can end before its spawner has told its process id.
#[derive(Debug, Default)]
pub(super) struct Unclaimed {
    in_flight: usize,
    exits: HashMap<u32, ExitStatus>,
}

impl Unclaimed {
    pub(super) fn launching(&mut self) {
        self.in_flight += 1;
    }

    /// Keeps the exit while a launch could still claim it.
    pub(super) fn keep(&mut self, pid: u32, status: ExitStatus) {
        if self.in_flight > 0 {
            self.exits.insert(pid, status);
        }
    }

    /// Notes that a launch ended, and returns the exit of its process if that is over already.
    pub(super) fn launched(&mut self, pid: Option<u32>) -> Option<ExitStatus> {
        self.in_flight = self.in_flight.saturating_sub(1);
        let exit = pid.and_then(|pid| self.exits.remove(&pid));
        if self.in_flight == 0 {
            self.exits.clear();
        }
        exit
    }
}
