use std::io::{BufRead, BufReader};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use super::super::mark::MARK;
use super::*;
use crate::ids::{AppId, WorkerId};

const WORKER: WorkerId = WorkerId { app: AppId(1), number: 1 };

/// A program in a process group of its own, as a worker is; it is killed in the end.
struct Group(Child);

impl Group {
    fn start(script: &str, mark: Option<&Mark>) -> Self {
        let mut command = Command::new("/bin/sh");
        command.args(["-c", script]).process_group(0).stdout(Stdio::piped()).env_remove(MARK);
        command.envs(mark.map(|mark| (MARK, mark.value())));
        Self(command.spawn().expect("a shell"))
    }

    /// Starts what only waits; it has its whole environment when this returns.
    fn sleeping(mark: Option<&Mark>) -> Self {
        let mut group = Self::start("echo; exec sleep 1000", mark);
        group.line();
        group
    }

    fn pid(&self) -> u32 {
        self.0.id()
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        BufReader::new(self.0.stdout.as_mut().expect("a pipe")).read_line(&mut line).expect("a line");
        line
    }

    /// Waits for its end and returns the signal that ended it.
    fn ended_by(mut self) -> Option<i32> {
        self.0.wait().expect("its status").signal()
    }

    fn is_running(&mut self) -> bool {
        self.0.try_wait().expect("its status").is_none()
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        // It has ended already where the test went well.
        let _ended = self.0.kill();
        let _status = self.0.wait();
    }
}

fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !condition() {
        assert!(Instant::now() < deadline, "{what} did not come");
        std::thread::yield_now();
    }
}

#[test]
fn a_group_with_the_number_of_a_gone_worker_is_not_the_workers() {
    let (own, other) = (Stamp::new().mark(WORKER), Stamp::new().mark(WORKER));
    // A later process got the number: another worker's, or one that is nobody's.
    for mark in [Some(&other), None] {
        let mut later = Group::sleeping(mark);
        assert_eq!(signal_leftovers(later.pid(), &own, libc::SIGKILL), 0);
        assert!(later.is_running());
    }
}

#[test]
fn what_carries_the_mark_is_found_in_every_group() {
    let mark = Stamp::new().mark(WORKER);
    let left = Group::sleeping(Some(&mark));
    assert_eq!(signal_leftovers(1, &mark, libc::SIGTERM), 1);
    assert_eq!(left.ended_by(), Some(libc::SIGTERM));
}

#[test]
fn a_member_of_the_group_without_environment_is_found() {
    let adopts = rustix::process::set_child_subreaper(Some(rustix::process::getpid()));
    adopts.expect("Linux 3.4 has it");
    let mark = Stamp::new().mark(WORKER);
    let script = "env -i sh -c 'echo $$; exec sleep 1000' & exit 0";
    let mut leader = Group::start(script, Some(&mark));
    let pid: u32 = leader.line().trim().parse().expect("a process id");
    let number = leader.pid();
    leader.0.wait().expect("its status");
    eventually("the end of its environment", || {
        mark_of(pid).is_none() && Stat::of(pid).is_some_and(|process| process.group == number)
    });
    assert_eq!(signal_leftovers(number, &mark, libc::SIGKILL), 1);
    eventually("its end", || Stat::of(pid).is_some_and(|process| process.is_zombie));
    assert!(children().contains(&pid) && !is_in_own_group(pid), "it was adopted");
}

#[test]
fn a_later_primary_with_the_same_process_id_keeps_its_workers() {
    let (gone, later) = (Stamp::new(), Stamp::new());
    let left = Group::sleeping(Some(&gone.mark(WORKER)));
    let mut kept = Group::sleeping(Some(&later.mark(WORKER)));
    assert_eq!(kill_all_of(&Stamp::told(gone.value().into_string().expect("text"))), 1);
    assert_eq!(left.ended_by(), Some(libc::SIGKILL));
    assert!(kept.is_running());
}

#[test]
fn children_in_the_own_group_are_left_alone() {
    let mut own = Command::new("/bin/sh");
    own.args(["-c", "setsid sleep 1000 & wait"]);
    let own = Group(own.spawn().expect("a shell"));
    let below_own = || descendants(own.pid());
    eventually("its child", || !below_own().is_empty());
    let (guard, other) = (Group::sleeping(None), Group::sleeping(None));
    let found = below_this(Some(guard.pid()));
    assert!(found.contains(&other.pid()));
    for spared in [own.pid(), guard.pid()].into_iter().chain(below_own()) {
        assert!(!found.contains(&spared));
    }
    for process in below_own() {
        send(process, Signal::KILL);
    }
}
