//! One of four workers blocks: how many new connections wait until it is free again.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use worksong_testkit::{Folder, NODE_VERSIONS, Worksong, eventually, http};

const NEWEST: &str = NODE_VERSIONS[NODE_VERSIONS.len() - 1];
const CLIENTS: usize = 400;
/// How long the clients take to come, one after the other.
const WITHIN: Duration = Duration::from_millis(1500);

/// Answers, and then its event loop stands still while this goes on.
fn program(standstill: &str) -> String {
    format!(
        "const {{ existsSync }} = require('node:fs');\n\
         const cell = new Int32Array(new SharedArrayBuffer(4));\n\
         const block = () => {{ {standstill} }};\n\
         require('node:http').createServer((request, response) => {{\n\
           response.end(String(process.pid), request.url === '/block' ? block : undefined);\n\
         }}).listen(0);\n"
    )
}

/// Asserts that no more clients than these are answered only when the worker that blocks is free again.
#[track_caller]
fn assert_stuck(most: usize, version: &str, options: &[&str]) {
    let folder = Folder::new();
    let until_released = "while (!existsSync(process.env.RELEASE)) Atomics.wait(cell, 0, 0, 20);";
    let program = folder.write("blocks.js", program(until_released));
    let worksong = Worksong::run(["-i", "4"]).args(options).node(version).program(program);
    let worksong = worksong.env("RELEASE", folder.join("release")).start();
    worksong.wait_ready(4);
    let port = worksong.listening_port();
    let who = |path| http::get(port, path).expect("an answer").text().to_owned();
    let blocked = who("/block");
    let answered = Arc::new(AtomicUsize::new(0));
    let rest = WITHIN / u32::try_from(CLIENTS).expect("few");
    let clients: Vec<_> = (0..CLIENTS)
        .map(|_| {
            thread::park_timeout(rest);
            let answered = Arc::clone(&answered);
            thread::spawn(move || {
                http::get(port, "/").expect("nobody is lost");
                answered.fetch_add(1, Ordering::Relaxed);
            })
        })
        .collect();
    let what = format!("answers for all of {CLIENTS} but {most} while a worker blocks, Node {version}");
    eventually(&what, || (answered.load(Ordering::Relaxed) >= CLIENTS - most).then_some(()));
    folder.write("release", "");
    for client in clients {
        client.join().expect("no panic");
    }
    eventually("answers of the one that blocked", || (who("/") == blocked).then_some(()));
}

/// One or two are on their way to it when it begins to block, or a few more when the machine is slow. Of those that
/// nobody steers around it, each fourth would be stuck.
const FEW: usize = CLIENTS / 100;

#[test]
fn what_waits_for_the_only_worker_is_answered_when_it_is_free() {
    let folder = Folder::new();
    let program = folder.write("blocks.js", program("Atomics.wait(cell, 0, 0, 300);"));
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
    assert_stuck(FEW, NEWEST, &["--policy", "round-robin"]);
}

#[test]
fn least_passes_it_by() {
    assert_stuck(FEW, NEWEST, &["--policy", "least"]);
}

#[test]
fn the_kernel_is_steered_around_it() {
    for version in NODE_VERSIONS {
        assert_stuck(FEW, version, &["--policy", "kernel"]);
    }
}

#[test]
fn the_kernel_is_steered_around_one_that_cannot_be_pinged() {
    assert_stuck(FEW, NEWEST, &["--policy", "kernel", "--no-agent"]);
}
