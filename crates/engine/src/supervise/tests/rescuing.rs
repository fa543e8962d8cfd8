//! One more worker, for what waits where no other one can accept.

use super::*;
use crate::ids::Slot;

fn captured(instances: u32) -> Settings {
    Settings { has_channel: false, sees_listening: true, hands_over: false, ..settings(instances) }
}

impl Trial {
    fn rescue(&mut self, slot: u32) -> Vec<String> {
        self.on(Input::Rescue { slot: Slot(slot), traffic: Traffic::Connections })
    }

    fn captured(&mut self, number: u32) -> Vec<String> {
        self.on(Input::Captured { worker: worker(number), address: "0.0.0.0:80".to_owned(), port: Some(80) })
    }

    /// Returns an app whose workers accept by themselves.
    fn accepting(instances: u32) -> Self {
        let mut trial = Self::new(captured(instances));
        trial.on(Input::Start);
        for number in 1..=instances {
            trial.spawned(number);
            trial.captured(number);
        }
        trial
    }
}

#[test]
fn a_rescuer_serves_what_waits_and_ends() {
    let mut trial = Trial::accepting(1);
    assert_eq!(trial.rescue(1), ["spawn 2 in slot 1 generation 1"]);
    assert_eq!(trial.rescue(1), [""; 0], "one at a time");
    assert_eq!(trial.spawned(2), ["[forked 2]"]);
    assert_eq!(trial.captured(2), ["[listening 2]", "[draining 2 Rescued]", "await idle 2"]);
    assert_eq!(trial.on(Input::Idle { worker: worker(2) }), ["SIGTERM 2"]);
    assert_eq!(trial.exited(2, 0), ["forget 2", "[exit 2 exit code 0 voluntary]"]);
    assert_eq!(trial.rescue(1), ["spawn 3 in slot 1 generation 1"]);
}

#[test]
fn a_rescuer_that_fails_costs_no_slot_and_a_stop_ends_it() {
    let mut trial = Trial::accepting(1);
    trial.rescue(0);
    trial.spawned(2);
    let effects = trial.exited(2, 1);
    assert_eq!(effects, ["forget 2", "[exit 2 exit code 1 crash]"], "nothing is restarted");
    trial.rescue(0);
    trial.spawned(3);
    let effects = trial.stop();
    assert!(effects.contains(&"[draining 3 Stop]".to_owned()), "{effects:?}");
    assert_eq!(trial.rescue(0), [""; 0]);
}

#[test]
fn a_rescuer_that_never_listens_is_let_go() {
    for ready in [Ready::Started, Ready::Observed, Ready::Listening, Ready::Message] {
        let mut trial = Trial::new(Settings { ready: ready.clone(), ..captured(1) });
        trial.on(Input::Start);
        trial.spawned(1);
        trial.on(Input::ReadyMessage { worker: worker(1) });
        trial.rescue(1);
        trial.spawned(2);
        trial.on(Input::ReadyMessage { worker: worker(2) });
        trial.pass(Deadlines::default().ready);
        let effects = trial.on(Input::Tick);
        assert!(effects.contains(&"[draining 2 Rescued]".to_owned()), "{ready:?}: {effects:?}");
    }
}

#[test]
fn a_rescuer_is_let_go_only_when_it_serves_what_it_was_started_for() {
    let listens =
        |address: &str| Input::Listening { worker: worker(2), address: address.to_owned(), port: Some(80) };
    for [first, second] in [["0.0.0.0:80", "udp 0.0.0.0:80"], ["udp 0.0.0.0:80", "0.0.0.0:80"]] {
        let mut trial = Trial::running(settings(1));
        trial.on(Input::Rescue { slot: Slot(0), traffic: Traffic::at(second) });
        trial.spawned(2);
        assert_eq!(trial.on(listens(first)), ["[listening 2]"]);
        assert_eq!(trial.on(listens(second)), ["[listening 2]", "[draining 2 Rescued]", "disconnect 2"]);
    }
}

#[test]
fn who_is_late_and_a_slot_that_backs_off_for_long_are_not_waited_for() {
    let mut trial = Trial::accepting(2);
    trial.exited(2, 1);
    trial.pass(Duration::from_secs(20));
    trial.on(Input::Tick);
    assert_eq!(trial.rescue(1), [""; 0], "it is no process yet");
    trial.spawned(3);
    trial.pass(Deadlines::default().ready);
    trial.on(Input::Tick);
    assert_eq!(trial.rescue(1), ["spawn 4 in slot 1 generation 1"], "it may never listen");

    let min_delay = Duration::from_mins(5);
    let restart = RestartPolicy { min_delay, max_delay: min_delay, ..settings(2).restart };
    let mut trial = Trial::new(Settings { restart, ..captured(2) });
    trial.on(Input::Start);
    for number in [1, 2] {
        trial.spawned(number);
        trial.captured(number);
    }
    trial.exited(2, 1);
    assert_eq!(trial.rescue(1), ["spawn 3 in slot 1 generation 1"]);
}

#[test]
fn nobody_is_rescued_by_one_more_when_a_worker_of_the_slot_is_about_to_come() {
    let mut trial = Trial::accepting(2);
    assert_eq!(trial.supervisor.slots_to_fill(), 2);
    trial.exited(2, 1);
    assert_eq!(trial.rescue(1), [""; 0], "it backs off");
    trial.pass(Duration::from_secs(20));
    trial.on(Input::Tick);
    trial.spawned(3);
    assert_eq!(trial.rescue(1), [""; 0], "it starts");
    assert_eq!(trial.supervisor.slots_to_fill(), 2);
    trial.captured(3);
    assert_eq!(trial.rescue(1), ["spawn 4 in slot 1 generation 1"]);
}

#[test]
fn a_slot_that_is_given_up_is_not_to_be_filled() {
    let mut trial = Trial::accepting(2);
    let most = settings(2).restart.max_failures;
    for number in 2..2 + most {
        trial.exited(number, 1);
        trial.pass(Duration::from_secs(20));
        trial.on(Input::Tick);
        trial.spawned(number + 1);
    }
    assert_eq!(trial.supervisor.slots_to_fill(), 1);
    assert!(trial.rescue(1).iter().any(|effect| effect.starts_with("spawn")));
}
