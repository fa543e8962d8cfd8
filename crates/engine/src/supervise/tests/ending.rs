//! Drain, stop, stop at once, smaller size, hung workers.

use super::*;

#[test]
fn a_serving_worker_is_asked_once_then_terminated_then_killed() {
    let mut trial = Trial::running(settings(1));
    assert_eq!(trial.stop(), ["[stopping: SIGTERM]", "leave 1", "[draining 1 Stop]", "disconnect 1"]);
    assert_eq!(trial.stop(), [""; 0], "a second stop");
    assert_eq!(
        trial.ring_after(seconds(30)),
        ["[SIGTERM 1: it did not end within 30s of being asked to leave]", "SIGTERM 1"]
    );
    assert_eq!(
        trial.ring_after(seconds(5)),
        ["[SIGKILL 1: it did not end within 5s of SIGTERM]", "SIGKILL 1"]
    );
    assert_eq!(trial.closed(1), ["[disconnected 1]"]);
    assert_eq!(
        trial.exited(1, 0),
        ["forget 1", "[exit 1 exit code 0 voluntary]", "[stopped]", "finished Stopped"]
    );
}

#[test]
fn a_worker_without_channel_or_listener_is_asked_by_signal() {
    let mut mute = Trial::running(Settings { has_channel: false, ..settings(1) });
    assert_eq!(mute.stop(), ["[stopping: SIGTERM]", "leave 1", "[draining 1 Stop]", "SIGTERM 1"]);
    let mut young = Trial::new(settings(1));
    young.on(Input::Start);
    young.spawned(1);
    assert_eq!(young.stop(), ["[stopping: SIGTERM]", "[draining 1 Stop]", "SIGTERM 1"]);
    for mut trial in [mute, young] {
        let kill = trial.ring_after(seconds(30));
        assert_eq!(kill, ["[SIGKILL 1: it did not end within 30s of SIGTERM]", "SIGKILL 1"]);
    }
}

#[test]
fn a_worker_that_listens_but_never_was_ready_is_asked_by_message() {
    let mut trial = Trial::new(Settings { ready: Ready::Message, ..settings(1) });
    trial.on(Input::Start);
    trial.make_ready(1);
    assert_eq!(trial.stop(), ["[stopping: SIGTERM]", "[draining 1 Stop]", "disconnect 1"]);
}

#[test]
fn stop_cancels_what_is_pending_and_restarts_nothing() {
    let mut trial = Trial::running(settings(3));
    trial.crash(1);
    trial.reload(7);
    trial.reload(8);
    let effects = trial.stop();
    assert_eq!(
        effects[..4],
        [
            "[stopping: SIGTERM]",
            "[reload to 2 failed: the app was told to end]",
            "reload 7 stopped",
            "reload 8 stopped"
        ]
    );
    assert_eq!(
        trial.spawned(4),
        ["[forked 4]", "[draining 4 Stop]", "SIGTERM 4"],
        "it became a process too late"
    );
    let ends = [trial.crash(2), trial.crash(3), trial.crash(4)].concat();
    assert_eq!(ends.iter().filter(|text| text.starts_with("spawn") || text.contains("restart")).count(), 0);
    assert_eq!(ends.last().map(String::as_str), Some("finished Stopped"));
    assert_eq!(trial.supervisor.next_deadline(), None);
    assert_eq!(trial.reload(9), ["reload 9 stopped"]);
    assert_eq!([trial.stop(), trial.on(Input::StopNow), trial.on(Input::Resize(5))].concat(), [""; 0]);
}

#[test]
fn a_worker_that_drains_already_is_not_asked_again() {
    let mut trial = Trial::running(settings(1));
    trial.reload(1);
    trial.make_ready(2);
    trial.pass(seconds(10));
    assert_eq!(trial.stop(), ["[stopping: SIGTERM]", "leave 2", "[draining 2 Stop]", "disconnect 2"]);
    let effects = trial.ring_after(seconds(20));
    assert_eq!(effects.last().map(String::as_str), Some("SIGTERM 1"), "its first deadline holds");
}

#[test]
fn stop_before_the_start_ends_at_once() {
    let mut trial = Trial::new(settings(1));
    assert_eq!(trial.reload(1), ["reload 1 stopped"]);
    assert_eq!(trial.stop(), ["[stopping: SIGTERM]", "[stopped]", "finished Stopped"]);
    assert_eq!(trial.on(Input::Start), [""; 0]);
}

#[test]
fn stop_now_kills_also_what_drains_already_and_what_becomes_a_process_later() {
    let mut trial = Trial::running(settings(2));
    trial.on(Input::Resize(3));
    trial.stop();
    let why = "the app was told to end at once";
    assert_eq!(
        trial.on(Input::StopNow),
        [&format!("[SIGKILL 1: {why}]"), "SIGKILL 1", &format!("[SIGKILL 2: {why}]"), "SIGKILL 2"]
    );
    assert_eq!(trial.on(Input::StopNow), [""; 0]);
    assert_eq!(trial.spawned(3), ["[forked 3]", &format!("[SIGKILL 3: {why}]"), "SIGKILL 3"]);
}

#[test]
fn stop_now_alone_takes_workers_out_of_rotation_first() {
    let mut trial = Trial::running(settings(1));
    assert_eq!(
        trial.on(Input::StopNow),
        [
            "[stopping: to end at once]",
            "leave 1",
            "[SIGKILL 1: the app was told to end at once]",
            "SIGKILL 1"
        ]
    );
}

#[test]
fn a_spawn_that_fails_after_stop_ends_the_app() {
    let mut trial = Trial::new(settings(1));
    trial.on(Input::Start);
    assert_eq!(trial.stop(), ["[stopping: SIGTERM]"]);
    assert_eq!(
        trial.on(Input::SpawnFailed {
            worker: worker(1),
            reason: "out of memory".to_owned(),
            blame: Blame::Program
        }),
        ["[spawn failed 1: out of memory]", "[stopped]", "finished Stopped"]
    );
}

#[test]
fn resize_fills_new_slots_and_drains_the_highest() {
    let mut trial = Trial::running(settings(2));
    assert_eq!(
        trial.on(Input::Resize(4)),
        ["spawn 3 in slot 2 generation 1", "spawn 4 in slot 3 generation 1"]
    );
    trial.make_ready(3);
    assert_eq!(
        trial.on(Input::Resize(1)),
        ["leave 3", "[draining 3 Resize]", "disconnect 3", "leave 2", "[draining 2 Resize]", "disconnect 2"],
        "the one that is no process yet is asked later"
    );
    assert_eq!(trial.spawned(4), ["[forked 4]", "[draining 4 Resize]", "SIGTERM 4"]);
    for number in 2..=4 {
        assert!(
            !trial.crash(number).iter().any(|text| text.contains("restart")),
            "nobody misses worker {number}"
        );
    }
    assert_eq!(trial.on(Input::Resize(0)), [""; 0], "an app keeps one slot");
    assert_eq!(trial.in_rotation(), [1]);
}

#[test]
fn a_worker_that_answers_again_is_no_longer_hung() {
    let mut trial = Trial::running(settings(1));
    let overdue = || Input::Overdue { worker: worker(1), waiting: seconds(1) };
    for _ in 0..2 {
        assert_eq!(trial.on(overdue()), ["[unresponsive 1]"]);
        assert_eq!(trial.on(overdue()), [""; 0], "once per episode");
        assert!(trial.supervisor.next_deadline().is_some());
        assert_eq!(trial.on(Input::Answering { worker: worker(1) }), ["[responsive 1]"]);
        assert_eq!(trial.on(Input::Answering { worker: worker(1) }), [""; 0]);
        assert_eq!(trial.supervisor.next_deadline(), None);
    }
}

#[test]
fn a_hung_worker_is_killed_and_counts_as_crashed() {
    let mut trial = Trial::running(settings(1));
    trial.on(Input::Overdue { worker: worker(1), waiting: seconds(1) });
    assert_eq!(
        trial.ring_after(seconds(29)),
        ["leave 1", "[SIGKILL 1: it left a connection or a ping unanswered for 30s]", "SIGKILL 1"]
    );
    trial.closed(1);
    assert_eq!(trial.exited(1, 1), ["forget 1", "[exit 1 exit code 1 crash]", "[restart slot 0 after 1]"]);
}

#[test]
fn a_hung_worker_that_was_told_to_leave_is_killed_no_later() {
    for has_channel in [true, false] {
        let mut trial = Trial::running(Settings { has_channel, ..settings(1) });
        trial.on(Input::Overdue { worker: worker(1), waiting: seconds(1) });
        trial.pass(seconds(20));
        trial.stop();
        assert_eq!(
            trial.ring_after(seconds(9)),
            ["[SIGKILL 1: it left a connection or a ping unanswered for 30s]", "SIGKILL 1"]
        );
    }
}

#[test]
fn a_worker_that_answers_again_while_it_leaves_has_its_whole_time() {
    let mut trial = Trial::running(settings(1));
    trial.on(Input::Overdue { worker: worker(1), waiting: seconds(1) });
    trial.stop();
    assert_eq!(trial.on(Input::Answering { worker: worker(1) }), ["[responsive 1]"]);
    let effects = trial.ring_after(seconds(30));
    assert_eq!(effects.last().map(String::as_str), Some("SIGTERM 1"));
}

#[test]
fn the_time_in_which_everything_stood_still_is_given_again() {
    let mut starts = Trial::new(settings(1));
    starts.on(Input::Start);
    starts.spawned(1);
    let mut hung = Trial::running(settings(1));
    hung.on(Input::Overdue { worker: worker(1), waiting: seconds(1) });
    let mut drains = Trial::running(settings(1));
    drains.stop();
    for mut trial in [starts, hung, drains] {
        let deadline = trial.supervisor.next_deadline().expect("it has one");
        let left = deadline.saturating_duration_since(trial.now);
        trial.pass(seconds(3_600));
        assert_eq!(trial.on(Input::Tick), [""; 0]);
        assert!(!trial.ring_after(left).is_empty(), "the second time it counts");
    }
}

#[test]
fn snapshot_shows_where_everything_stands() {
    let mut trial = Trial::running(settings(3));
    trial.on(Input::Overdue { worker: worker(1), waiting: seconds(1) });
    trial.crash(2);
    trial.on(Input::Resize(2));
    trial.reload(1);
    let snapshot = trial.supervisor.snapshot();
    assert_eq!((snapshot.generation, snapshot.reloading_to), (Generation(1), Some(Generation(2))));
    let [hung, empty] = &snapshot.slots[..] else { panic!("{snapshot:?}") };
    assert!(matches!(hung.state, SlotState::Filled(view) if view.state == WorkerState::Unresponsive));
    assert!(matches!(hung.successor, Some(view) if view.state == WorkerState::Spawning));
    assert!(matches!(empty.state, SlotState::BackingOff { .. }) && empty.failures == 1);
    let leaving: Vec<_> = snapshot.leaving.iter().map(|view| (view.worker.id.number, view.state)).collect();
    assert_eq!(leaving, [(3, WorkerState::Leaving)]);
}
