//! Children that ended.

use std::collections::HashMap;

use rustix::process::{Pid, WaitOptions, WaitStatus, wait, waitpid};

use crate::event::ExitStatus;

/// Returns every child that has ended: all of this process, or only those of the list.
pub(super) fn ended(own: impl Iterator<Item = u32>, all: bool) -> Vec<(u32, ExitStatus)> {
    let mut found = Vec::new();
    if all {
        while let Ok(Some((pid, status))) = wait(WaitOptions::NOHANG) {
            found.extend(exit_status(status).map(|status| (number(pid), status)));
        }
    } else {
        for child in own {
            let Some(pid) = i32::try_from(child).ok().and_then(Pid::from_raw) else { continue };
            if let Ok(Some((_, status))) = waitpid(Some(pid), WaitOptions::NOHANG) {
                found.extend(exit_status(status).map(|status| (child, status)));
            }
        }
    }
    found
}

fn number(pid: Pid) -> u32 {
    pid.as_raw_nonzero().get().cast_unsigned()
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
