//! What a worker has to show before it is ready: answers to probes, and the addresses of its predecessor.

use super::*;

fn probing(has_channel: bool) -> Settings {
    Settings { has_channel, ready: Ready::Probe(Probe::Http("/healthz".to_owned())), ..settings(1) }
}

impl Trial {
    fn probed(&mut self, number: u32, result: Result<(), &str>) -> Vec<String> {
        self.on(Input::Probed { worker: worker(number), result: result.map_err(str::to_owned) })
    }

    fn listening_on(&mut self, number: u32, address: &str) -> Vec<String> {
        self.on(Input::Listening { worker: worker(number), address: address.to_owned(), port: None })
    }
}

#[test]
fn a_worker_is_asked_until_it_answers_well() {
    let mut trial = Trial::new(probing(true));
    trial.on(Input::Start);
    assert_eq!(trial.spawned(1), ["[forked 1]"], "there is nothing to reach yet");
    assert_eq!(trial.on(Input::ReadyMessage { worker: worker(1) }), [""; 0], "its word does not count");
    assert_eq!(trial.listening(1), ["[listening 1]", "probe 1"]);
    assert_eq!(trial.listening(1), ["[listening 1]"], "one probe at a time");
    assert_eq!(trial.probed(1, Err("GET /healthz answered 503")), [""; 0]);
    assert_eq!(trial.ring_after(Duration::from_millis(250)), ["probe 1"]);
    assert_eq!(trial.probed(1, Ok(())), ["enter 1", "[ready 1]"]);
    assert_eq!(trial.probed(1, Err("late")), [""; 0]);
    assert_eq!(trial.supervisor.next_deadline(), None);
}

#[test]
fn without_a_channel_it_is_asked_from_its_start() {
    let mut trial = Trial::new(probing(false));
    trial.on(Input::Start);
    assert_eq!(trial.spawned(1), ["[forked 1]", "probe 1"]);
    assert_eq!(trial.probed(1, Ok(())), ["enter 1", "[ready 1]"]);
}

#[test]
fn the_last_answer_is_named_when_the_time_is_over() {
    let mut trial = Trial::new(probing(false));
    trial.on(Input::Start);
    trial.spawned(1);
    trial.probed(1, Err("GET /healthz answered 500"));
    trial.ring();
    let (_, late) = trial.ring();
    assert_eq!(late, ["[not ready 1: GET /healthz answered 500]"], "while the next answer is awaited");
    trial.probed(1, Err("GET /healthz answered 500"));
    assert_eq!(trial.ring_after(Duration::from_millis(250)), ["probe 1"], "a first worker is kept");
    assert_eq!(trial.probed(1, Ok(())), ["enter 1", "[ready 1]"]);

    trial.reload(1);
    trial.spawned(2);
    trial.probed(2, Err("GET /healthz answered 503"));
    assert_eq!(trial.ring().1, ["probe 2"]);
    let failed = trial.ring_after(Duration::from_millis(29_750));
    assert_eq!(
        failed[0],
        "[reload to 2 failed: worker 2 in slot 0 was not ready within 30s: GET /healthz answered 503]"
    );
    assert_eq!(trial.probed(2, Ok(())), [""; 0], "too late");
    assert_eq!(trial.in_rotation(), [1]);
}

#[test]
fn who_does_not_wait_for_connections_is_not_ready_and_the_last_look_says_why() {
    let mut trial = Trial::new(Settings { has_channel: false, sees_listening: true, ..settings(1) });
    trial.on(Input::Start);
    trial.spawned(1);
    for why in ["it has closed 0.0.0.0:80", "it does not wait at 0.0.0.0:80"] {
        let told = trial.on(Input::DoesNotWait { worker: worker(1), why: why.to_owned() });
        assert_eq!(told, [""; 0]);
    }
    assert_eq!(trial.ring_after(seconds(30)), ["[not ready 1: it does not wait at 0.0.0.0:80]"]);
    let captured = Input::Captured { worker: worker(1), address: "0.0.0.0:80".to_owned(), port: Some(80) };
    assert_eq!(trial.on(captured), ["[listening 1]", "enter 1", "[ready 1]"], "late is better than never");
}

#[test]
fn a_successor_has_to_listen_where_its_predecessor_does() {
    let mut trial = Trial::running(settings(1));
    trial.reload(1);
    trial.spawned(2);
    assert_eq!(trial.listening_on(2, "0.0.0.0:81"), ["[listening 2]"]);
    let failed = trial.ring_after(seconds(30));
    assert_eq!(
        failed[0],
        "[reload to 2 failed: worker 2 in slot 0 was not ready within 30s: \
         it listens on 0.0.0.0:81 and not on 0.0.0.0:80 as the worker before it]"
    );
    assert_eq!(trial.in_rotation(), [1]);

    trial.reload(2);
    trial.spawned(3);
    trial.listening_on(3, "0.0.0.0:81");
    assert_eq!(trial.listening(3)[1], "enter 3", "the order does not matter");

    trial.crash(3);
    trial.ring();
    trial.spawned(4);
    assert_eq!(trial.listening_on(4, "0.0.0.0:81")[1], "enter 4", "after a crash nothing better exists");
}

#[test]
fn a_successor_may_say_that_it_is_ready_right_before_it_listens() {
    let mut trial = Trial::new(Settings { ready: Ready::Message, ..settings(1) });
    trial.on(Input::Start);
    trial.spawned(1);
    trial.on(Input::ReadyMessage { worker: worker(1) });
    trial.listening(1);
    trial.pass(seconds(1));
    trial.listening_on(1, "0.0.0.0:9000");
    trial.reload(1);
    trial.spawned(2);
    assert_eq!(trial.on(Input::ReadyMessage { worker: worker(2) }), [""; 0]);
    assert_eq!(trial.listening(2)[1], "enter 2", "what was opened later does not count");
}

#[test]
fn addresses_may_differ_where_workers_bind_by_themselves() {
    let mut trial = Trial::running(Settings { same_addresses: false, ..settings(1) });
    trial.reload(1);
    trial.spawned(2);
    assert_eq!(trial.listening_on(2, "0.0.0.0:40123")[1], "enter 2");
}

#[test]
fn a_worker_that_falls_a_moment_after_it_was_ready_fails_the_reload() {
    let mut trial = Trial::running(settings(2));
    trial.reload(1);
    trial.make_ready(3);
    trial.spawned(4);
    trial.pass(Duration::from_millis(20));
    trial.closed(3);
    trial.pass(Duration::from_millis(5));
    let failed = trial.exited(3, 7);
    let reason = "worker 3 in slot 0 ended 20 ms after it was ready: exit code 7";
    assert!(failed.contains(&format!("[reload to 2 failed: {reason}]")), "{failed:?}");
    assert!(failed.contains(&format!("reload 1 failed: {reason} [\"last words of 3\"]")), "{failed:?}");
    assert_eq!(trial.in_rotation(), [2]);
    assert_eq!(trial.listening(4), ["[listening 4]"], "the next one is not tried any more");
    assert_eq!(trial.ring().1, ["spawn 5 in slot 0 generation 1"]);
}

#[test]
fn a_worker_that_leaves_by_itself_a_moment_after_it_was_ready_fails_the_reload() {
    for (served, is_paused) in [(0, false), (999, false), (999, true)] {
        let mut trial = Trial::running(settings(2));
        trial.reload(1);
        trial.make_ready(3);
        if is_paused {
            trial.on(Input::Pause { worker: worker(3) });
        }
        trial.pass(Duration::from_millis(served));
        let failed = trial.on(Input::Leaving { worker: worker(3) });
        let reason = format!("worker 3 in slot 0 left {served} ms after it was ready");
        assert!(failed.contains(&format!("[reload to 2 failed: {reason}]")), "{failed:?}");
        assert_eq!(trial.in_rotation(), [2], "no other slot is risked");
        let filled = [failed, trial.spawned(4), trial.ring().1].concat();
        assert!(filled.contains(&"spawn 5 in slot 0 generation 1".to_owned()), "{filled:?}");
    }
}

#[test]
fn a_worker_that_leaves_by_itself_later_is_replaced_and_the_reload_goes_on() {
    let mut trial = Trial::running(settings(2));
    trial.reload(1);
    trial.make_ready(3);
    trial.pass(seconds(1));
    let left = trial.on(Input::Leaving { worker: worker(3) });
    assert_eq!(left, ["leave 3", "[draining 3 Asked]", "spawn 5 in slot 0 generation 2"]);
    trial.make_ready(5);
    assert_eq!(trial.make_ready(4).last().map(String::as_str), Some("reload 1 done: generation 2"));
}

#[test]
fn a_worker_of_a_failed_reload_is_recycled_to_the_addresses_of_the_old_build() {
    let mut trial = Trial::running(settings(3));
    for number in 1..=2 {
        trial.crash(number);
    }
    trial.reload(1);
    for number in 4..=5 {
        trial.spawned(number);
        trial.listening_on(number, "0.0.0.0:81");
    }
    trial.spawned(6);
    trial.crash(6);
    assert_eq!(trial.in_rotation(), [3, 4, 5], "nobody was there for whose place they came");
    trial.pass(seconds(60));
    trial.on(Input::AsksForSuccessor { worker: worker(4) });
    let recycled = trial.make_ready(7);
    assert!(recycled.contains(&"[draining 4 Recycle]".to_owned()), "{recycled:?}");
}

#[test]
fn who_only_has_to_live_moves_its_slot_no_sooner_than_others() {
    for ready in [Ready::Started, Ready::Observed] {
        let replacement = Replacement { surge: 2, ..Replacement::default() };
        let mut trial = Trial::new(Settings { ready, replacement, ..settings(2) });
        trial.on(Input::Start);
        trial.spawned(1);
        trial.spawned(2);
        trial.reload(1);
        trial.spawned(3);
        assert_eq!(trial.ring_after(seconds(1))[0], "enter 3");
        trial.pass(Duration::from_millis(500));
        trial.spawned(4);
        trial.pass(Duration::from_millis(500));
        trial.crash(3);
        assert_eq!(trial.ring().1, ["spawn 5 in slot 0 generation 2"]);
        trial.spawned(5);
        assert_eq!(trial.ring().1, [""; 0], "4 has lived long enough, and slot 0 is empty");
        assert_eq!(trial.in_rotation(), [2]);
        let moved = trial.ring().1;
        let position = |text: &str| moved.iter().position(|effect| effect == text).expect("it happens");
        assert!(position("enter 5") < position("enter 4"), "{moved:?}");
    }
}

#[test]
fn a_worker_that_falls_later_delays_the_reload() {
    let mut trial = Trial::running(settings(2));
    trial.reload(1);
    trial.make_ready(3);
    trial.crash(1);
    trial.spawned(4);
    trial.pass(seconds(1));
    trial.crash(3);
    assert_eq!(trial.listening(4), ["[listening 4]"], "slot 1 does not move while slot 0 is empty");
    assert_eq!(trial.in_rotation(), [2]);
    assert_eq!(trial.ring().1, ["spawn 5 in slot 0 generation 2"]);
    assert_eq!(trial.ring().1, [""; 0], "it is not late: it waits for slot 0");
    let moved = trial.make_ready(5);
    assert!(moved.contains(&"enter 4".to_owned()), "{moved:?}");
    assert_eq!(moved.last().map(String::as_str), Some("reload 1 done: generation 2"));
}

#[test]
fn a_worker_that_only_closes_its_channel_fails_the_reload_when_it_is_killed_for_it() {
    let mut trial = Trial::running(settings(2));
    trial.reload(1);
    trial.make_ready(3);
    trial.closed(3);
    trial.make_ready(4);
    assert_eq!(trial.in_rotation(), [2], "and no other slot is risked");
    trial.ring_after(seconds(5));
    let failed = trial.exited(3, 0);
    let reason = "worker 3 in slot 0 closed its channel 0 ms after it was ready: exit code 0";
    assert!(failed.contains(&format!("[reload to 2 failed: {reason}]")), "{failed:?}");
}
