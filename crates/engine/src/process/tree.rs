//! Whole process trees: their signals and their leftovers.

use std::collections::{HashMap, HashSet};
use std::ffi::OsString;
use std::fs;
use std::io;

use rustix::process::{Pid, Signal};

/// The variable that marks every descendant of a worker.
pub(crate) const MARK: &str = "WORKSONG_TREE";

/// How often [`kill_descendants`] looks again; only a fork bomb needs all of them.
const ROUNDS: usize = 32;

/// Marks the processes of one worker: the primary's process id and the worker's number, unique on this machine
/// for as long as the primary lives.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Mark(String);

impl Mark {
    pub(crate) fn new(worker: impl std::fmt::Display) -> Self {
        Self(format!("{}-{worker}", std::process::id()))
    }

    /// Returns the value of the variable [`MARK`].
    pub(crate) fn value(&self) -> OsString {
        OsString::from(&self.0)
    }

    fn is_on(&self, pid: u32) -> bool {
        mark_of(pid).is_some_and(|mark| mark == self.0.as_bytes())
    }
}

/// Returns the mark that a process inherited.
fn mark_of(pid: u32) -> Option<Vec<u8>> {
    let environment = fs::read(format!("/proc/{pid}/environ")).ok()?;
    let value = |entry: &[u8]| Some(entry.strip_prefix(MARK.as_bytes())?.strip_prefix(b"=")?.to_vec());
    environment.split(|byte| *byte == 0).find_map(value)
}

/// Sends SIGKILL to every process below a primary that is gone. Returns how many there were.
pub(crate) fn kill_all_of(primary: u32) -> usize {
    let prefix = format!("{primary}-").into_bytes();
    let own = std::process::id();
    let mut count = 0;
    for process in processes() {
        let marked = || mark_of(process).is_some_and(|mark| mark.starts_with(&prefix));
        if process != own && !is_zombie(process) && marked() {
            send(process, Signal::KILL);
            count += 1;
        }
    }
    count
}

/// Sends a signal to a worker, its process group, and its descendants that left the group; to each of them once,
/// because many programs take a second SIGTERM for the order to drop everything.
///
/// The worker itself must not have been reaped, or its number may be another process's by now.
pub(crate) fn signal(leader: u32, signal: i32) {
    let Some(signal) = Signal::from_named_raw(signal) else { return };
    let mut others: HashSet<u32> = descendants(leader).into_iter().collect();
    others.extend(processes().filter(|process| group_of(*process) == Some(leader)));
    others.remove(&leader);
    // First the leader, so that it can tell its own children what it wants of them.
    send(leader, signal);
    for process in others {
        send(process, signal);
    }
    if signal == Signal::KILL
        && let Some(group) = pid(leader)
    {
        // What was started since the look; no such group means that nothing was.
        let _gone = rustix::process::kill_process_group(group, signal);
    }
}

/// Sends a signal to what is left of a worker that was reaped: members of its group, and processes with its mark.
///
/// Returns how many there were.
pub(crate) fn signal_leftovers(leader: u32, mark: &Mark, signal: i32) -> usize {
    let Some(signal) = Signal::from_named_raw(signal) else { return 0 };
    let own = std::process::id();
    let mut count = 0;
    for process in processes() {
        if process == own || is_zombie(process) {
            continue;
        }
        if group_of(process) == Some(leader) || mark.is_on(process) {
            send(process, signal);
            count += 1;
        }
    }
    count
}

/// Kills everything below this process, whatever it did to its group, session, parent and environment.
///
/// Orphans are below this process too when it adopts them. The guard is spared: it ends by itself.
pub(crate) fn kill_descendants(guard: Option<u32>) {
    let mut killed: HashSet<u32> = guard.into_iter().collect();
    // What starts another process between the look and the kill is found by the next look.
    for _ in 0..ROUNDS {
        let fresh: Vec<u32> =
            descendants(std::process::id()).into_iter().filter(|process| killed.insert(*process)).collect();
        if fresh.is_empty() {
            return;
        }
        for process in fresh {
            send(process, Signal::KILL);
        }
    }
}

fn send(process: u32, signal: Signal) {
    if let Some(process) = pid(process) {
        // It is gone already: that is what the signal was for.
        let _gone = rustix::process::kill_process(process, signal);
    }
}

fn pid(number: u32) -> Option<Pid> {
    Pid::from_raw(i32::try_from(number).ok()?)
}

fn descendants(root: u32) -> Vec<u32> {
    let mut children: HashMap<u32, Vec<u32>> = HashMap::new();
    for process in processes() {
        if let Some(parent) = stat_field(process, 1) {
            children.entry(parent).or_default().push(process);
        }
    }
    let mut found = Vec::new();
    let mut look_at = vec![root];
    while let Some(process) = look_at.pop() {
        if let Some(below) = children.remove(&process) {
            look_at.extend(&below);
            found.extend(below);
        }
    }
    found
}

fn processes() -> impl Iterator<Item = u32> {
    let entries = fs::read_dir("/proc").into_iter().flatten();
    entries.filter_map(|entry: io::Result<fs::DirEntry>| entry.ok()?.file_name().to_str()?.parse().ok())
}

fn group_of(process: u32) -> Option<u32> {
    stat_field(process, 2)
}

fn is_zombie(process: u32) -> bool {
    stat(process).is_some_and(|fields| fields.starts_with('Z'))
}

/// Returns a number of `/proc/PID/stat`, counted from the state, which is field 0.
fn stat_field(process: u32, index: usize) -> Option<u32> {
    stat(process)?.split(' ').nth(index)?.parse().ok()
}

/// Returns `/proc/PID/stat` from the state on; the command before it may contain anything.
fn stat(process: u32) -> Option<String> {
    let text = fs::read_to_string(format!("/proc/{process}/stat")).ok()?;
    let (_command, fields) = text.rsplit_once(") ")?;
    Some(fields.to_owned())
}
