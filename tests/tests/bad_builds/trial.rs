//! One bad build from the good one before it to the good one after it.

use std::collections::BTreeSet;
use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::time::Duration;

use worksong_testkit::http::{Connection, Response};
use worksong_testkit::{Event, Folder, Load, Signal, Worksong, eventually, process};

use crate::builds::{Build, Family, File, Stay};

/// How many workers serve.
const WORKERS: usize = 2;
const OPTIONS: [&str; 4] = ["--drain-timeout", "1s", "--max-restarts", "1000"];
/// The pause of a client after each of its connections: the clients of many trials would leave workers no time to start.
const REST: Duration = Duration::from_millis(4);

/// Puts a file in the place of the program, all at once.
fn deploy(file: &File, folder: &Folder, program: &Path) {
    let new = folder.join("new");
    match file {
        File::Text { content, mode } => {
            folder.write("new", content);
            fs::set_permissions(&new, Permissions::from_mode(*mode)).expect("a file of our own");
        }
        File::Link(target) => symlink(target, &new).expect("a fresh name"),
        File::Missing => {
            fs::remove_file(program).expect("it is there");
            return;
        }
    }
    fs::rename(new, program).expect("a folder of our own");
}

fn port(worksong: &Worksong, family: Family) -> u16 {
    match family {
        Family::Script | Family::Executable | Family::Rust => worksong.listening_port(),
        Family::Python => {
            let bound = worksong.wait_event("bound", |_| true);
            bound["port"].as_u64().and_then(|port| u16::try_from(port).ok()).expect("a port")
        }
    }
}

fn pid_of(answer: &Response) -> u32 {
    let header = answer.header("pid").and_then(|pid| pid.parse().ok());
    header.unwrap_or_else(|| answer.json_pid())
}

/// Reloads to the build, which must fail in the way that it says, and then to a good one.
pub(crate) fn refuse(build: &Build, node_version: &str) {
    let Build { name, family, .. } = *build;
    let folder = Folder::new();
    let program = folder.join(family.file_name());
    deploy(&family.good(), &folder, &program);
    let launch = Worksong::run(["-i", &WORKERS.to_string(), "--ready-timeout", build.ready_timeout]);
    let launch = launch.args(["--kill-timeout", build.kill_timeout]);
    let launch = launch.node(node_version).args(OPTIONS).args(family.options()).args(build.options);
    let worksong = launch.program(&program).args(family.arguments()).start();
    let old = worksong.wait_ready(WORKERS);
    let port = port(&worksong, family);
    let load = Load::start_slowly(port, pid_of, REST);
    let mut kept = Connection::open(port).expect("a connection");
    let keeper = pid_of(&kept.get("/").expect("an answer"));

    deploy(&build.file, &folder, &program);
    worksong.signal(Signal::HUP);
    let failed = worksong.wait_event("reload_failed", |_| true);
    assert_cause(build, &failed);
    let stay = stay_after(build, &failed);
    wait_ends(&worksong, &old);
    load.wait_answers(20);
    let stayed: BTreeSet<u32> = worksong.worker_pids().intersection(&old).copied().collect();
    match stay {
        Stay::All => {
            assert_eq!(stayed, old, "{name}: old workers left");
            if family.keeps_connections() {
                let answer = kept.get("/").expect("the connection is still there");
                assert_eq!(pid_of(&answer), keeper, "{name}");
            }
        }
        Stay::AllButFirst => assert_eq!(stayed.len(), WORKERS - 1, "{name}: more than one slot was lost"),
    }
    drop(kept);
    let meanwhile = load;
    let load = Load::start_slowly(port, pid_of, REST);
    match stay {
        Stay::All => {
            let answered = meanwhile.finish_without_failure();
            assert!(answered.is_subset(&old), "{name}: {answered:?} have answered, not only {old:?}");
        }
        // What a worker had accepted dies with it.
        Stay::AllButFirst => drop(meanwhile.finish_without_refusal()),
    }

    deploy(&family.good(), &folder, &program);
    worksong.signal(Signal::HUP);
    worksong.wait_event("reload_done", |event| event.generation() == 3);
    load.wait_answers(20);
    let answered = match stay {
        Stay::All => load.finish_without_failure(),
        // What a worker had accepted dies with it.
        Stay::AllButFirst => load.finish_without_refusal(),
    };
    assert!(answered.len() > WORKERS, "{name}: no new worker has answered: {answered:?}");
    worksong.signal(Signal::TERM);
    assert_eq!(worksong.wait_exit().code(), Some(0), "{name}");
}

/// The reason is for people: it says which worker, and what it did or did not.
#[track_caller]
fn assert_cause(build: &Build, failed: &Event) {
    let Build { name, reason, words, .. } = build;
    let told = failed["reason"].as_str().unwrap_or_default();
    assert!(told.starts_with("worker 3 in slot 0 "), "{name}: {failed:?}");
    assert!(told.contains(reason), "{name} without {reason:?}: {failed:?}");
    if !words.is_empty() {
        assert!(failed["stderr"].to_string().contains(words), "{name} without {words:?}: {failed:?}");
    }
}

/// Returns who has to stay. A program without a channel is taken for ready when it has run for a second, also one that
/// a busy machine has not let come to its end by then.
fn stay_after(build: &Build, failed: &Event) -> Stay {
    let was_ready = failed["reason"].as_str().is_some_and(|told| told.contains("after it was ready"));
    if was_ready && build.family == Family::Python { Stay::AllButFirst } else { build.stay }
}

/// Waits for the end of what the failed reload has started, with everything that it has started itself.
fn wait_ends(worksong: &Worksong, old: &BTreeSet<u32>) {
    let events = worksong.events();
    let forked = events.iter().filter(|event| event.name() == "forked" && event.generation() == 2);
    for worker in forked.map(Event::pid) {
        worksong.wait_event("exit", |event| event.pid() == worker);
    }
    let child = |line: &str| line.strip_prefix("child ")?.parse::<u32>().ok();
    for child in worksong.output().iter().filter_map(|output| child(&output.line)) {
        assert!(!old.contains(&child));
        eventually("the end of a detached child", || (!process::alive(child)).then_some(()));
    }
}
