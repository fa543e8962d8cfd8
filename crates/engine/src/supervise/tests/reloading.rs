//! Rolling reload: order, failure, interplay with crashes, queue.

use super::*;

#[test]
fn each_slot_gets_a_ready_successor_before_its_worker_is_asked() {
    let mut trial = Trial::running(settings(2));
    assert_eq!(trial.reload(5), ["[reload to 2]", "spawn 3 in slot 0 generation 2"]);
    assert_eq!(
        trial.make_ready(3),
        [
            "[forked 3]",
            "[listening 3]",
            "enter 3",
            "[ready 3]",
            "leave 1",
            "[draining 1 Reload]",
            "disconnect 1",
            "spawn 4 in slot 1 generation 2"
        ],
        "the next slot does not wait for the old worker's end"
    );
    trial.pass(seconds(2));
    let done = trial.make_ready(4);
    assert_eq!(
        done[2..],
        [
            "enter 4",
            "[ready 4]",
            "leave 2",
            "[draining 2 Reload]",
            "disconnect 2",
            "[reloaded to 2]",
            "reload 5 done: generation 2"
        ]
    );
    trial.crash(3);
    assert_eq!(trial.ring().1, ["spawn 5 in slot 0 generation 2"], "restarts are of the new generation");
}

#[test]
fn surge_starts_so_many_successors_at_a_time() {
    let replacement = Replacement { surge: 2, ..Replacement::default() };
    let mut trial = Trial::running(Settings { replacement, ..settings(3) });
    assert_eq!(
        trial.reload(1),
        ["[reload to 2]", "spawn 4 in slot 0 generation 2", "spawn 5 in slot 1 generation 2"]
    );
    assert_eq!(
        trial.make_ready(5).last().map(String::as_str),
        Some("spawn 6 in slot 2 generation 2"),
        "whichever is first makes room"
    );
    trial.make_ready(6);
    assert_eq!(trial.make_ready(4).last().map(String::as_str), Some("reload 1 done: generation 2"));
}

#[test]
fn parallel_waits_until_predecessors_are_gone() {
    let replacement = Replacement { surge: 2, parallel: Some(2) };
    let mut trial = Trial::running(Settings { replacement, ..settings(4) });
    trial.reload(1);
    let moved = trial.make_ready(5);
    assert_eq!(moved.last().map(String::as_str), Some("disconnect 1"), "no third one is begun: {moved:?}");
    trial.make_ready(6);
    assert_eq!(trial.crash(1).last().map(String::as_str), Some("spawn 7 in slot 2 generation 2"));
    assert_eq!(trial.make_ready(7).last().map(String::as_str), Some("disconnect 3"));
    assert_eq!(trial.crash(3).last().map(String::as_str), Some("spawn 8 in slot 3 generation 2"));
    assert_eq!(trial.make_ready(8).last().map(String::as_str), Some("reload 1 done: generation 2"));
}

#[test]
fn by_default_there_are_two_processes_for_a_slot_at_most() {
    let mut trial = Trial::running(settings(1));
    trial.reload(1);
    trial.make_ready(2);
    assert_eq!(trial.reload(2), ["[reload to 3]"], "worker 1 has not gone yet");
    assert_eq!(trial.crash(1).last().map(String::as_str), Some("spawn 3 in slot 0 generation 3"));
}

#[test]
fn crashed_and_hung_workers_are_not_delayed_by_the_budget() {
    let replacement = Replacement { surge: 1, parallel: Some(1) };
    let mut trial = Trial::running(Settings { replacement, ..settings(2) });
    trial.reload(1);
    trial.spawned(3);
    trial.crash(2);
    assert_eq!(trial.ring().1, ["spawn 4 in slot 1 generation 1"]);
    trial.make_ready(4);
    trial.on(Input::Overdue { worker: worker(4), waiting: seconds(30) });
    trial.ring_after(Duration::ZERO);
    trial.crash(4);
    assert_eq!(trial.ring().1, ["spawn 5 in slot 1 generation 1"], "nor is one that hung");
}

#[test]
fn a_successor_that_cannot_say_that_it_is_ready_has_to_live_for_a_while() {
    let mut trial = Trial::new(Settings { ready: Ready::Started, ..settings(1) });
    trial.on(Input::Start);
    trial.spawned(1);
    trial.reload(1);
    assert_eq!(trial.spawned(2), ["[forked 2]"], "its predecessor stays for now");
    let moved = trial.ring_after(seconds(1));
    assert_eq!(moved[..4], ["enter 2", "[ready 2]", "leave 1", "[draining 1 Reload]"]);
    assert_eq!(moved.last().map(String::as_str), Some("reload 1 done: generation 2"));

    trial.crash(1);
    trial.reload(2);
    trial.spawned(3);
    assert_eq!(trial.listening(3)[1..3], ["enter 3", "[ready 3]"], "one that listens need not wait");

    trial.crash(2);
    trial.reload(3);
    trial.spawned(4);
    let failed = trial.crash(4);
    assert!(failed.iter().any(|effect| effect.starts_with("[reload to 4 failed: ")), "{failed:?}");
    assert!(!failed.iter().any(|effect| effect.contains("draining 3")), "{failed:?}");
}

#[test]
fn a_successor_of_workers_that_listen_has_to_listen() {
    let mut trial = Trial::new(Settings { ready: Ready::Observed, ..settings(2) });
    trial.on(Input::Start);
    trial.spawned(1);
    trial.spawned(2);
    trial.reload(1);
    trial.spawned(3);
    trial.listening(1);
    assert_eq!(trial.ring_after(seconds(1))[0], "enter 3", "it was started when nothing was known");

    trial.crash(1);
    assert_eq!(trial.spawned(4), ["[forked 4]"]);
    let failed = trial.ring_after(seconds(30));
    assert_eq!(
        failed[0],
        "[reload to 2 failed: worker 4 in slot 1 was not ready within 30s: nothing was heard of it]"
    );
    assert_eq!(trial.in_rotation(), [2, 3]);
}

#[test]
fn a_successor_that_is_late_fails_the_reload_and_nothing_else() {
    let mut trial = Trial::running(settings(2));
    trial.reload(1);
    trial.spawned(3);
    let reason = "worker 3 in slot 0 was not ready within 30s: nothing was heard of it";
    assert_eq!(
        trial.ring_after(seconds(30)),
        [
            &format!("[reload to 2 failed: {reason}]"),
            "[draining 3 NotReady]",
            "SIGTERM 3",
            &format!("reload 1 failed: {reason} []")
        ]
    );
    assert_eq!(trial.in_rotation(), [1, 2]);
    assert_eq!(trial.listening(3), ["[listening 3]"], "too late, it does not come into rotation");
    trial.crash(1);
    assert_eq!(trial.ring().1, ["spawn 4 in slot 0 generation 1"], "the old generation goes on");
    assert_eq!(trial.reload(2)[0], "[reload to 3]", "generations are not reused");
}

#[test]
fn a_successor_that_ends_before_it_is_ready_fails_the_reload_with_its_last_words() {
    let reason = "worker 2 in slot 0 ended before it was ready: exit code 1";
    for exit_first in [false, true] {
        let mut trial = Trial::running(settings(1));
        trial.reload(1);
        trial.spawned(2);
        let effects =
            if exit_first { [trial.exited(2, 1), trial.closed(2)].concat() } else { trial.crash(2) };
        assert_eq!(
            effects,
            [
                "[disconnected 2]",
                "forget 2",
                "[exit 2 exit code 1 crash]",
                &format!("[reload to 2 failed: {reason}]"),
                &format!("reload 1 failed: {reason} [\"last words of 2\"]")
            ]
        );
        assert_eq!(trial.supervisor.next_deadline(), None, "no back-off: the slot is filled");
        assert_eq!(trial.in_rotation(), [1]);
    }
}

#[test]
fn a_successor_that_cannot_start_or_leaves_fails_the_reload() {
    let spawn_failed =
        Input::SpawnFailed { worker: worker(2), reason: "no such file".to_owned(), blame: Blame::Program };
    let cases = [
        (spawn_failed, "worker 2 in slot 0 could not be started: no such file"),
        (Input::Leaving { worker: worker(2) }, "worker 2 in slot 0 left before it was ready"),
    ];
    for (input, reason) in cases {
        let mut trial = Trial::running(settings(1));
        trial.reload(1);
        let effects = trial.on(input);
        assert_eq!(effects.last(), Some(&format!("reload 1 failed: {reason} []")));
        assert!(trial.supervisor.slots[0].successor.is_none());
        assert_eq!(trial.in_rotation(), [1]);
    }
}

#[test]
fn slots_that_have_moved_before_a_failure_keep_their_worker_but_trust_the_old_generation() {
    let mut trial = Trial::running(settings(3));
    trial.reload(1);
    trial.make_ready(4);
    trial.make_ready(5);
    trial.pass(seconds(1));
    trial.crash(5);
    assert_eq!(trial.ring().1, ["spawn 7 in slot 1 generation 2"], "a moved slot restarts in its generation");
    trial.spawned(7);
    trial.spawned(6);
    let effects = trial.crash(6);
    assert!(effects.contains(&"[draining 7 NotReady]".to_owned()), "{effects:?}");
    assert!(effects.contains(&"spawn 8 in slot 1 generation 1".to_owned()), "{effects:?}");
    assert_eq!(trial.in_rotation(), [3, 4]);
    trial.crash(4);
    assert_eq!(trial.ring().1, ["spawn 9 in slot 0 generation 1"]);
}

#[test]
fn a_restarted_worker_of_the_new_generation_can_fail_the_reload_too() {
    let mut trial = Trial::running(settings(2));
    trial.reload(1);
    trial.make_ready(3);
    trial.pass(seconds(1));
    trial.crash(3);
    trial.ring();
    trial.spawned(5);
    let effects = trial.crash(5);
    let failed =
        "reload 1 failed: worker 5 in slot 0 ended before it was ready: exit code 1 [\"last words of 5\"]";
    assert!(effects.contains(&failed.to_owned()), "{effects:?}");
}

#[test]
fn a_new_generation_that_crashes_over_and_over_fails_the_reload() {
    let mut trial = Trial::running(settings(2));
    trial.reload(1);
    trial.make_ready(3);
    trial.pass(seconds(1));
    trial.crash(3);
    trial.ring();
    trial.make_ready(5);
    trial.pass(seconds(1));
    trial.crash(5);
    trial.ring();
    trial.make_ready(6);
    trial.pass(seconds(1));
    let effects = trial.crash(6);
    let failed = "reload 1 failed: slot 0 failed 3 times in a row []";
    assert!(effects.contains(&failed.to_owned()), "{effects:?}");
}

#[test]
fn a_reload_is_done_only_when_every_slot_is_served() {
    let mut trial = Trial::running(settings(2));
    trial.reload(1);
    trial.make_ready(3);
    trial.pass(seconds(1));
    trial.crash(3);
    assert_eq!(trial.make_ready(4).last().map(String::as_str), Some("[listening 4]"), "slot 0 is empty now");
    trial.ring();
    assert_eq!(trial.make_ready(5).last().map(String::as_str), Some("reload 1 done: generation 2"));
}

#[test]
fn slots_without_a_worker_get_theirs_the_same_way() {
    let mut trial = Trial::running(settings(1));
    trial.crash(1);
    assert_eq!(trial.reload(1), ["[reload to 2]", "spawn 2 in slot 0 generation 2"]);
    trial.spawned(2);
    trial.pass(seconds(1));
    assert_eq!(trial.on(Input::Tick), [""; 0], "the slot does not also restart");
    assert_eq!(trial.listening(2).last().map(String::as_str), Some("reload 1 done: generation 2"));
}

#[test]
fn the_successor_takes_the_slot_of_a_worker_that_crashed_meanwhile() {
    let mut trial = Trial::running(settings(2));
    trial.reload(1);
    trial.spawned(3);
    let crash = trial.crash(1);
    assert_eq!(
        crash.last().map(String::as_str),
        Some("[exit 1 exit code 1 crash]"),
        "no restart is announced"
    );
    trial.crash(2);
    assert_eq!(trial.ring().1, ["spawn 4 in slot 1 generation 1"], "another slot restarts as ever");
    assert_eq!(trial.listening(3).last().map(String::as_str), Some("spawn 5 in slot 1 generation 2"));
    trial.spawned(4);
    assert_eq!(
        trial.make_ready(5)[2..],
        [
            "enter 5",
            "[ready 5]",
            "[draining 4 Reload]",
            "SIGTERM 4",
            "[reloaded to 2]",
            "reload 1 done: generation 2"
        ]
    );
}

#[test]
fn a_slot_that_lost_both_workers_restarts_the_old_one() {
    let mut trial = Trial::running(settings(1));
    trial.reload(1);
    trial.spawned(2);
    trial.crash(1);
    let effects = trial.crash(2);
    assert!(effects.contains(&"[restart slot 0 after 1]".to_owned()), "{effects:?}");
    assert_eq!(trial.ring().1, ["spawn 3 in slot 0 generation 1"]);
}

#[test]
fn a_worker_that_leaves_while_its_successor_starts_is_not_replaced_twice() {
    let mut trial = Trial::running(settings(1));
    trial.pass(seconds(60));
    trial.reload(1);
    trial.spawned(2);
    assert_eq!(trial.on(Input::Leaving { worker: worker(1) }), ["leave 1", "[draining 1 Asked]"]);
    trial.crash(2);
    assert_eq!(trial.ring_after(Duration::ZERO), ["spawn 3 in slot 0 generation 1"]);
}

#[test]
fn one_reload_runs_and_the_newest_waits() {
    let mut trial = Trial::running(settings(1));
    trial.reload(1);
    assert_eq!(trial.reload(2), [""; 0]);
    assert_eq!(trial.reload(3), ["reload 2 superseded"]);
    let effects = trial.make_ready(2);
    assert_eq!(effects[effects.len() - 2..], ["reload 1 done: generation 2", "[reload to 3]"]);
    assert_eq!(trial.crash(1).last().map(String::as_str), Some("spawn 3 in slot 0 generation 3"));
    trial.spawned(3);
    trial.reload(4);
    let effects = trial.crash(3);
    assert_eq!(effects[effects.len() - 2..], ["[reload to 4]", "spawn 4 in slot 0 generation 4"]);
}

#[test]
fn a_smaller_size_drops_the_successors_of_its_slots() {
    let mut trial = Trial::running(settings(2));
    trial.reload(1);
    trial.make_ready(3);
    trial.spawned(4);
    assert_eq!(
        trial.on(Input::Resize(1)),
        [
            "leave 2",
            "[draining 2 Resize]",
            "disconnect 2",
            "[draining 4 Resize]",
            "SIGTERM 4",
            "[reloaded to 2]",
            "reload 1 done: generation 2"
        ]
    );
}

#[test]
fn slots_that_are_added_during_a_reload_move_too() {
    let mut trial = Trial::running(settings(1));
    trial.reload(1);
    assert_eq!(trial.on(Input::Resize(2)), ["spawn 3 in slot 1 generation 1"]);
    assert_eq!(trial.make_ready(2).last().map(String::as_str), Some("spawn 4 in slot 1 generation 2"));
    assert_eq!(trial.make_ready(4).last().map(String::as_str), Some("reload 1 done: generation 2"));
}
