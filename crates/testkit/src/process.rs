//! Processes by pid: whether they live, what they started, how to end them.

use std::collections::HashMap;
use std::fs;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

use crate::patience::pause_for;

/// A process, told apart from a later one with the same pid.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Process {
    pid: u32,
    /// In clock ticks since boot.
    started: u64,
}

impl Process {
    /// Returns the process that has this pid now.
    #[must_use]
    pub fn find(pid: u32) -> Option<Self> {
        Some(Self { pid, started: Stat::read(pid)?.started })
    }

    /// Returns its pid.
    #[must_use]
    pub fn pid(self) -> u32 {
        self.pid
    }

    /// Returns true while the process runs; a zombie does not.
    #[must_use]
    pub fn is_alive(self) -> bool {
        Stat::read(self.pid).is_some_and(|stat| stat.started == self.started && stat.is_running())
    }

    /// Sends a signal, if the process still exists.
    pub fn signal(self, signal: Signal) {
        if self.is_alive() {
            kill(self.pid, signal);
        }
    }
}

/// Returns true while a process with this pid runs; a zombie does not.
#[must_use]
pub fn alive(pid: u32) -> bool {
    Stat::read(pid).is_some_and(|stat| stat.is_running())
}

/// Returns the letter that the kernel gives a process's state, such as `T` for stopped; `None` when there is none.
#[must_use]
pub fn state(pid: u32) -> Option<char> {
    Some(Stat::read(pid)?.state)
}

/// Returns true when no thread of a process runs: it was stopped, or has ended. After SIGSTOP its threads may do something
/// more for a moment, one longer than the other.
#[must_use]
pub fn stands_still(pid: u32) -> bool {
    let threads = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    threads
        .filter_map(|thread| thread.file_name().to_str()?.parse().ok())
        .filter_map(Stat::read)
        .all(|stat| stat.state == 'T' || !stat.is_running())
}

/// Stops a process, and waits until none of its threads does anything more.
#[track_caller]
pub fn freeze(pid: u32) {
    kill(pid, Signal::STOP);
    crate::eventually("that it stands still", || stands_still(pid).then_some(()));
}

/// Sends a signal to one process and returns whether it existed.
///
/// # Panics
///
/// When the pid can only mean a group, or the process belongs to somebody else.
#[track_caller]
pub fn kill(pid: u32, signal: Signal) -> bool {
    let process = i32::try_from(pid).ok().and_then(Pid::from_raw).filter(|process| !process.is_init());
    let process =
        process.unwrap_or_else(|| panic!("{pid} is not the pid of a process that a test may signal"));
    match kill_process(process, signal) {
        Ok(()) => true,
        Err(rustix::io::Errno::SRCH) => false,
        Err(error) => panic!("could not send {signal:?} to {pid}: {error}"),
    }
}

/// Returns the living children of a process.
#[must_use]
pub fn children(pid: u32) -> Vec<Process> {
    family().remove(&pid).unwrap_or_default()
}

/// Returns the living children of a process, theirs, and so on; each after its parent.
///
/// What was re-parented after its parent's death is not among them.
#[must_use]
pub fn descendants(pid: u32) -> Vec<Process> {
    let mut family = family();
    let mut found = family.remove(&pid).unwrap_or_default();
    let mut next = 0;
    while next < found.len() {
        let children = family.remove(&found[next].pid).unwrap_or_default();
        found.extend(children);
        next += 1;
    }
    found
}

/// Returns the running processes that have a variable with this value in the environment that they were started with.
///
/// Children inherit it, so it finds what left the family of its ancestors. Only processes of the same user are seen.
#[must_use]
pub fn with_variable(name: &str, value: &str) -> Vec<Process> {
    let wanted = format!("{name}={value}").into_bytes();
    let has_it = |process: &Process| {
        let environment = environment_of(process);
        environment.split(|byte| *byte == 0).any(|entry| entry == wanted)
    };
    family().into_values().flatten().filter(has_it).collect()
}

/// Reads the environment of a process. In the middle of an `execve` the kernel shows it as empty, and the arguments too:
/// then it is read again.
fn environment_of(process: &Process) -> Vec<u8> {
    let read = |file| fs::read(format!("/proc/{}/{file}", process.pid)).unwrap_or_default();
    for _ in 0..20 {
        let environment = read("environ");
        let is_kernel_thread =
            || process.pid == 2 || Stat::read(process.pid).is_none_or(|stat| stat.parent == 2);
        if !environment.is_empty() || !read("cmdline").is_empty() || is_kernel_thread() || !process.is_alive()
        {
            return environment;
        }
        pause_for(Duration::from_millis(1));
    }
    Vec::new()
}

/// Returns the number of descriptors that a process has open.
#[must_use]
pub fn open_descriptors(pid: u32) -> Option<usize> {
    Some(fs::read_dir(format!("/proc/{pid}/fd")).ok()?.count())
}

/// All running processes by their parent.
fn family() -> HashMap<u32, Vec<Process>> {
    let mut family: HashMap<u32, Vec<Process>> = HashMap::new();
    let entries = fs::read_dir("/proc").expect("tests run on Linux with /proc");
    for entry in entries.flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
        let Some(stat) = Stat::read(pid).filter(Stat::is_running) else { continue };
        family.entry(stat.parent).or_default().push(Process { pid, started: stat.started });
    }
    family
}

/// What is needed here of `/proc/PID/stat`.
struct Stat {
    state: char,
    parent: u32,
    started: u64,
}

impl Stat {
    fn read(pid: u32) -> Option<Self> {
        let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        // The name in parentheses may contain spaces and parentheses itself; the fields after it count from 3.
        let mut fields = text.rsplit_once(')')?.1.split_whitespace();
        let state = fields.next()?.chars().next()?;
        let parent = fields.next()?.parse().ok()?;
        let started = fields.nth(17)?.parse().ok()?;
        Some(Self { state, parent, started })
    }

    fn is_running(&self) -> bool {
        !matches!(self.state, 'Z' | 'X' | 'x')
    }
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;
    use crate::eventually;

    #[test]
    fn a_killed_child_is_not_alive_although_it_is_a_zombie() {
        let mut child = Command::new("sleep").arg("1000").spawn().unwrap();
        let process = Process::find(child.id()).unwrap();
        assert!(process.is_alive() && !stands_still(child.id()));
        process.signal(Signal::STOP);
        eventually("a stopped child", || stands_still(child.id()).then_some(()));
        assert_eq!(state(child.id()), Some('T'));
        process.signal(Signal::KILL);
        eventually("the zombie", || (state(child.id()) == Some('Z')).then_some(()));
        assert!(!process.is_alive());
        assert!(!alive(child.id()));
        child.wait().unwrap();
        assert_eq!(state(child.id()), None);
    }

    #[test]
    fn another_start_is_another_process() {
        let process = Process::find(std::process::id()).unwrap();
        assert!(process.is_alive());
        assert!(!Process { started: process.started + 1, ..process }.is_alive());
    }

    #[test]
    fn grandchildren_are_descendants() {
        let mut shell = Command::new("sh").args(["-c", "sleep 1000 & wait"]).spawn().unwrap();
        let sleep = eventually("the grandchild", || children(shell.id()).first().copied());
        let family = descendants(std::process::id());
        assert!(family.contains(&sleep));
        assert!(family.iter().any(|process| process.pid() == shell.id()));
        sleep.signal(Signal::KILL);
        shell.wait().unwrap();
    }
}
