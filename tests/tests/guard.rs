//! The guard: what a killed primary leaves behind is nothing.

use rustix::process::Signal;
use worksong_testkit::{Worksong, eventually, fixture, process};

/// A grandchild in a session of its own is out of reach of the worker's group and of its parent-death signal.
#[test]
fn nothing_outlives_a_killed_primary() {
    let worksong = Worksong::run(["-i", "2"]).program(fixture("node/crash.js")).args(["grandchild"]).start();
    worksong.wait_ready(2);
    let below = eventually("each worker to have started its grandchild", || {
        let below = process::descendants(worksong.pid());
        // Two workers, two grandchildren, one guard.
        (below.len() == 5).then_some(below)
    });
    worksong.signal(Signal::KILL);
    eventually("everything to end", || below.iter().all(|process| !process.is_alive()).then_some(()));
}

#[test]
fn the_guard_ends_with_its_primary() {
    let worksong = Worksong::run(["-i", "1"]).program(fixture("node/http.js")).start();
    worksong.wait_ready(1);
    let below = process::descendants(worksong.pid());
    assert_eq!(below.len(), 2, "a worker and the guard");
    worksong.signal(Signal::TERM);
    worksong.wait_exit();
    eventually("both to end", || below.iter().all(|process| !process.is_alive()).then_some(()));
}

/// Primary and guard are one program: a library that it needs is in memory twice.
#[test]
fn primary_and_guard_need_no_library_of_mathematics() {
    let worksong = Worksong::run(["-i", "1"]).program(fixture("node/http.js")).start();
    worksong.wait_ready(1);
    let maps = std::fs::read_to_string(format!("/proc/{}/maps", worksong.pid())).expect("it runs");
    assert!(maps.contains("libc.so") && !maps.contains("libm.so"), "{maps}");
}
