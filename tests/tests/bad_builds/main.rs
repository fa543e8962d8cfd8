//! Bad builds are deployed while good workers serve clients: the reload fails and says why, no request fails, the old
//! workers stay, and the next good build is reloaded as ever.

mod builds;
mod trial;

use std::collections::BTreeSet;
use std::env;
use std::thread;

use worksong_testkit::{Folder, NODE_VERSIONS, Signal, Worksong, http};

use crate::builds::{Build, SERVE};
use crate::trial::refuse;

/// How many builds are tried at the same time; most of them only wait for a deadline.
const SIDE_BY_SIDE: usize = 5;

/// Says which build meets which version of Node.
fn seed() -> usize {
    env::var("WORKSONG_CHAOS_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(1)
}

#[track_caller]
fn refuse_all(builds: &[Build]) {
    let mut names = BTreeSet::new();
    assert!(builds.iter().all(|build| names.insert(build.name)), "two builds of a name in {names:?}");
    let mut failed = Vec::new();
    let versions = (0..).map(|index| NODE_VERSIONS[(seed() + index) % NODE_VERSIONS.len()]);
    let trials: Vec<(&Build, &str)> = builds.iter().zip(versions).collect();
    for group in trials.chunks(SIDE_BY_SIDE) {
        thread::scope(|scope| {
            let start = |(build, version)| (build, scope.spawn(move || refuse(build, version)));
            let trials: Vec<_> = group.iter().copied().map(start).collect();
            let panicked =
                trials.into_iter().filter_map(|(build, trial)| trial.join().err().map(|_| build.name));
            failed.extend(panicked);
        });
    }
    assert!(failed.is_empty(), "see above what became of {failed:?}");
}

#[test]
fn builds_that_end_at_once_are_refused() {
    refuse_all(&builds::that_end());
}

#[test]
fn builds_that_never_become_ready_are_refused() {
    refuse_all(&builds::that_hang());
}

#[test]
fn builds_that_make_noise_or_break_the_protocol_are_refused() {
    refuse_all(&builds::that_misbehave());
}

#[test]
fn builds_that_only_seem_to_be_ready_are_refused() {
    refuse_all(&builds::that_seem_ready());
}

#[test]
fn files_that_cannot_be_executed_are_refused() {
    refuse_all(&builds::that_cannot_start());
}

/// It was ready, and for long enough: that is no failed reload. Nobody is refused, and it comes back.
#[test]
fn a_build_that_crashes_later_is_restarted_and_refuses_nobody() {
    let folder = Folder::new();
    let program = folder.write("server.cjs", SERVE);
    let options =
        ["-i", "2", "--restart-delay", "10ms", "--max-restart-delay", "50ms", "--max-restarts", "1000"];
    let worksong = Worksong::run(options).program(&program).start();
    worksong.wait_ready(2);
    let port = worksong.listening_port();

    let crashes = "setTimeout(() => process.exit(9), 1300 + 200 * Math.random());";
    folder.write("server.cjs", format!("{SERVE}{crashes}"));
    worksong.signal(Signal::HUP);
    worksong.wait_event("reload_done", |event| event.generation() == 2);
    let mut count = 0;
    while count < 6 {
        match http::get(port, "/") {
            // What a worker had accepted dies with it.
            Ok(_) | Err(http::Error::NoAnswer(_) | http::Error::Cut { .. }) => {}
            Err(error) => panic!("after {count} crashes: {error}"),
        }
        count = worksong.events().iter().filter(|event| event["code"] == 9).count();
    }

    folder.write("server.cjs", SERVE);
    worksong.signal(Signal::HUP);
    worksong.wait_event("reload_done", |event| event.generation() == 3);
    assert_eq!(http::get(port, "/").expect("an answer").status, 200);
}
