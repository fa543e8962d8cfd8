//! What gives a process away as a worker's: a variable that its descendants inherit.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::os::unix::ffi::OsStrExt;

use crate::ids::WorkerId;

/// The variable that marks every descendant of a worker.
pub(crate) const MARK: &str = "WORKSONG_TREE";

/// What the marks of one primary have in common, and those of no other.
///
/// It is the primary's process id, for people who look at an environment, and a random number: a later primary may get
/// the same process id (in a container it always is 1), and what this one left behind is not its successor's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Stamp(String);

impl Stamp {
    /// Makes one that no other primary has.
    pub(crate) fn new() -> Self {
        Self(format!("{}-{:016x}", std::process::id(), RandomState::new().build_hasher().finish()))
    }

    /// Returns the stamp that another process was told.
    pub(crate) fn told(text: String) -> Self {
        Self(text)
    }

    /// Returns what another process can be told.
    pub(crate) fn value(&self) -> OsString {
        OsString::from(&self.0)
    }

    /// Returns the mark of one worker.
    pub(crate) fn mark(&self, worker: WorkerId) -> Mark {
        Mark(format!("{}-{worker}", self.0))
    }

    /// Returns whether a process is a descendant of this primary's workers.
    pub(crate) fn is_on(&self, pid: u32) -> bool {
        let rest = |mark: OsString| {
            mark.as_bytes().strip_prefix(self.0.as_bytes()).map(|rest| rest.starts_with(b"-"))
        };
        mark_of(pid).and_then(rest).unwrap_or(false)
    }
}

/// Marks the processes of one worker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Mark(String);

impl Mark {
    /// Returns the value of the variable [`MARK`].
    pub(crate) fn value(&self) -> OsString {
        OsString::from(&self.0)
    }

    /// Returns whether this is what [`mark_of`] found.
    pub(crate) fn is(&self, found: &OsStr) -> bool {
        found == OsStr::new(&self.0)
    }
}

/// Returns the mark that a process inherited; `None` when its environment was cleared, or cannot be seen.
pub(crate) fn mark_of(pid: u32) -> Option<OsString> {
    let environment = fs::read(format!("/proc/{pid}/environ")).ok()?;
    let value = |entry: &[u8]| {
        let value = entry.strip_prefix(MARK.as_bytes())?.strip_prefix(b"=")?;
        Some(OsStr::from_bytes(value).to_owned())
    };
    environment.split(|byte| *byte == 0).find_map(value)
}
