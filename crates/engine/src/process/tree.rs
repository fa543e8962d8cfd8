//! Whole process trees: their signals and their leftovers.

use std::collections::{HashMap, HashSet};
use std::ffi::OsString;
use std::fs;

use rustix::process::{Pid, Signal};

use super::mark::{Mark, Stamp, mark_of};
use super::stat::{Stat, processes};

/// How often [`kill_descendants`] looks again; only a fork bomb needs all of them.
const ROUNDS: usize = 32;

/// Sends SIGKILL to every process below a primary that is gone. Returns how many there were.
pub(crate) fn kill_all_of(primary: &Stamp) -> usize {
    let own = std::process::id();
    let mut count = 0;
    for process in processes().filter(|process| process.number != own && !process.is_zombie) {
        if process.is_younger() && primary.is_on(process.number) {
            send(process.number, Signal::KILL);
            count += 1;
        }
    }
    count
}

/// Sends a signal to a worker, its process group, and what it started that left the group; to each of them once,
/// because many programs take a second SIGTERM for the order to drop everything.
///
/// The worker itself must not have been reaped, or its number may be another process's by now.
pub(crate) fn signal(leader: u32, mark: &Mark, signal: i32) {
    let Some(signal) = Signal::from_named_raw(signal) else { return };
    let mut others = members(leader, mark);
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

/// Sends a signal to a worker's first process alone, which must not have been reaped.
pub(crate) fn signal_leader(leader: u32, signal: i32) {
    if let Some(signal) = Signal::from_named_raw(signal) {
        send(leader, signal);
    }
}

/// Returns a worker, its process group, and what it started that left the group.
///
/// The worker itself must not have been reaped, or its number may be another process's by now.
pub(crate) fn members(leader: u32, mark: &Mark) -> HashSet<u32> {
    members_of_each(&[(leader, mark)]).pop().unwrap_or_default()
}

/// Returns the same of several workers, for one look at all processes.
///
/// The number of a worker that was reaped may be another process's by now, which is returned then, too.
pub(crate) fn members_of_each(workers: &[(u32, &Mark)]) -> Vec<HashSet<u32>> {
    let all: Vec<Stat> = processes().collect();
    let children = children_of_each(&all);
    let with_descendants =
        |(leader, _): &(u32, &Mark)| below(vec![*leader], children.clone()).into_iter().collect();
    let mut found: Vec<HashSet<u32>> = workers.iter().map(with_descendants).collect();
    for process in all {
        let marked = mark_on(process);
        for ((leader, mark), found) in workers.iter().zip(&mut found) {
            if process.group == *leader || marked.as_ref().is_some_and(|marked| mark.is(marked)) {
                found.insert(process.number);
            }
        }
    }
    found
}

/// Sends a signal to what is left of a worker that was reaped. Returns how many there were.
pub(crate) fn signal_leftovers(leader: u32, mark: &Mark, signal: i32) -> usize {
    let Some(signal) = Signal::from_named_raw(signal) else { return 0 };
    let left = leftovers(leader, mark);
    for process in &left {
        send(*process, signal);
    }
    left.len()
}

/// Returns what is left of a worker that was reaped: processes with its mark, and members of its group that cleared
/// their environment.
///
/// Once the group was empty, its number may be anybody's. A group counts only while nobody leads it again, and only for
/// processes below this one.
pub(crate) fn leftovers(leader: u32, mark: &Mark) -> Vec<u32> {
    let own = std::process::id();
    let mut left = Vec::new();
    let mut unmarked = Vec::new();
    for process in processes().filter(|process| process.number != own && !process.is_zombie) {
        match mark_on(process) {
            Some(found) if mark.is(&found) => left.push(process.number),
            None if process.group == leader => unmarked.push(process.number),
            Some(_) | None => {}
        }
    }
    if !unmarked.is_empty() && Stat::of(leader).is_none() {
        let below: HashSet<u32> = descendants(own).into_iter().collect();
        left.extend(unmarked.into_iter().filter(|process| below.contains(process)));
    }
    left
}

/// Kills everything below this process, whatever it did to its group, session, parent and environment, but for
/// children in this process's own group and what is below them: those are its other code's.
///
/// Orphans are below this process too when it adopts them. The guard is spared: it ends by itself.
pub(crate) fn kill_descendants(guard: Option<u32>) {
    let mut killed: HashSet<u32> = HashSet::new();
    // What starts another process between the look and the kill is found by the next look.
    for _ in 0..ROUNDS {
        let fresh: Vec<u32> =
            below_this(guard).into_iter().filter(|process| killed.insert(*process)).collect();
        if fresh.is_empty() {
            return;
        }
        for process in fresh {
            send(process, Signal::KILL);
        }
    }
}

/// Returns what [`kill_descendants`] has to kill.
fn below_this(guard: Option<u32>) -> Vec<u32> {
    let mut children = children();
    children.retain(|child| Some(*child) != guard && !is_in_own_group(*child));
    with_descendants(children)
}

/// Returns whether a child is in this process's own group, and so none of the engine's.
///
/// It was started by other code of this process, as `std::process::Command` does it, or was there before this program was
/// executed. Workers and all that they start are in other groups from the beginning.
pub(crate) fn is_in_own_group(child: u32) -> bool {
    // Also a group from outside of a container, whose number is 0 inside.
    let group_of = |process| Stat::of(process).map(|process| process.group);
    group_of(child) == group_of(std::process::id())
}

/// Returns the children of this process, ended ones too.
pub(crate) fn children() -> Vec<u32> {
    let tasks = fs::read_dir("/proc/self/task").into_iter().flatten().flatten();
    let lists: Result<Vec<String>, _> =
        tasks.map(|task| fs::read_to_string(task.path().join("children"))).collect();
    let listed = |lists: Vec<String>| {
        lists.iter().flat_map(|list| list.split_whitespace()).filter_map(|pid| pid.parse().ok()).collect()
    };
    let own = std::process::id();
    let is_child = |process: Stat| (process.parent == own).then_some(process.number);
    // Some kernels have no such lists, and a thread may just have ended.
    lists.map_or_else(|_| processes().filter_map(is_child).collect(), listed)
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

/// Returns what is below a process, each after its parent.
fn descendants(root: u32) -> Vec<u32> {
    with_descendants(vec![root]).split_off(1)
}

/// Appends to these processes all that are below them.
fn with_descendants(found: Vec<u32>) -> Vec<u32> {
    let all: Vec<Stat> = processes().collect();
    below(found, children_of_each(&all))
}

/// Returns the children of every process that has some.
fn children_of_each(all: &[Stat]) -> HashMap<u32, Vec<u32>> {
    let mut children: HashMap<u32, Vec<u32>> = HashMap::new();
    for process in all {
        children.entry(process.parent).or_default().push(process.number);
    }
    children
}

/// Appends to these processes all that are below them, each after its parent.
fn below(mut found: Vec<u32>, mut children: HashMap<u32, Vec<u32>>) -> Vec<u32> {
    let mut next = 0;
    while let Some(process) = found.get(next) {
        if let Some(below) = children.remove(process) {
            found.extend(below);
        }
        next += 1;
    }
    found
}

/// Returns the mark on a process, if it can have one of ours.
fn mark_on(process: Stat) -> Option<OsString> {
    process.is_younger().then(|| mark_of(process.number)).flatten()
}

#[cfg(test)]
mod tests;
