//! Whole process trees: no orphans, no zombies, no leaked descriptors, and the primary as the first process of a container.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::symlink;
use std::process::Command;

use serde_json::Value;
use worksong_testkit::process::{self, Process};
use worksong_testkit::{Folder, Program, Signal, Worksong, binary, eventually, fixture, http, node};

/// Workers whose grandchildren are in sessions of their own, which no signal to a worker's group reaches.
fn with_grandchildren(options: &[&str]) -> (Worksong, Vec<Process>) {
    let worksong = Worksong::run(["-i", "2"])
        .args(options)
        .program(fixture("node/crash.js"))
        .args(["grandchild"])
        .start();
    worksong.wait_ready(2);
    let grandchildren = [0, 1].map(|slot| {
        let pid = worksong.wait_output("a grandchild", |line| {
            (line.slot == slot).then(|| line.line.strip_prefix("grandchild ")?.parse().ok())?
        });
        Process::find(pid).expect("the grandchild runs")
    });
    (worksong, grandchildren.to_vec())
}

fn wait_end(process: Process) {
    eventually(&format!("the end of process {}", process.pid()), || (!process.is_alive()).then_some(()));
}

/// A process that the testkit cannot find again by its environment.
struct Daemon(Process);

impl Drop for Daemon {
    fn drop(&mut self) {
        self.0.signal(Signal::KILL);
    }
}

/// The children of a process, zombies too.
fn all_children(pid: u32) -> Vec<u32> {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).expect("the process runs");
    let lists =
        tasks.flatten().map(|task| fs::read_to_string(task.path().join("children")).unwrap_or_default());
    lists
        .flat_map(|list| list.split_whitespace().filter_map(|pid| pid.parse().ok()).collect::<Vec<_>>())
        .collect()
}

/// The children of the primary that are no workers, zombies too: one is its guard.
fn children_beside(worksong: &Worksong, workers: &BTreeSet<u32>) -> BTreeSet<u32> {
    all_children(worksong.pid()).into_iter().filter(|child| !workers.contains(child)).collect()
}

#[test]
fn grandchildren_in_their_own_sessions_end_with_the_app() {
    // Node itself waits for its child until the deadline.
    for (drain, signals, code) in
        [("300ms", &[Signal::TERM][..], 0), ("10m", &[Signal::TERM, Signal::INT][..], 130)]
    {
        let (worksong, grandchildren) = with_grandchildren(&["--drain-timeout", drain]);
        for signal in signals {
            worksong.signal(*signal);
            worksong.wait_event("draining", |_| true);
        }
        assert_eq!(worksong.wait_exit().code(), Some(code));
        grandchildren.into_iter().for_each(wait_end);
    }
}

#[test]
fn a_stop_signal_of_its_own_goes_to_the_first_process_which_tells_its_children() {
    // A child that got SIGUSR2 itself would die of it, and the sum would be missing. (Of SIGQUIT not: a shell lets its
    // background processes ignore that.)
    const CHILD: &str = "trap 'echo told; exit 0' USR1; echo up; while :; do sleep 0.02; done";
    const LEADER: &str = "\
        sh -c \"$CHILD\" & child=$!
        trap 'asked=yes' USR2
        until test $asked; do wait $child; done
        kill -USR1 $child; wait $child; echo sum $?";
    let options = ["-i", "1", "--stop-signal", "USR2", "--dialect", "port"];
    let worksong = Worksong::run(options).args(["sh", "-c", LEADER]).env("CHILD", CHILD).start();
    worksong.wait_output("the child", |line| (line.line == "up").then_some(()));
    worksong.signal(Signal::TERM);
    assert!(worksong.wait_exit().success());
    let said: Vec<String> = worksong.output().into_iter().map(|output| output.line).collect();
    assert_eq!(said, ["up", "told", "sum 0"]);
    assert!(worksong.events().iter().all(|event| event.name() != "signalled"));
}

#[test]
fn what_a_stop_signal_was_passed_on_to_may_finish_after_the_first_process() {
    const CHILD: &str = "trap 'echo cut; exit 1' TERM; trap 'told=yes' USR1; echo up
        until test $told; do sleep 0.02; done; sleep 0.5; echo finished";
    const LEADER: &str = "sh -c \"$CHILD\" & trap 'kill -USR1 $!; exit 0' QUIT; while :; do wait; done";
    let options = ["-i", "1", "--stop-signal", "QUIT", "--dialect", "port"];
    let worksong = Worksong::run(options).args(["sh", "-c", LEADER]).env("CHILD", CHILD).start();
    worksong.wait_output("the child", |line| (line.line == "up").then_some(()));
    worksong.signal(Signal::TERM);
    assert!(worksong.wait_exit().success());
    let said: Vec<String> = worksong.output().into_iter().map(|output| output.line).collect();
    assert_eq!(said, ["up", "finished"]);
}

#[test]
fn what_a_shell_leaves_behind_that_died_of_the_stop_signal_is_ended() {
    // The shell does not end by executing its only command, and does not pass anything on.
    const PROGRAM: &str = "sh -c \"trap 'echo told; exit 0' TERM; echo up; while :; do sleep 0.02; done\"; :";
    let options = ["-i", "1", "--stop-signal", "QUIT", "--dialect", "port"];
    let worksong = Worksong::run(options).args(["sh", "-c", PROGRAM]).start();
    worksong.wait_output("the child", |line| (line.line == "up").then_some(()));
    worksong.signal(Signal::TERM);
    assert!(worksong.wait_exit().success());
    worksong.wait_output("its last word", |line| (line.line == "told").then_some(()));
}

#[test]
fn a_stop_signal_that_is_not_enough_is_followed_by_sigterm() {
    let program = "trap '' QUIT; trap 'echo told; exit 0' TERM; echo up; while :; do sleep 0.02; done";
    let options = ["-i", "1", "--stop-signal", "QUIT", "--dialect", "port", "--drain-timeout", "100ms"];
    let worksong = Worksong::run(options).args(["sh", "-c", program]).start();
    worksong.wait_output("the program", |line| (line.line == "up").then_some(()));
    worksong.signal(Signal::TERM);
    assert!(worksong.wait_exit().success());
    worksong.wait_output("its last word", |line| (line.line == "told").then_some(()));
    let signalled = worksong.wait_event("signalled", |_| true);
    assert_eq!(signalled["why"], "it did not end within 100ms of being asked to leave");
}

#[test]
fn a_grandchild_ends_with_its_crashed_worker_and_no_other() {
    let (worksong, grandchildren) = with_grandchildren(&[]);
    let worker = worksong.wait_event("ready", |event| event.slot() == 0).pid();
    process::kill(worker, Signal::KILL);
    wait_end(grandchildren[0]);
    assert!(grandchildren[1].is_alive());
    worksong.wait_event("ready", |event| event.slot() == 0 && event.pid() != worker);
}

#[test]
fn a_grandchild_that_ignores_sigterm_is_killed() {
    let folder = Folder::new();
    let script = "trap '' TERM; echo $$; while :; do sleep 1000; done";
    let program =
        folder.write("parent.sh", format!("setsid sh -c \"{}\" & wait\n", script.replace('$', "\\$")));
    let options = ["-i", "1", "--kill-timeout", "300ms", "--ready", "started"];
    let worksong = Worksong::run(options).program(program).start();
    let pid = worksong.wait_output("the grandchild", |line| line.line.parse().ok());
    let grandchild = Process::find(pid).unwrap();
    let worker = worksong.wait_event("ready", |_| true).pid();
    process::kill(worker, Signal::KILL);
    wait_end(grandchild);
}

#[test]
fn a_daemon_without_its_environment_ends_with_the_app() {
    let folder = Folder::new();
    // A double fork, a session of its own, and nothing in the environment: only its parent gives it away.
    let program = folder.write(
        "daemon.sh",
        "(env -i setsid sh -c 'echo $$ > \"$0\"; exec sleep 1000' \"$1\" < /dev/null > /dev/null 2>&1 &)\n\
         exec sleep 1000\n",
    );
    let file = folder.join("pid");
    let worksong = Worksong::run(["-i", "1", "--ready", "started"]).program(program).args([&file]).start();
    let pid = eventually("the daemon", || fs::read_to_string(&file).ok()?.trim().parse().ok());
    let daemon = Daemon(Process::find(pid).unwrap());
    eventually("its adoption", || all_children(worksong.pid()).contains(&pid).then_some(()));
    worksong.signal(Signal::TERM);
    assert_eq!(worksong.wait_exit().code(), Some(0));
    wait_end(daemon.0);
}

/// As a container's start script does it: what it started before is the primary's child, and not the primary's to end.
#[test]
fn children_from_before_it_was_executed_are_reaped_and_not_killed() {
    let script = "sleep 1000 > /dev/null 2>&1 & true & exec \"$0\" \"$@\"";
    let launch = Worksong::with(["-c", script]).binary("/bin/sh").args([binary("worksong")]);
    let worksong = launch.args(["run", "--json", "-i", "1"]).program(fixture("node/http.js")).start();
    let workers = worksong.wait_ready(1);
    let before = eventually("one child from before, and no zombie", || {
        let children = children_beside(&worksong, &workers);
        let is_guard = |child: &u32| {
            fs::read_to_string(format!("/proc/{child}/cmdline")).is_ok_and(|line| line.contains("guard"))
        };
        let others: Vec<u32> = children.into_iter().filter(|child| !is_guard(child)).collect();
        (others.len() == 1).then(|| Process::find(others[0]))?
    });
    let before = Daemon(before);
    worksong.signal(Signal::TERM);
    assert_eq!(worksong.wait_exit().code(), Some(0));
    assert!(before.0.is_alive());
}

#[test]
fn workers_end_when_the_primary_is_killed() {
    let worksong =
        Worksong::run(["-i", "2"]).program(fixture("node/crash.js")).args(["ignore-sigterm"]).start();
    let workers: Vec<Process> = worksong.wait_ready(2).into_iter().filter_map(Process::find).collect();
    assert_eq!(workers.len(), 2);
    worksong.signal(Signal::KILL);
    for worker in workers {
        wait_end(worker);
    }
}

#[test]
fn fifty_crashes_leave_no_zombie_and_no_descriptor() {
    let worksong =
        Worksong::run(["-i", "5", "--restart-delay", "1ms"]).program(fixture("node/http.js")).start();
    let mut pids = worksong.wait_ready(5);
    let others = children_beside(&worksong, &pids);
    let port = worksong.listening_port();
    http::get(port, "/").unwrap();
    let before = process::open_descriptors(worksong.pid()).unwrap();
    for _ in 0..10 {
        for pid in &pids {
            process::kill(*pid, Signal::KILL);
        }
        let next = eventually("five successors", || {
            let ready = worksong.wait_ready(5);
            ready.is_disjoint(&pids).then_some(ready)
        });
        pids = next;
    }
    http::get(port, "/").unwrap();
    assert_eq!(worksong.events().iter().filter(|event| event.name() == "exit").count(), 50);
    eventually("no more descriptors than before", || {
        (process::open_descriptors(worksong.pid()).unwrap() <= before).then_some(())
    });
    eventually("no other children than before", || {
        (children_beside(&worksong, &pids) == others).then_some(())
    });
}

#[test]
fn twenty_reloads_leave_no_zombie_and_no_descriptor() {
    let worksong = Worksong::run(["-i", "2"]).program(fixture("node/http.js")).start();
    let others = children_beside(&worksong, &worksong.wait_ready(2));
    let port = worksong.listening_port();
    http::get(port, "/").unwrap();
    let before = process::open_descriptors(worksong.pid()).unwrap();
    for generation in 2..=21 {
        worksong.signal(Signal::HUP);
        worksong.wait_event("reload_done", |event| event.generation() == generation);
    }
    http::get(port, "/").unwrap();
    eventually("the end of all predecessors", || (worksong.worker_pids().len() == 2).then_some(()));
    eventually("no more descriptors than before", || {
        (process::open_descriptors(worksong.pid()).unwrap() <= before).then_some(())
    });
    let others_now = || children_beside(&worksong, &worksong.worker_pids());
    eventually("no other children than before", || (others_now() == others).then_some(()));
}

#[expect(clippy::print_stdout, reason = "a skipped test says why")]
fn skip<T>(reason: &str) -> Option<T> {
    println!("skipped: {reason}");
    None
}

/// `worksong run` as process 1 of a pid namespace.
struct Container {
    unshare: Program,
    /// The primary's pid as it is seen from outside.
    primary: u32,
    _home: Folder,
}

impl Container {
    /// Returns `None`, with the reason printed, where namespaces are forbidden.
    fn start(arguments: &[&str]) -> Option<Self> {
        let isolated = ["--pid", "--fork", "--mount-proc", "--kill-child"];
        match Command::new("unshare").args(isolated).arg("true").output() {
            Ok(output) if output.status.success() => {}
            Ok(output) => {
                return skip(&format!("no pid namespaces here: {}", String::from_utf8_lossy(&output.stderr)));
            }
            Err(error) => return skip(&format!("no unshare command: {error}")),
        }
        let home = Folder::new();
        symlink(node("20"), home.join("node")).expect("a fresh folder takes a link");
        let mut command = Command::new("unshare");
        command.args(isolated).arg(binary("worksong")).args(["run", "--json"]).args(arguments);
        command.env_clear().env("HOME", home.path());
        command.env("PATH", format!("{}:/usr/local/bin:/usr/bin:/bin", home.path().display()));
        let unshare = Program::start(&mut command);
        let primary =
            eventually("process 1", || process::children(unshare.pid()).first().map(|child| child.pid()));
        Some(Self { unshare, primary, _home: home })
    }

    fn event(&self, name: &str) -> Value {
        self.unshare.wait_line(&format!("an event {name}"), |line| {
            let event: Value = serde_json::from_str(line).ok()?;
            (event["event"] == name).then_some(event)
        })
    }
}

#[test]
fn as_process_1_it_serves_reloads_and_stops() {
    let program = fixture("node/http.js");
    let Some(container) = Container::start(&["-i", "2", program.to_str().unwrap()]) else { return };
    let port = container.event("listening")["port"].as_u64().unwrap();
    let port = u16::try_from(port).unwrap();
    let forked = container.event("forked");
    assert!(forked["pid"].as_u64().unwrap() < 100, "pids are those of the namespace");
    assert_eq!(http::get(port, "/").unwrap().status, 200);
    process::kill(container.primary, Signal::HUP);
    container.event("reload_done");
    assert_eq!(http::get(port, "/").unwrap().status, 200);
    process::kill(container.primary, Signal::TERM);
    container.event("stopped");
    assert_eq!(container.unshare.wait_exit().code(), Some(0));
}

#[test]
fn as_process_1_it_reaps_what_others_left_behind() {
    let folder = Folder::new();
    // Twenty orphans that end at once, and one that stays.
    let program = folder.write(
        "orphans.sh",
        "for n in $(seq 20); do (sh -c 'exit 3' &); done; (setsid sleep 1000 &)\necho done\nexec sleep 1000\n",
    );
    let arguments = ["-i", "1", "--ready", "started", program.to_str().unwrap()];
    let Some(container) = Container::start(&arguments) else { return };
    container.unshare.wait_line("the last orphan", |line| line.contains("\"done\"").then_some(()));
    eventually("the worker, the orphan that stays, and no zombie", || {
        let children = all_children(container.primary);
        let sleep = |child: &&u32| {
            fs::read_to_string(format!("/proc/{child}/comm")).is_ok_and(|name| name == "sleep\n")
        };
        let sleeping = children.iter().filter(sleep).count();
        (sleeping == 2 && children.iter().all(|child| process::alive(*child))).then_some(())
    });
    process::kill(container.primary, Signal::INT);
    assert_eq!(container.unshare.wait_exit().code(), Some(0));
}

#[test]
fn as_process_1_its_exit_code_says_how_it_ended() {
    let program = fixture("node/crash.js");
    let program = program.to_str().unwrap();
    let crash = ["-i", "1", "--restart-delay", "1ms", "--max-restarts", "2", program, "exit", "7"];
    let Some(container) = Container::start(&crash) else { return };
    container.event("errored");
    assert_eq!(container.unshare.wait_exit().code(), Some(1));

    let stubborn = ["-i", "1", "--drain-timeout", "10m", program, "ignore-sigterm"];
    let Some(container) = Container::start(&stubborn) else { return };
    container.event("ready");
    process::kill(container.primary, Signal::TERM);
    container.event("draining");
    process::kill(container.primary, Signal::INT);
    assert_eq!(container.unshare.wait_exit().code(), Some(130));
}
