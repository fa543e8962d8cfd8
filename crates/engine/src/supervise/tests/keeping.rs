//! Start, ready, crash, back-off, leaving by itself, the two halves of an end.

use super::*;

#[test]
fn start_spawns_every_slot_and_reports_what_it_hears() {
    let mut trial = Trial::new(settings(2));
    assert_eq!(trial.on(Input::Start), ["spawn 1 in slot 0 generation 1", "spawn 2 in slot 1 generation 1"]);
    assert_eq!(trial.on(Input::Start), [""; 0], "a second start");
    assert_eq!(trial.spawned(1), ["[forked 1]"]);
    assert_eq!(trial.on(Input::Online { worker: worker(1) }), ["[online 1]"]);
    assert_eq!(trial.listening(1), ["[listening 1]", "enter 1", "[ready 1]"]);
    assert_eq!(trial.listening(1), ["[listening 1]"], "one more address");
}

#[test]
fn ready_is_what_the_settings_say() {
    let on_message = |trial: &mut Trial| trial.on(Input::ReadyMessage { worker: worker(1) });
    let cases: [(Ready, bool, [&[&str]; 3]); 6] = [
        (Ready::Auto, true, [&["[forked 1]"], &[], &["[listening 1]", "enter 1", "[ready 1]"]]),
        (Ready::Auto, false, [&["[forked 1]", "enter 1", "[ready 1]"], &[], &["[listening 1]"]]),
        (Ready::Listening, true, [&["[forked 1]"], &[], &["[listening 1]", "enter 1", "[ready 1]"]]),
        (Ready::Message, true, [&["[forked 1]"], &["enter 1", "[ready 1]"], &["[listening 1]"]]),
        (Ready::Observed, true, [&["[forked 1]", "enter 1", "[ready 1]"], &[], &["[listening 1]"]]),
        (Ready::Started, true, [&["[forked 1]", "enter 1", "[ready 1]"], &[], &["[listening 1]"]]),
    ];
    for (ready, has_channel, [at_spawned, at_message, at_listening]) in cases {
        let mut trial = Trial::new(Settings { has_channel, ready: ready.clone(), ..settings(1) });
        trial.on(Input::Start);
        assert_eq!(trial.spawned(1), at_spawned, "{ready:?}");
        assert_eq!(on_message(&mut trial), at_message, "{ready:?}");
        assert_eq!(trial.listening(1), at_listening, "{ready:?}");
        assert_eq!(trial.in_rotation(), [1]);
    }
}

#[test]
fn listening_is_not_enough_where_a_message_is_asked_for() {
    let mut trial = Trial::new(Settings { ready: Ready::Message, ..settings(1) });
    trial.on(Input::Start);
    assert_eq!(trial.make_ready(1), ["[forked 1]", "[listening 1]"]);
    assert_eq!(trial.in_rotation(), [0; 0]);
}

#[test]
fn a_late_first_worker_is_reported_once_and_kept() {
    let mut trial = Trial::new(settings(1));
    trial.on(Input::Start);
    trial.spawned(1);
    assert_eq!(trial.ring_after(seconds(30)), ["[not ready 1: nothing was heard of it]"]);
    assert_eq!(trial.supervisor.next_deadline(), None);
    assert_eq!(trial.listening(1), ["[listening 1]", "enter 1", "[ready 1]"]);
}

#[test]
fn a_crash_backs_off_twice_as_long_each_time_until_the_slot_is_given_up() {
    let mut trial = Trial::running(settings(2));
    assert_eq!(
        trial.crash(1),
        ["[disconnected 1]", "leave 1", "forget 1", "[exit 1 exit code 1 crash]", "[restart slot 0 after 1]"]
    );
    let (waited, effects) = trial.ring();
    assert!(waited >= Duration::from_millis(75) && waited <= Duration::from_millis(125), "{waited:?}");
    assert_eq!(effects, ["spawn 3 in slot 0 generation 1"]);

    trial.spawned(3);
    assert_eq!(trial.crash(3).last().map(String::as_str), Some("[restart slot 0 after 2]"));
    let (waited, effects) = trial.ring();
    assert!(waited >= Duration::from_millis(150) && waited <= Duration::from_millis(250), "{waited:?}");
    assert_eq!(effects, ["spawn 4 in slot 0 generation 1"]);

    let failed = trial.on(Input::SpawnFailed {
        worker: worker(4),
        reason: "no such file".to_owned(),
        blame: Blame::Program,
    });
    assert_eq!(failed, ["[spawn failed 4: no such file]", "[errored slot 0 after 3]"]);
    assert_eq!(trial.in_rotation(), [2], "the other slot goes on");
    assert_eq!(trial.supervisor.next_deadline(), None);
}

#[test]
fn a_slot_is_not_given_up_for_what_the_system_lacks() {
    let mut trial = Trial::running(settings(1));
    let mut expected = vec!["[restart slot 0 after 1]"];
    assert_eq!(trial.crash(1).last().map(String::as_str), expected.pop());
    for number in 2..20 {
        trial.ring();
        let reason = "too many open files".to_owned();
        let failed = trial.on(Input::SpawnFailed { worker: worker(number), reason, blame: Blame::System });
        assert_eq!(
            failed.last().map(String::as_str),
            Some("[restart slot 0 after 2]"),
            "one before the last"
        );
    }
    trial.ring();
    trial.spawned(20);
    assert!(trial.crash(20).contains(&"[errored slot 0 after 3]".to_owned()), "what the program does counts");
}

#[test]
fn exit_code_0_without_being_asked_is_a_failure_too() {
    let mut trial = Trial::running(settings(1));
    trial.closed(1);
    assert_eq!(trial.exited(1, 0), ["forget 1", "[exit 1 exit code 0 crash]", "[restart slot 0 after 1]"]);
}

#[test]
fn failures_are_forgiven_after_a_stable_time_in_which_the_worker_was_ready() {
    for (up, was_ready, expected) in [
        (30, true, "[restart slot 0 after 1]"),
        (29, true, "[restart slot 0 after 2]"),
        (31, false, "[restart slot 0 after 2]"),
    ] {
        let mut trial = Trial::running(settings(1));
        trial.crash(1);
        trial.ring();
        trial.spawned(2);
        if was_ready {
            trial.listening(2);
        }
        trial.pass(seconds(up));
        assert_eq!(
            trial.crash(2).last().map(String::as_str),
            Some(expected),
            "up {up} s, ready: {was_ready}"
        );
    }
}

#[test]
fn an_app_with_every_slot_given_up_is_errored_and_a_reload_revives_it() {
    let mut trial = Trial::new(settings(1));
    trial.on(Input::Start);
    for number in 1..=2 {
        trial.spawned(number);
        trial.crash(number);
        trial.ring();
    }
    trial.spawned(3);
    let end = trial.crash(3);
    assert_eq!(end[end.len() - 2..], ["[errored slot 0 after 3]", "finished Errored"]);
    assert_eq!(trial.reload(1), ["[reload to 2]", "spawn 4 in slot 0 generation 2"]);
    trial.spawned(4);
    let done = trial.listening(4);
    assert_eq!(done[1..], ["enter 4", "[ready 4]", "[reloaded to 2]", "reload 1 done: generation 2"]);
    assert_eq!(trial.supervisor.slots[0].failures, 0, "a revived slot starts afresh");
}

#[test]
fn a_worker_that_leaves_by_itself_is_replaced_at_once() {
    let mut trial = Trial::running(settings(1));
    trial.pass(seconds(1));
    assert_eq!(
        trial.on(Input::Leaving { worker: worker(1) }),
        ["leave 1", "[draining 1 Asked]", "spawn 2 in slot 0 generation 1"]
    );
    assert_eq!(trial.on(Input::Leaving { worker: worker(1) }), [""; 0]);
    assert_eq!(trial.closed(1), ["[disconnected 1]"]);
    assert_eq!(trial.exited(1, 0), ["forget 1", "[exit 1 exit code 0 voluntary]"]);
    assert_eq!(trial.supervisor.slots[0].failures, 0);
}

#[test]
fn an_exit_may_be_noticed_before_the_words_that_announced_it() {
    let mut trial = Trial::running(settings(1));
    trial.pass(seconds(1));
    assert_eq!(trial.exited(1, 0), ["leave 1"]);
    assert_eq!(
        trial.on(Input::Leaving { worker: worker(1) }),
        ["[draining 1 Asked]", "spawn 2 in slot 0 generation 1"]
    );
    assert_eq!(trial.on(Input::Leaving { worker: worker(1) }), [""; 0]);
    assert_eq!(trial.closed(1), ["[disconnected 1]", "forget 1", "[exit 1 exit code 0 voluntary]"]);
    assert_eq!(trial.supervisor.slots[0].failures, 0);
}

#[test]
fn a_worker_that_leaves_right_after_its_start_backs_off() {
    let mut trial = Trial::running(settings(1));
    trial.pass(Duration::from_millis(999));
    let effects = trial.on(Input::Leaving { worker: worker(1) });
    assert_eq!(effects, ["leave 1", "[draining 1 Asked]", "[restart slot 0 after 1]"]);
    assert_eq!(trial.ring().1, ["spawn 2 in slot 0 generation 1"]);
}

#[test]
fn a_worker_that_leaves_by_itself_keeps_the_deadlines() {
    let mut trial = Trial::running(settings(1));
    trial.pass(seconds(60));
    trial.on(Input::Leaving { worker: worker(1) });
    trial.make_ready(2);
    assert_eq!(
        trial.ring_after(seconds(30)),
        ["[SIGTERM 1: it did not end within 30s of being asked to leave]", "SIGTERM 1"]
    );
    assert_eq!(
        trial.ring_after(seconds(5)),
        ["[SIGKILL 1: it did not end within 5s of SIGTERM]", "SIGKILL 1"]
    );
}

#[test]
fn a_stop_signal_asks_and_sigterm_comes_when_it_was_not_enough() {
    let mut trial = Trial::new(Settings { has_channel: false, stop_signal: own_signal(), ..settings(1) });
    trial.on(Input::Start);
    trial.spawned(1);
    let stop = Input::Stop { reason: String::new() };
    assert_eq!(trial.on(stop), ["[stopping: ]", "leave 1", "[draining 1 Stop]", "ask 1 by SIGQUIT"]);
    assert_eq!(
        trial.ring_after(seconds(30)),
        ["[SIGTERM 1: it did not end within 30s of being asked to leave]", "SIGTERM 1"]
    );
    assert_eq!(
        trial.ring_after(seconds(5)),
        ["[SIGKILL 1: it did not end within 5s of SIGTERM]", "SIGKILL 1"]
    );
}

#[test]
fn gone_is_exit_and_closed_channel_in_either_order() {
    let mut trial = Trial::running(settings(2));
    assert_eq!(trial.exited(1, 1), ["leave 1"]);
    let end = ["[disconnected 1]", "forget 1", "[exit 1 exit code 1 crash]", "[restart slot 0 after 1]"];
    assert_eq!(trial.closed(1), end);
    assert_eq!(trial.closed(2), ["[disconnected 2]", "leave 2"]);
    assert_eq!(trial.exited(2, 1), ["forget 2", "[exit 2 exit code 1 crash]", "[restart slot 1 after 1]"]);
    assert_eq!(
        [trial.closed(1), trial.exited(1, 1), trial.exited(2, 1)].concat(),
        [""; 0],
        "late repetitions"
    );
}

#[test]
fn a_channel_that_a_stray_child_holds_open_does_not_keep_the_slot_empty() {
    let mut trial = Trial::running(settings(1));
    trial.exited(1, 1);
    let why = "its process ended, but something that it started holds its channel open";
    assert_eq!(
        trial.ring_after(seconds(1)),
        [
            &format!("[SIGKILL 1: {why}]"),
            "SIGKILL 1",
            "forget 1",
            "[exit 1 exit code 1 crash]",
            "[restart slot 0 after 1]"
        ]
    );
}

#[test]
fn without_a_channel_the_exit_is_the_end() {
    let mut trial = Trial::running(Settings { has_channel: false, ..settings(1) });
    assert_eq!(trial.closed(1), [""; 0]);
    assert_eq!(
        trial.exited(1, 1),
        ["leave 1", "forget 1", "[exit 1 exit code 1 crash]", "[restart slot 0 after 1]"]
    );
}

#[test]
fn a_worker_that_closes_its_channel_and_stays_is_ended_and_counts_as_crashed() {
    let mut trial = Trial::running(settings(1));
    assert_eq!(trial.closed(1), ["[disconnected 1]", "leave 1"]);
    assert_eq!(
        trial.ring_after(seconds(5)),
        ["[SIGTERM 1: it did not end within 5s of closing its channel]", "SIGTERM 1"]
    );
    assert_eq!(
        trial.ring_after(seconds(5)),
        ["[SIGKILL 1: it did not end within 5s of SIGTERM]", "SIGKILL 1"]
    );
    assert_eq!(trial.exited(1, 1), ["forget 1", "[exit 1 exit code 1 crash]", "[restart slot 0 after 1]"]);
}

#[test]
fn facts_about_unknown_workers_and_other_apps_change_nothing() {
    let mut trial = Trial::running(settings(1));
    let other_app = WorkerId { app: AppId(9), number: 1 };
    for worker in [worker(0), worker(99), other_app] {
        for input in [
            Input::Spawned { worker, pid: 1 },
            Input::SpawnFailed { worker, reason: String::new(), blame: Blame::Program },
            Input::Online { worker },
            Input::Listening { worker, address: String::new(), port: None },
            Input::ReadyMessage { worker },
            Input::Leaving { worker },
            Input::ChannelClosed { worker, open: None },
            Input::Exited { worker, status: ExitStatus::Signal(11), stderr: Vec::new() },
            Input::Overdue { worker, waiting: seconds(1) },
            Input::Answering { worker },
        ] {
            assert_eq!(trial.on(input.clone()), [""; 0], "{input:?}");
        }
    }
    assert_eq!(trial.spawned(1), [""; 0], "a repetition");
    let late = Input::SpawnFailed { worker: worker(1), reason: String::new(), blame: Blame::Program };
    assert_eq!(trial.on(late), [""; 0], "it has been a process");
    assert_eq!(trial.in_rotation(), [1]);
}

#[test]
fn absurd_deadlines_do_not_overflow() {
    let never = Duration::MAX;
    let deadlines = Deadlines { ready: never, drain: never, kill: never, hung: never, hold: never };
    let mut trial = Trial::running(Settings { deadlines, ..settings(2) });
    trial.on(Input::Overdue { worker: worker(1), waiting: never });
    trial.closed(2);
    trial.stop();
    assert!(trial.supervisor.next_deadline().is_some());
}
