//! Pause and resume, and what else can happen to a paused worker.

use super::*;

impl Trial {
    fn pause(&mut self, number: u32) -> Vec<String> {
        self.on(Input::Pause { worker: worker(number) })
    }

    fn resume(&mut self, number: u32) -> Vec<String> {
        self.on(Input::Resume { worker: worker(number) })
    }
}

#[test]
fn a_paused_worker_is_out_of_rotation_until_it_is_resumed() {
    let mut trial = Trial::running(settings(2));
    for _ in 0..2 {
        assert_eq!(trial.pause(1), ["leave 1", "[paused 1, 1 of 2 serve]"]);
        assert_eq!(trial.pause(1), [""; 0]);
        assert_eq!(trial.in_rotation(), [2]);
        assert_eq!(trial.supervisor.snapshot().slots[0].successor.map(|view| view.state), None);
        assert_eq!(trial.resume(1), ["enter 1", "[resumed 1, 2 of 2 serve]"]);
        assert_eq!(trial.resume(1), [""; 0]);
    }
    trial.pause(2);
    assert_eq!(trial.pause(1), ["leave 1", "[paused 1, 0 of 2 serve]"]);
}

#[test]
fn only_a_worker_in_rotation_can_be_paused() {
    let mut trial = Trial::new(settings(1));
    trial.on(Input::Start);
    trial.spawned(1);
    assert_eq!([trial.pause(1), trial.resume(1)].concat(), [""; 0]);
    trial.listening(1);
    trial.stop();
    assert_eq!([trial.pause(1), trial.resume(1)].concat(), [""; 0]);
}

#[test]
fn nothing_is_expected_of_a_paused_worker() {
    let recycle = RecycleLimits { max_age: Some(seconds(10)), ..RecycleLimits::default() };
    let mut trial = Trial::running(Settings { recycle, ..settings(1) });
    trial.on(Input::Overdue { worker: worker(1), waiting: seconds(1) });
    trial.pause(1);
    assert_eq!(trial.supervisor.next_deadline(), None, "it is not killed, and not recycled");
    trial.pass(seconds(1_000));
    assert_eq!(trial.on(Input::Answering { worker: worker(1) }), ["[responsive 1]"]);
    assert_eq!(trial.on(Input::Answering { worker: worker(1) }), [""; 0]);
    trial.resume(1);
    let effects = trial.ring_after(Duration::ZERO);
    assert!(effects[0].starts_with("[recycling 1 Age"), "its age is looked at again: {effects:?}");
}

#[test]
fn a_worker_that_was_paused_unresponsive_is_responsive_once_it_is_judged_anew() {
    let mut trial = Trial::running(settings(1));
    let overdue = || Input::Overdue { worker: worker(1), waiting: seconds(1) };
    assert_eq!(trial.on(overdue()), ["[unresponsive 1]"]);
    trial.pause(1);
    assert_eq!(trial.on(overdue()), [""; 0], "it was on its way");
    assert_eq!(trial.resume(1), ["enter 1", "[resumed 1, 1 of 1 serve]"]);
    assert_eq!(trial.on(Input::Answering { worker: worker(1) }), ["[responsive 1]"]);
    assert_eq!(trial.on(overdue()), ["[unresponsive 1]"], "it is told again");
    trial.pause(1);
    trial.resume(1);
    assert_eq!(
        trial.ring_after(seconds(30)).last().map(String::as_str),
        Some("SIGKILL 1"),
        "it has its time anew"
    );
}

#[test]
fn a_paused_worker_is_not_recycled_until_it_is_resumed() {
    let mut trial = Trial::running(settings(1));
    trial.pass(seconds(60));
    trial.on(Input::AsksForSuccessor { worker: worker(1) });
    trial.spawned(2);
    let superseded = ["[draining 2 Superseded]", "SIGTERM 2"];
    assert_eq!(trial.pause(1), [&["leave 1", "[paused 1, 0 of 1 serve]"][..], &superseded].concat());
    trial.crash(2);
    assert_eq!(trial.supervisor.next_deadline(), None);
    assert_eq!(trial.resume(1).last().map(String::as_str), Some("spawn 3 in slot 0 generation 1"));
}

#[test]
fn a_paused_worker_that_crashes_is_restarted_as_any_other() {
    let mut trial = Trial::running(settings(1));
    trial.pause(1);
    assert_eq!(trial.crash(1)[1..], ["forget 1", "[exit 1 exit code 1 crash]", "[restart slot 0 after 1]"]);
    trial.ring();
    trial.make_ready(2);
    assert_eq!(trial.in_rotation(), [2], "the next one is not paused");
}

#[test]
fn a_reload_replaces_a_paused_worker_as_any_other() {
    let mut trial = Trial::running(settings(2));
    trial.pause(1);
    trial.reload(1);
    let moved = trial.make_ready(3);
    assert_eq!(moved[2..6], ["enter 3", "[ready 3]", "[draining 1 Reload]", "disconnect 1"]);
    trial.pause(3);
    assert_eq!(trial.make_ready(4).last().map(String::as_str), Some("reload 1 done: generation 2"));
}

#[test]
fn a_paused_worker_drains_with_the_app() {
    let mut trial = Trial::running(settings(1));
    trial.pause(1);
    assert_eq!(trial.stop(), ["[stopping: SIGTERM]", "[draining 1 Stop]", "disconnect 1"]);
    assert_eq!(trial.ring_after(seconds(30)).last().map(String::as_str), Some("SIGTERM 1"));
}
