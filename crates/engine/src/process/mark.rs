//! What gives a process away as a worker's: a variable that its descendants inherit.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::os::unix::ffi::OsStrExt;
use std::thread;
use std::time::Duration;

use super::stat::Stat;
use crate::ids::WorkerId;

/// The variable that marks every descendant of a worker.
pub(crate) const MARK: &str = "WORKSONG_TREE";
/// How often, and how long in all, a process is looked at that is in the middle of an `execve`: for a fraction of a
/// millisecond the kernel shows its environment as empty.
const LOOKS: u32 = 20;
const BETWEEN_LOOKS: Duration = Duration::from_millis(1);

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
    let environment = environment_of(pid)?;
    let value = |entry: &[u8]| {
        let value = entry.strip_prefix(MARK.as_bytes())?.strip_prefix(b"=")?;
        Some(OsStr::from_bytes(value).to_owned())
    };
    environment.split(|byte| *byte == 0).find_map(value)
}

/// Reads the environment of a process; of one in the middle of an `execve`, when that is over.
#[expect(clippy::disallowed_methods, reason = "the kernel announces the end of an execve to nobody")]
fn environment_of(pid: u32) -> Option<Vec<u8>> {
    for _ in 0..LOOKS {
        let environment = fs::read(format!("/proc/{pid}/environ")).ok()?;
        if !environment.is_empty() || !is_executing(pid) {
            return Some(environment);
        }
        thread::sleep(BETWEEN_LOOKS);
    }
    None
}

/// Returns true while a process has neither arguments nor environment, and will have both.
fn is_executing(pid: u32) -> bool {
    let is_empty = fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|arguments| arguments.is_empty());
    is_empty && Stat::of(pid).is_some_and(Stat::is_ordinary)
}
