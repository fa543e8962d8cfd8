//! Unix sockets of captured programs: all workers share one, and its path is there whatever they do with it.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};

use worksong_testkit::{
    Folder, Launch, Load, Signal, Worksong, eventually, fixture, node, process, python_tool,
};

use super::text_pid;

/// Ends at SIGTERM when it has answered, and removes its path as Node does.
const JAVASCRIPT: &str = "\
const answer = (_, response) => response.end(String(process.pid));
const server = require('node:http').createServer(answer).listen('x.sock');
process.on('SIGTERM', () => server.close());
";

/// Connects to a path again and again, and wants somebody to be there each time.
struct Knocking {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Result<usize, io::Error>>,
}

impl Knocking {
    fn start(path: PathBuf) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = thread::spawn(move || {
            let mut count = 0;
            while !stopped.load(Ordering::Relaxed) {
                drop(UnixStream::connect(&path)?);
                count += 1;
                thread::yield_now();
            }
            Ok(count)
        });
        Self { stop, thread }
    }

    #[track_caller]
    fn finish(self) {
        self.stop.store(true, Ordering::Relaxed);
        let count = self.thread.join().expect("it does not panic").expect("somebody is always there");
        assert!(count > 100, "it has knocked {count} times");
    }
}

/// Prepares three workers of a program that binds `x.sock` in a folder.
fn at(folder: &Folder, options: &[&str]) -> Launch {
    let options = ["-i", "3", "--capture", "unix:x.sock", "--restart-delay", "10ms"].iter().chain(options);
    Worksong::run(options.copied()).cwd(folder.path())
}

/// What a program does with connections that it has accepted when it is told to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Manners {
    /// It answers them.
    Answers,
    /// It closes those whose request it has not read yet.
    Closes,
}

/// All workers serve, nobody is ever refused, reloads lose nothing that the program does not drop, and nothing is left.
#[track_caller]
fn share(launch: Launch, folder: &Folder, manners: Manners) {
    let path = folder.join("x.sock");
    let worksong = launch.start();
    let first = worksong.wait_ready(3);
    worksong.wait_event("listening", |event| event["address"] == path.to_str().expect("a short name"));
    let knocking = Knocking::start(path.clone());
    let loads = [0, 1, 2, 3].map(|_| Load::start(path.as_path(), text_pid));
    for load in &loads {
        load.wait_answers(50);
    }
    // Some fork workers of their own, who answer.
    let below = first.iter().flat_map(|worker| process::descendants(*worker)).map(process::Process::pid);
    let old: BTreeSet<u32> = first.iter().copied().chain(below).collect();
    worksong.signal(Signal::HUP);
    worksong.wait_event("reload_done", |event| event.generation() == 2);
    for worker in &first {
        worksong.wait_event("exit", |event| event.pid() == *worker);
    }
    for load in &loads {
        load.wait_answers(50);
    }
    let finish = match manners {
        Manners::Answers => Load::finish_without_failure,
        Manners::Closes => Load::finish_without_refusal,
    };
    let who: BTreeSet<u32> = loads.map(finish).into_iter().flatten().collect();
    assert!(!who.is_disjoint(&old) && !who.is_subset(&old), "old and new workers have served: {who:?}");
    let victim = *worksong.wait_ready(3).first().expect("three workers");
    let load = Load::start(path.as_path(), text_pid);
    for member in process::descendants(victim).into_iter().chain(process::Process::find(victim)) {
        member.signal(Signal::KILL);
    }
    worksong.wait_event("exit", |event| event.pid() == victim);
    load.wait_answers(50);
    load.finish_without_refusal();
    knocking.finish();
    worksong.signal(Signal::TERM);
    assert_eq!(worksong.wait_exit().code(), Some(0));
    assert_eq!(sockets(folder), Vec::<PathBuf>::new());
}

fn sockets(folder: &Folder) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder.path()).expect("a folder").flatten().map(|entry| entry.path());
    entries.filter(|path| path.to_string_lossy().contains("x.sock")).collect()
}

fn tool(name: &str) -> String {
    python_tool(name).display().to_string()
}

#[test]
fn node_without_cluster() {
    let folder = Folder::new();
    let script = folder.write("server.cjs", JAVASCRIPT);
    share(at(&folder, &[]).args([node("24"), script]), &folder, Manners::Answers);
}

#[test]
fn what_a_killed_primary_left_behind_is_replaced() {
    let folder = Folder::new();
    let script = folder.write("server.cjs", JAVASCRIPT);
    let start = || at(&folder, &[]).args([node("24"), script.clone()]).start();
    let killed = start();
    let workers = killed.wait_ready(3);
    process::kill(killed.pid(), Signal::KILL);
    eventually("the end of all", || (!workers.iter().any(|pid| process::alive(*pid))).then_some(()));
    assert_eq!(sockets(&folder).len(), 2, "a path and the link beside it");
    let next = start();
    next.wait_ready(3);
    let load = Load::start(folder.join("x.sock").as_path(), text_pid);
    load.wait_answers(10);
    load.finish_without_failure();
    next.signal(Signal::TERM);
    assert_eq!(next.wait_exit().code(), Some(0));
    assert_eq!(sockets(&folder), Vec::<PathBuf>::new());
}

#[test]
fn gunicorn() {
    let folder = Folder::new();
    let servers = fixture("servers").display().to_string();
    let launch =
        at(&folder, &[]).args([&tool("gunicorn"), "--bind", "unix:x.sock", "--pythonpath", &servers]);
    share(launch.args(["applications:wsgi"]), &folder, Manners::Answers);
}

#[test]
fn uvicorn() {
    let folder = Folder::new();
    let servers = fixture("servers").display().to_string();
    let launch = at(&folder, &[]).args([&tool("uvicorn"), "--uds", "x.sock", "--app-dir", &servers]);
    share(launch.args(["applications:asgi"]), &folder, Manners::Closes);
}
