//! How many connections end with their worker, as far as that can be known.

use super::*;

/// Lets a worker say how many connections it has, and end.
fn ends(trial: &mut Trial, number: u32, open: Option<u64>, status: ExitStatus) -> Vec<Effect> {
    let mut effects = Vec::new();
    let worker = worker(number);
    trial.supervisor.on(Input::ChannelClosed { worker, open }, trial.now, &mut effects);
    let exited = Input::Exited { worker, status, stderr: Vec::new() };
    trial.supervisor.on(exited, trial.now, &mut effects);
    effects
}

fn exit_cut(effects: &[Effect]) -> Option<u64> {
    let cut = effects.iter().find_map(|effect| match effect {
        Effect::Emit(Event::Exit { cut, .. }) => Some(*cut),
        _ => None,
    });
    cut.expect("an exit")
}

fn stop_cut(effects: &[Effect]) -> Option<u64> {
    let cut = effects.iter().find_map(|effect| match effect {
        Effect::Emit(Event::Stopped { cut }) => Some(*cut),
        _ => None,
    });
    cut.expect("the end of the app")
}

const TERMINATED: ExitStatus = ExitStatus::Signal(libc::SIGTERM);
const DONE: ExitStatus = ExitStatus::Code(0);

#[test]
fn what_a_worker_still_has_when_it_is_forced_is_cut_whatever_it_leaves_for() {
    type Leave = fn(&mut Trial);
    let leaves: [(&str, Leave); 5] = [
        ("stop", |trial| drop(trial.stop())),
        ("resize", |trial| drop(trial.on(Input::Resize(1)))),
        ("reload", |trial| {
            trial.reload(1);
            trial.make_ready(3);
            trial.make_ready(4);
        }),
        ("recycle", |trial| {
            trial.on(Input::AsksForSuccessor { worker: worker(2) });
            trial.make_ready(3);
        }),
        ("asked", |trial| drop(trial.on(Input::Leaving { worker: worker(2) }))),
    ];
    for (what, leave) in leaves {
        for (open, cut) in [(Some(3), Some(3)), (Some(0), Some(0)), (None, None)] {
            let mut trial = Trial::running(settings(2));
            trial.pass(seconds(60));
            leave(&mut trial);
            while !trial.ring().1.contains(&"SIGTERM 2".to_owned()) {}
            assert_eq!(exit_cut(&ends(&mut trial, 2, open, TERMINATED)), cut, "{what}");
        }
    }
}

#[test]
fn who_ends_by_itself_has_finished_or_nobody_knows() {
    for (open, cut) in [(Some(0), Some(0)), (Some(3), None), (None, None)] {
        let mut trial = Trial::running(settings(1));
        trial.stop();
        assert_eq!(exit_cut(&ends(&mut trial, 1, open, DONE)), cut);

        let mut trial = Trial::running(settings(1));
        trial.stop();
        let crash = ExitStatus::Signal(libc::SIGSEGV);
        assert_eq!(exit_cut(&ends(&mut trial, 1, open, crash)), cut, "what crashes while it leaves");
    }
    let mut trial = Trial::running(settings(1));
    assert_eq!(exit_cut(&ends(&mut trial, 1, None, DONE)), None);
}

#[test]
fn a_hung_worker_has_said_nothing_that_still_holds() {
    let mut trial = Trial::running(settings(1));
    trial.on(Input::Overdue { worker: worker(1), waiting: seconds(30) });
    trial.ring();
    assert_eq!(exit_cut(&ends(&mut trial, 1, None, ExitStatus::Signal(libc::SIGKILL))), None);
}

#[test]
fn who_never_was_in_rotation_has_cut_nothing() {
    for (hands_over, cut) in [(true, Some(0)), (false, None)] {
        let mut trial = Trial::running(Settings { hands_over, ..settings(1) });
        trial.reload(1);
        trial.spawned(2);
        assert_eq!(exit_cut(&ends(&mut trial, 2, None, ExitStatus::Code(1))), cut, "{hands_over}");
    }
}

#[test]
fn a_stop_sums_what_its_workers_cut() {
    for (last, sum) in [(Some(4), Some(7)), (None, None)] {
        let mut trial = Trial::running(settings(3));
        trial.pass(seconds(60));
        ends(&mut trial, 3, Some(100), DONE);
        trial.stop();
        trial.ring();
        ends(&mut trial, 1, Some(3), TERMINATED);
        assert_eq!(stop_cut(&ends(&mut trial, 2, last, TERMINATED)), sum);
    }
}

#[test]
fn nobody_knows_what_ends_with_a_worker_that_does_not_end() {
    let mut trial = Trial::running(settings(1));
    trial.stop();
    trial.ring();
    trial.ring();
    let at = trial.supervisor.next_deadline().expect("the kernel's");
    let mut effects = Vec::new();
    trial.supervisor.on(Input::Tick, at, &mut effects);
    assert_eq!(stop_cut(&effects), None);
}
