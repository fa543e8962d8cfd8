//! One of four workers blocks: how many new connections wait until it is free again.

use std::thread;
use std::time::{Duration, Instant};

use worksong_testkit::{Folder, Worksong, http};

const CLIENTS: usize = 400;
/// How long the clients take to come, one after the other.
const WITHIN: Duration = Duration::from_millis(1500);
/// Nothing but the worker that blocks lets a client wait for so long.
const STUCK_AFTER: Duration = Duration::from_secs(2);

/// Answers, and then its event loop stands still.
const BLOCKS: &str = "\
    const block = () => Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, 4000);\n\
    require('node:http').createServer((request, response) => {\n\
      response.end('answer', request.url === '/block' ? block : undefined);\n\
    }).listen(0);\n";

/// Returns how many clients have to wait for a worker that blocks.
fn stuck(options: &[&str]) -> usize {
    let folder = Folder::new();
    let program = folder.write("blocks.js", BLOCKS);
    let worksong = Worksong::run(["-i", "4"]).args(options).program(program).start();
    worksong.wait_ready(4);
    let port = worksong.listening_port();
    assert_eq!(http::get(port, "/block").expect("it answers first").status, 200);
    let rest = WITHIN / u32::try_from(CLIENTS).expect("few");
    let clients: Vec<_> = (0..CLIENTS)
        .map(|_| {
            thread::park_timeout(rest);
            thread::spawn(move || {
                let asked = Instant::now();
                http::get(port, "/").expect("nobody is lost");
                asked.elapsed()
            })
        })
        .collect();
    let waited = clients.into_iter().map(|client| client.join().expect("no panic"));
    waited.filter(|waited| *waited > STUCK_AFTER).count()
}

/// Where the primary hands over, one or two are on their way when it begins to block, or a few more when the machine is slow.
const FEW: usize = CLIENTS / 100;
/// The kernel goes on for some milliseconds until the primary has seen it.
const SOME: usize = CLIENTS / 20;

/// Of those that nobody steers around it, each fourth would be stuck.
#[track_caller]
fn assert_stuck(most: usize, options: &[&str]) {
    let stuck = stuck(options);
    assert!(stuck <= most, "{stuck} of {CLIENTS} wait for a worker that blocks");
}

#[test]
fn what_waits_for_the_only_worker_is_answered_when_it_is_free() {
    let folder = Folder::new();
    let program = folder.write("blocks.js", BLOCKS.replace("4000", "300"));
    let worksong = Worksong::run(["-i", "1", "--policy", "kernel", "--no-agent"]).program(program).start();
    worksong.wait_ready(1);
    let port = worksong.listening_port();
    for _ in 0..3 {
        assert_eq!(http::get(port, "/block").expect("it answers first").status, 200);
        assert_eq!(http::get(port, "/").expect("it waits").status, 200);
    }
}

#[test]
fn round_robin_passes_it_by() {
    assert_stuck(FEW, &["--policy", "round-robin"]);
}

#[test]
fn least_passes_it_by() {
    assert_stuck(FEW, &["--policy", "least"]);
}

#[test]
fn the_kernel_is_steered_around_it() {
    assert_stuck(SOME, &["--policy", "kernel"]);
}

#[test]
fn the_kernel_is_steered_around_one_that_cannot_be_pinged() {
    assert_stuck(SOME, &["--policy", "kernel", "--no-agent"]);
}
