//! What the system is short of.

use std::io;

use rustix::io::Errno;
use serde::Serialize;

/// What this process asked the system for in vain; it may have it again later.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Shortage {
    /// This process has as many descriptors open as it may (`ulimit -n`).
    Descriptors,
    /// The whole system has as many open as may be (`fs.file-max`).
    SystemDescriptors,
    /// Memory, in general or for sockets.
    Memory,
    /// There are as many processes as may be, of this user or in this control group.
    Processes,
}

impl Shortage {
    /// Returns what the system is short of when it gives this error, if it is that.
    #[must_use]
    pub fn of_error(error: &io::Error) -> Option<Self> {
        Errno::from_io_error(error).and_then(Self::of)
    }

    /// The same of the system's own number.
    pub(crate) fn of(error: Errno) -> Option<Self> {
        match error {
            Errno::MFILE => Some(Self::Descriptors),
            Errno::NFILE => Some(Self::SystemDescriptors),
            Errno::NOMEM | Errno::NOBUFS => Some(Self::Memory),
            _ => None,
        }
    }

    /// The same for what failed when a process was made.
    pub(crate) fn of_process(error: &io::Error) -> Option<Self> {
        match Errno::from_io_error(error)? {
            Errno::AGAIN => Some(Self::Processes),
            error => Self::of(error),
        }
    }
}
