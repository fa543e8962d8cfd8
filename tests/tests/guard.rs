//! What a killed primary leaves behind: nothing.

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
    let below = eventually("a worker and the guard", || {
        Some(process::descendants(worksong.pid())).filter(|below| below.len() == 2)
    });
    worksong.signal(Signal::TERM);
    worksong.wait_exit();
    eventually("both to end", || below.iter().all(|process| !process.is_alive()).then_some(()));
}
