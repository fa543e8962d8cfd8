//! Recycle: reasons, the budget, failing successors, interplay with reload, crash and size.

use super::*;
use crate::event::RecycleReason;

fn limited(instances: u32, recycle: RecycleLimits) -> Settings {
    Settings { recycle, ..settings(instances) }
}

fn by_age(instances: u32) -> Settings {
    limited(instances, RecycleLimits { max_age: Some(seconds(100)), ..RecycleLimits::default() })
}

/// An app whose workers have served for a minute.
fn seasoned(settings: Settings) -> Trial {
    let mut trial = Trial::running(settings);
    trial.pass(seconds(60));
    trial
}

impl Trial {
    fn asks(&mut self, number: u32) -> Vec<String> {
        self.on(Input::AsksForSuccessor { worker: worker(number) })
    }
}

#[test]
fn a_worker_that_asks_is_replaced_by_a_ready_successor() {
    let mut trial = seasoned(settings(2));
    assert_eq!(trial.asks(1), ["[recycling 1 Asked]", "spawn 3 in slot 0 generation 1"]);
    assert_eq!(trial.asks(1), [""; 0], "asking twice changes nothing");
    assert_eq!(
        trial.make_ready(3)[2..],
        ["enter 3", "[ready 3]", "leave 1", "[draining 1 Recycle]", "disconnect 1"]
    );
    assert_eq!(trial.crash(1)[2..], ["[exit 1 exit code 1 voluntary]"], "nobody misses it");
    assert_eq!(trial.in_rotation(), [2, 3]);
    assert_eq!(trial.supervisor.next_deadline(), None);
}

#[test]
fn one_budget_holds_for_all_that_ask() {
    let mut trial = seasoned(settings(3));
    assert_eq!(trial.asks(1).len(), 2);
    assert_eq!(trial.asks(2), ["[recycling 2 Asked]"]);
    assert_eq!(trial.asks(3), ["[recycling 3 Asked]"]);
    assert_eq!(trial.make_ready(4).last().map(String::as_str), Some("spawn 5 in slot 1 generation 1"));

    let replacement = Replacement { surge: 3, parallel: Some(1) };
    let mut trial = seasoned(Settings { replacement, ..settings(2) });
    trial.asks(1);
    trial.asks(2);
    assert_eq!(trial.make_ready(3).last().map(String::as_str), Some("disconnect 1"));
    assert_eq!(trial.crash(1).last().map(String::as_str), Some("spawn 4 in slot 1 generation 1"));
}

#[test]
fn who_is_oldest_is_replaced_first() {
    let mut trial = seasoned(settings(3));
    for number in 1..=3 {
        trial.asks(number);
    }
    trial.make_ready(4);
    trial.pass(seconds(2));
    trial.asks(4);
    assert_eq!(trial.make_ready(5).last().map(String::as_str), Some("spawn 6 in slot 2 generation 1"));
}

#[test]
fn age_is_counted_from_the_start_and_differs_from_worker_to_worker() {
    let mut trial = Trial::running(by_age(3));
    let mut ages = Vec::new();
    for number in 4..=6 {
        let (_, effects) = trial.ring();
        let old = effects[0].strip_prefix("[recycling ").expect("a recycle").split(' ').next();
        let old: u32 = old.and_then(|number| number.parse().ok()).expect("its number");
        ages.push(trial.now.saturating_duration_since(trial.supervisor.workers[&old].started));
        assert!(effects[1].starts_with(&format!("spawn {number} ")), "{effects:?}");
        trial.make_ready(number);
        trial.crash(old);
    }
    assert!(ages.iter().all(|age| *age >= seconds(90) && *age <= seconds(110)), "{ages:?}");
    assert!(ages[0] < ages[1] && ages[1] < ages[2], "they do not go together: {ages:?}");
}

#[test]
fn a_worker_ages_while_everything_stands_still() {
    let mut trial = Trial::running(by_age(1));
    trial.pass(seconds(3_600));
    let effects = trial.on(Input::Tick);
    assert!(effects[0].starts_with("[recycling 1 Age"), "{effects:?}");
    assert_eq!(effects[1], "spawn 2 in slot 0 generation 1");
}

#[test]
fn a_worker_that_is_too_old_when_it_is_ready_serves_for_a_second() {
    let mut trial = Trial::new(by_age(1));
    trial.on(Input::Start);
    trial.spawned(1);
    trial.pass(seconds(3_600));
    let effects = trial.listening(1);
    assert!(effects[3].starts_with("[recycling 1 Age"), "{effects:?}");
    assert_eq!(trial.ring_after(seconds(1)), ["spawn 2 in slot 0 generation 1"]);
}

#[test]
fn connections_and_memory_are_compared_with_the_limit_of_the_worker() {
    let recycle = RecycleLimits {
        max_connections: Some(1_000),
        max_memory_bytes: Some(1_000_000),
        ..RecycleLimits::default()
    };
    let mut trial = seasoned(limited(2, recycle));
    let limit = trial.supervisor.connection_limit(worker(1)).expect("it has one");
    assert!((900..=1_100).contains(&limit) && Some(limit) != trial.supervisor.connection_limit(worker(2)));
    assert_eq!(trial.on(Input::TookEnough { worker: worker(1), connections: limit - 1 }), [""; 0], "not yet");
    let effects = trial.on(Input::TookEnough { worker: worker(1), connections: limit });
    let reason = RecycleReason::Connections { connections: limit, limit };
    assert_eq!(effects[0], format!("[recycling 1 {reason:?}]"));

    let resident = |bytes| Input::Resident { worker: worker(2), bytes };
    assert_eq!(trial.on(resident(900_000)), [""; 0]);
    let effects = trial.on(resident(1_200_000));
    assert!(
        effects[0].starts_with("[recycling 2 Memory { resident_bytes: 1200000, limit_bytes: "),
        "{effects:?}"
    );
}

#[test]
fn a_worker_serves_for_a_second_before_it_is_replaced() {
    let mut trial = Trial::running(settings(1));
    assert_eq!(trial.asks(1), ["[recycling 1 Asked]"]);
    assert_eq!(trial.ring_after(seconds(1)), ["spawn 2 in slot 0 generation 1"]);
    trial.spawned(2);
    assert_eq!(trial.asks(2), ["[recycling 2 Asked]"], "even before it is ready");
    assert_eq!(trial.listening(2).last().map(String::as_str), Some("disconnect 1"));
    assert_eq!(trial.ring_after(seconds(1)), [""; 0], "the first one is not gone yet");
    assert_eq!(trial.crash(1).last().map(String::as_str), Some("spawn 3 in slot 0 generation 1"));
}

#[test]
fn a_successor_that_does_not_become_ready_leaves_the_worker_in_place_and_is_tried_again() {
    let mut trial = seasoned(settings(1));
    trial.asks(1);
    trial.spawned(2);
    let failed = trial.ring_after(seconds(30));
    let reason = "worker 2 in slot 0 was not ready within 30s: nothing was heard of it";
    let expected = format!("[recycle of slot 0 failed: {reason}; again later]");
    assert_eq!(failed, [&expected, "[draining 2 NotReady]", "SIGTERM 2"]);
    trial.crash(2);
    assert_eq!(trial.in_rotation(), [1]);
    let (waited, effects) = trial.ring();
    assert!(waited <= Duration::from_millis(125), "{waited:?}");
    assert_eq!(effects, ["spawn 3 in slot 0 generation 1"]);

    trial.spawned(3);
    let ended = trial.crash(3);
    let reason = "worker 3 in slot 0 ended before it was ready: exit code 1";
    assert!(ended.contains(&format!("[recycle of slot 0 failed: {reason}; again later]")), "{ended:?}");
    let (waited, effects) = trial.ring();
    assert!(waited >= Duration::from_millis(150) && waited <= Duration::from_millis(250), "{waited:?}");
    assert_eq!(effects, ["spawn 4 in slot 0 generation 1"]);

    let unborn = trial.on(Input::SpawnFailed {
        worker: worker(4),
        reason: "no memory".to_owned(),
        blame: Blame::Program,
    });
    assert_eq!(unborn.len(), 2, "{unborn:?}");
    trial.ring();
    assert_eq!(trial.make_ready(5).last().map(String::as_str), Some("disconnect 1"), "in the end");
    assert_eq!(trial.in_rotation(), [5]);
}

#[test]
fn a_successor_that_cannot_say_that_it_is_ready_has_to_live_for_a_while() {
    let mut trial = seasoned(Settings { ready: Ready::Started, ..settings(1) });
    trial.asks(1);
    assert_eq!(trial.spawned(2), ["[forked 2]"]);
    assert_eq!(trial.ring_after(seconds(1))[..3], ["enter 2", "[ready 2]", "leave 1"]);
}

#[test]
fn a_crash_of_the_old_worker_leaves_the_slot_to_its_successor() {
    let mut trial = seasoned(settings(1));
    trial.asks(1);
    trial.spawned(2);
    assert!(!trial.crash(1).iter().any(|text| text.contains("restart")), "its successor is on the way");
    assert_eq!(trial.listening(2)[1..], ["enter 2", "[ready 2]"]);

    let mut trial = seasoned(settings(1));
    trial.asks(1);
    trial.spawned(2);
    trial.crash(1);
    let effects = trial.crash(2);
    let reason = "worker 2 in slot 0 ended before it was ready: exit code 1";
    assert!(effects.contains(&format!("[recycle of slot 0 failed: {reason}; not again]")), "{effects:?}");
    assert_eq!(effects.last().map(String::as_str), Some("[restart slot 0 after 1]"));
    assert_eq!(trial.ring().1, ["spawn 3 in slot 0 generation 1"]);
}

#[test]
fn a_reload_takes_the_place_of_recycles() {
    let mut trial = seasoned(settings(2));
    trial.asks(1);
    trial.asks(2);
    trial.spawned(3);
    assert_eq!(
        trial.reload(1),
        ["[reload to 2]", "[draining 3 Superseded]", "SIGTERM 3", "spawn 4 in slot 0 generation 2"]
    );
    trial.crash(3);
    assert_eq!(trial.make_ready(4).last().map(String::as_str), Some("spawn 5 in slot 1 generation 2"));
    assert_eq!(trial.make_ready(5).last().map(String::as_str), Some("reload 1 done: generation 2"));
    assert_eq!(trial.supervisor.next_deadline().map(|at| at - trial.now), Some(seconds(30)), "they drain");
}

#[test]
fn recycles_go_on_after_a_reload_that_failed() {
    let mut trial = seasoned(settings(2));
    trial.reload(1);
    trial.spawned(3);
    assert_eq!(trial.asks(2), ["[recycling 2 Asked]"], "the reload is first");
    let effects = trial.crash(3);
    assert!(effects[3].starts_with("[reload to 2 failed: "), "{effects:?}");
    assert_eq!(effects.last().map(String::as_str), Some("spawn 4 in slot 1 generation 1"));
}

#[test]
fn a_worker_of_a_reload_that_failed_later_is_replaced_by_one_of_the_old_generation() {
    let mut trial = seasoned(settings(2));
    trial.reload(1);
    trial.make_ready(3);
    trial.spawned(4);
    trial.crash(4);
    trial.pass(seconds(60));
    assert_eq!(trial.asks(3), ["[recycling 3 Asked]", "spawn 5 in slot 0 generation 1"]);
    assert_eq!(trial.make_ready(5).last().map(String::as_str), Some("disconnect 3"));
}

#[test]
fn a_smaller_size_drops_successors_and_wishes() {
    let mut trial = seasoned(settings(3));
    trial.asks(3);
    trial.asks(2);
    trial.spawned(4);
    let effects = trial.on(Input::Resize(1));
    assert!(effects.contains(&"[draining 4 Resize]".to_owned()), "{effects:?}");
    assert!(!effects.iter().any(|text| text.starts_with("spawn")), "{effects:?}");
    assert_eq!(trial.in_rotation(), [1]);
}

#[test]
fn a_worker_that_leaves_needs_no_recycle() {
    let mut trial = seasoned(by_age(1));
    trial.stop();
    assert_eq!(trial.asks(1), [""; 0]);
    assert_eq!(trial.ring_after(seconds(30)).last().map(String::as_str), Some("SIGTERM 1"));
}
