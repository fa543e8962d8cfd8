//! Workers that the kernel does not end: they wait inside it for something that does not answer.

use super::*;

/// Lets a worker hang until it is killed for it, and the kernel not end it.
fn survive(trial: &mut Trial, number: u32) -> Vec<String> {
    trial.on(Input::Overdue { worker: worker(number), waiting: seconds(30) });
    let killed = trial.ring_after(Duration::ZERO);
    assert_eq!(killed.last(), Some(&format!("SIGKILL {number}")));
    trial.ring_after(seconds(5))
}

#[test]
fn its_slot_is_filled_without_it_and_its_exit_is_told_when_it_comes() {
    let mut trial = Trial::running(settings(1));
    assert_eq!(survive(&mut trial, 1), ["[unkillable 1 after 5s]", "[restart slot 0 after 1]"]);
    let leaving: Vec<_> = trial.supervisor.snapshot().leaving.iter().map(|view| view.state).collect();
    assert_eq!(leaving, [WorkerState::Unkillable]);
    assert_eq!(trial.ring().1, ["spawn 2 in slot 0 generation 1"]);
    trial.make_ready(2);
    assert_eq!(trial.supervisor.next_deadline(), None, "nobody waits for it");
    trial.pass(seconds(3_600));
    trial.closed(1);
    assert_eq!(trial.exited(1, 1), ["forget 1", "[exit 1 exit code 1 crash]"], "its slot has failed once");
    assert_eq!(trial.supervisor.slots[0].failures, 1);
    assert_eq!(trial.in_rotation(), [2]);
}

#[test]
fn a_short_deadline_leaves_the_kernel_some_time() {
    let deadlines = Deadlines { kill: Duration::ZERO, ..Deadlines::default() };
    let mut trial = Trial::running(Settings { deadlines, ..settings(1) });
    trial.on(Input::StopNow);
    assert_eq!(trial.ring_after(seconds(1))[0], "[unkillable 1 after 1s]");
}

#[test]
fn the_time_in_which_everything_stood_still_is_the_kernels_too() {
    let mut trial = Trial::running(settings(2));
    trial.on(Input::Overdue { worker: worker(1), waiting: seconds(30) });
    trial.ring();
    trial.pass(seconds(3_600));
    assert_eq!(trial.on(Input::Tick), [""; 0]);
    assert_eq!(trial.ring_after(seconds(5))[0], "[unkillable 1 after 5s]");
}

#[test]
fn the_budget_does_not_wait_for_it() {
    let replacement = Replacement { surge: 1, parallel: Some(1) };
    let mut trial = Trial::running(Settings { replacement, ..settings(2) });
    trial.reload(1);
    assert_eq!(trial.make_ready(3).last().map(String::as_str), Some("disconnect 1"));
    trial.ring_after(seconds(30));
    trial.ring_after(seconds(5));
    let unkillable = ["[unkillable 1 after 5s]", "spawn 4 in slot 1 generation 2"];
    assert_eq!(trial.ring_after(seconds(5)), unkillable);
    assert_eq!(trial.make_ready(4).last().map(String::as_str), Some("reload 1 done: generation 2"));
    assert_eq!(trial.crash(1), ["[disconnected 1]", "forget 1", "[exit 1 exit code 1 voluntary]"]);
}

#[test]
fn a_reload_fails_by_it_once() {
    let mut trial = Trial::running(settings(2));
    trial.reload(1);
    trial.make_ready(3);
    trial.closed(3);
    trial.spawned(4);
    trial.ring_after(seconds(5));
    trial.ring_after(seconds(5));
    let failed = trial.ring_after(seconds(5));
    let reason = "worker 3 in slot 0 closed its channel 0 ms after it was ready and survives SIGKILL";
    assert_eq!(failed[..2], ["[unkillable 3 after 5s]", &format!("[reload to 2 failed: {reason}]")]);
    assert_eq!(failed.last().map(String::as_str), Some("[restart slot 0 after 1]"));
    trial.crash(4);
    trial.ring();
    trial.make_ready(5);
    trial.reload(2);
    assert_eq!(trial.exited(3, 1), ["forget 3", "[exit 3 exit code 1 crash]"], "the next one does not");
}

#[test]
fn the_app_ends_without_it() {
    let mut trial = Trial::running(settings(2));
    trial.stop();
    trial.crash(2);
    trial.ring_after(seconds(30));
    trial.ring_after(seconds(5));
    assert_eq!(
        trial.ring_after(seconds(5)),
        ["[unkillable 1 after 5s]", "forget 1", "[stopped]", "finished Stopped"]
    );
    assert_eq!(trial.crash(1), [""; 0]);
}

#[test]
fn the_app_does_not_end_before_an_exit_is_told_that_is_known() {
    let mut trial = Trial::running(settings(2));
    assert_eq!(survive(&mut trial, 1)[0], "[unkillable 1 after 5s]");
    trial.stop();
    assert_eq!(trial.exited(1, 1), [""; 0], "its channel may not be read to the end");
    assert_eq!(trial.crash(2).last().map(String::as_str), Some("[exit 2 exit code 1 voluntary]"));
    let ended =
        ["[disconnected 1]", "forget 1", "[exit 1 exit code 1 crash]", "[stopped]", "finished Stopped"];
    assert_eq!(trial.closed(1), ended);
}

#[test]
fn an_app_that_is_given_up_does_not_wait_for_it() {
    let restart = RestartPolicy { max_failures: 1, ..RestartPolicy::default() };
    let mut trial = Trial::running(Settings { restart, ..settings(1) });
    let ended = ["[unkillable 1 after 5s]", "[errored slot 0 after 1]", "finished Errored"];
    assert_eq!(survive(&mut trial, 1), ended);
    assert_eq!(trial.crash(1)[1..], ["forget 1", "[exit 1 exit code 1 crash]"]);
    assert_eq!(trial.reload(1).last().map(String::as_str), Some("spawn 2 in slot 0 generation 2"));
}
