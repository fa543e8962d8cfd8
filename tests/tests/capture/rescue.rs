//! What waits for a worker that dies as it leaves is served at once.

use std::collections::BTreeSet;

use worksong_testkit::http::{self, Connection};
use worksong_testkit::{Folder, Load, Signal, Worksong, free_port, process};

use super::{PYTHON, python, text_pid};

/// Opens connections with a request on each.
fn ask(port: u16, count: usize) -> Vec<Connection> {
    let ask = |_| {
        let mut connection = Connection::open(port).expect("nobody is refused");
        connection.send(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n").expect("it is open");
        connection
    };
    (0..count).map(ask).collect()
}

#[test]
fn what_waits_for_a_worker_that_dies_as_it_leaves_is_served_by_one_more() {
    let port = free_port();
    let worksong = python("1", port, &[]).start();
    let victim = *worksong.wait_ready(1).first().expect("one worker");
    // It accepts nothing more, so what it gets is in its queue when it dies.
    process::freeze(victim);
    let waiting = ask(port, 20);
    worksong.signal(Signal::HUP);
    // Every slot has its new worker, and no other one is about to start.
    worksong.wait_event("reload_done", |_| true);
    let load = Load::start(port, text_pid);
    load.wait_answers(5);
    process::kill(victim, Signal::KILL);
    let orphaned = worksong.wait_event("orphaned", |_| true);
    assert_eq!(orphaned["count"], 20);
    let answer =
        |mut connection: Connection| text_pid(&connection.read_response(false).expect("it is served"));
    let answered: BTreeSet<u32> = waiting.into_iter().map(answer).collect();
    let rescuer = worksong.wait_event("draining", |event| event["cause"] == "rescued").pid();
    assert_eq!(answered, BTreeSet::from([rescuer]));
    let end = worksong.wait_event("exit", |event| event.pid() == rescuer);
    assert_eq!(end["voluntary"], true, "it ends by itself, when nothing waits any more");
    worksong.wait_event("reload_report", |_| true);
    load.wait_answers(20);
    let served = load.finish_without_failure();
    assert!(!served.contains(&rescuer), "it gets nothing new: {served:?}");
}

#[test]
fn nobody_waits_for_a_slot_that_is_given_up() {
    let (port, folder) = (free_port(), Folder::new());
    let broken = folder.join("broken");
    let script = PYTHON.replace(
        "\nclass Handler",
        "\nif os.environ['WORKSONG_SLOT'] == '1' and os.path.exists(sys.argv[2]): sys.exit(1)\nclass Handler",
    );
    let options = ["-i", "2", "--dialect", "capture", "--policy", "kernel"];
    let soon = ["--max-restarts", "2", "--restart-delay", "10ms"];
    let worksong = Worksong::run(options).args(soon).args(["python3", "-c", &script, &port.to_string()]);
    let worksong = worksong.args([&broken]).start();
    let victim = worksong.wait_event("ready", |event| event["slot"] == 1).pid();
    let pids = worksong.wait_ready(2);
    process::freeze(victim);
    // About half of them wait for it.
    let waiting = ask(port, 40);
    folder.write("broken", "");
    process::kill(victim, Signal::KILL);
    worksong.wait_event("errored", |event| event["slot"] == 1);
    let answer =
        |mut connection: Connection| text_pid(&connection.read_response(false).expect("it is served"));
    let answered: BTreeSet<u32> = waiting.into_iter().map(answer).collect();
    let rescuer = worksong.wait_event("draining", |event| event["cause"] == "rescued");
    let other = *pids.iter().find(|pid| **pid != victim).expect("two workers");
    assert_eq!(answered, BTreeSet::from([other, rescuer.pid()]));
    assert_eq!(rescuer["slot"], 0, "it would fail in the other one");
    for _ in 0..20 {
        assert_ne!(text_pid(&http::get(port, "/").expect("an answer")), victim);
    }
    // A reload fills the slot again, and it gets its share.
    std::fs::remove_file(broken).expect("it is there");
    worksong.signal(Signal::HUP);
    worksong.wait_event("reload_done", |_| true);
    super::wait_sharers(port, 2, text_pid);
}
