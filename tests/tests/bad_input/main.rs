//! What comes in wrong: from people who type, from workers that break the protocol, from a system without descriptors.
//! Each time the primary says what is wrong and how to mend it, and goes on.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking, also in its helpers")]

mod capture;
mod descriptors;
mod starved;

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;

use worksong_testkit::{
    Folder, Launch, Signal, Stream, Worksong, binary, eventually, fixture, free_port, http, process,
};

/// Runs it to its end and returns its code with what it wrote to stderr.
fn refused(launch: Launch) -> (Option<i32>, String) {
    let (status, lines) = launch.finish();
    let stderr: Vec<String> =
        lines.into_iter().filter(|line| line.stream == Stream::Stderr).map(|line| line.text).collect();
    (status.code(), stderr.join("\n"))
}

/// Prepares `worksong run` as somebody without privileges; nobody has to change who is not root.
fn unprivileged(arguments: &[&str]) -> Launch {
    let worksong = binary("worksong");
    let is_root = fs::metadata("/proc/self").is_ok_and(|own| std::os::unix::fs::MetadataExt::uid(&own) == 0);
    let mut command: Vec<OsString> = Vec::new();
    if is_root {
        command.extend(["--reuid", "65534", "--clear-groups"].map(OsString::from));
        command.push(worksong.clone().into());
    }
    command.extend(["run", "-i", "1"].map(OsString::from));
    command.extend(arguments.iter().map(OsString::from));
    let launch = Worksong::with(command).cwd("/");
    if is_root { launch.binary("/usr/bin/setpriv") } else { launch.binary(worksong) }
}

#[test]
fn what_cannot_start_is_refused_with_the_fix() {
    let held = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = held.local_addr().unwrap().to_string();
    let holder = format!("pid {} (", std::process::id());
    let http = fixture("node/http.js").display().to_string();
    for (arguments, code, parts) in [
        (vec!["--instnaces", "2", &http], 2, vec!["--instnaces", "--instances"]),
        (
            vec!["--interpreter", "no-such-runtime", &http],
            2,
            vec!["could not find no-such-runtime", "--interpreter"],
        ),
        (vec!["--ready-timeout", "5", &http], 2, vec!["5s"]),
        (vec!["--listen", "nowhere", &http], 2, vec!["127.0.0.1:8080"]),
        (
            vec!["--listen", &address, &http],
            1,
            vec![&address, &holder, "stop that process or listen on another address"],
        ),
        (vec!["--listen", "192.0.2.1:0", &http], 1, vec!["192.0.2.1:0", "ip addr"]),
    ] {
        let (status, stderr) = refused(Worksong::with(["run"]).args(&arguments));
        assert_eq!(status, Some(code), "{arguments:?}: {stderr}");
        for part in parts {
            assert!(stderr.contains(part), "{arguments:?} without {part:?}: {stderr}");
        }
        assert!(!stderr.contains("panicked"), "{stderr}");
    }
}

#[test]
fn an_unreadable_script_is_refused() {
    let folder = Folder::new();
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let script = folder.write("secret.js", "");
    fs::set_permissions(&script, fs::Permissions::from_mode(0o000)).unwrap();
    let (code, stderr) = refused(unprivileged(&[script.to_str().unwrap()]));
    assert_eq!(code, Some(2), "{stderr}");
    assert!(stderr.contains("could not read") && stderr.contains("make it readable"), "{stderr}");
}

#[test]
fn a_port_without_permission_is_refused() {
    let first_free = fs::read_to_string("/proc/sys/net/ipv4/ip_unprivileged_port_start").unwrap();
    if first_free.trim().parse::<u32>().unwrap() <= 81 {
        println!("skipped: this system lets everybody have every port");
        return;
    }
    let (code, stderr) = refused(unprivileged(&["--listen", "127.0.0.1:81", "/bin/cat"]));
    assert_eq!(code, Some(1), "{stderr}");
    assert!(stderr.contains("127.0.0.1:81") && stderr.contains("CAP_NET_BIND_SERVICE"), "{stderr}");
}

/// Asks until both workers have answered.
#[track_caller]
fn assert_both_serve(worksong: &Worksong, pids: &BTreeSet<u32>) {
    let port = worksong.listening_port();
    let mut answering = BTreeSet::new();
    eventually("answers of both", || {
        let pid = http::get(port, "/").unwrap().json()["pid"].as_u64().unwrap();
        answering.insert(u32::try_from(pid).unwrap());
        (answering == *pids).then_some(())
    });
}

fn misuse(mode: &str, arguments: &[&str]) -> (Worksong, BTreeSet<u32>) {
    let worksong =
        Worksong::run(["-i", "2"]).args(arguments).program(fixture("node/flood.js")).args([mode]).start();
    let pids = worksong.wait_ready(2);
    (worksong, pids)
}

/// Tells one worker to begin, and returns its pid.
fn begin(worksong: &Worksong) -> u32 {
    let identity = http::get(worksong.listening_port(), "/go").unwrap().json();
    u32::try_from(identity["pid"].as_u64().unwrap()).unwrap()
}

#[track_caller]
fn stop(worksong: &Worksong) {
    worksong.signal(Signal::TERM);
    assert!(worksong.wait_exit().success());
}

#[test]
fn nonsense_from_a_worker_is_reported_and_skipped() {
    for mode in ["garbage", "binary", "unowed-ack"] {
        let (worksong, pids) = misuse(mode, &[]);
        let pid = begin(&worksong);
        let garbage = worksong.wait_event("garbage", |event| event.pid() == pid);
        assert!(garbage["reason"].as_str().is_some_and(|reason| !reason.is_empty()), "{mode}: {garbage:?}");
        assert_both_serve(&worksong, &pids);
        stop(&worksong);
    }
}

#[test]
fn unknown_messages_and_blank_lines_are_ignored() {
    for mode in ["unknown-act", "blank"] {
        let (worksong, pids) = misuse(mode, &[]);
        begin(&worksong);
        assert_both_serve(&worksong, &pids);
        stop(&worksong);
        assert!(worksong.events().iter().all(|event| event.name() != "garbage"), "{mode}");
    }
}

/// The half frame swallows the worker's next message, so this worker is lost in time; its clients are not.
#[test]
fn half_a_frame_costs_no_connection() {
    let (worksong, _) = misuse("half", &["--hung-timeout", "3s"]);
    begin(&worksong);
    let port = worksong.listening_port();
    for _ in 0..20 {
        assert_eq!(http::get(port, "/").unwrap().status, 200);
    }
}

#[test]
fn a_worker_that_never_listens_is_not_ready_and_fails_a_reload() {
    let worksong = Worksong::run(["-i", "1", "--ready-timeout", "300ms"])
        .program(fixture("node/crash.js"))
        .args(["never-listen"])
        .start();
    let late = worksong.wait_event("not_ready", |_| true);
    assert!(late["after_ms"].as_u64().unwrap() >= 300);
    assert!(process::alive(late.pid()), "nothing better exists: it is kept");
    worksong.signal(Signal::HUP);
    let failed = worksong.wait_event("reload_failed", |_| true);
    assert!(!failed["reason"].as_str().unwrap().is_empty());
    assert!(process::alive(late.pid()), "the old worker stays");
}

/// Resident memory in KiB.
fn memory(pid: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("a process has memory");
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

#[test]
fn a_flood_of_messages_neither_blocks_others_nor_fills_memory() {
    let (worksong, _) = misuse("send", &[]);
    let flooding = begin(&worksong);
    let mut seen = 0;
    worksong.wait_event("message", |event| {
        seen += usize::from(event.pid() == flooding);
        seen >= 5000
    });
    let port = worksong.listening_port();
    for _ in 0..20 {
        assert_eq!(http::get(port, "/").unwrap().status, 200);
    }
    assert!(memory(worksong.pid()) < 64 * 1024, "{} KiB", memory(worksong.pid()));
}

#[test]
fn a_line_without_end_does_not_fill_memory() {
    let (worksong, _) = misuse("endless", &["--hung-timeout", "3s"]);
    let endless = begin(&worksong);
    worksong.wait_event("garbage", |event| event.pid() == endless);
    let port = worksong.listening_port();
    for _ in 0..20 {
        assert_eq!(http::get(port, "/").unwrap().status, 200);
    }
    assert!(memory(worksong.pid()) < 256 * 1024, "{} KiB", memory(worksong.pid()));
}

#[test]
fn a_worker_that_never_reads_costs_no_connection() {
    let (worksong, _) = misuse("block", &["--hung-timeout", "3s"]);
    let blocked = begin(&worksong);
    let port = worksong.listening_port();
    // More than the window of hand-overs, so some were on their way to the blocked worker.
    for _ in 0..60 {
        let identity = http::get(port, "/").unwrap().json();
        assert_ne!(identity["pid"], blocked);
    }
    let exit = worksong.wait_event("exit", |event| event.pid() == blocked);
    assert_eq!(exit["signal"], "SIGKILL", "{exit:?}");
    worksong.wait_ready(2);
}

/// Processor time in clock ticks.
fn ticks(pid: u32) -> u64 {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let fields: Vec<&str> = stat.rsplit_once(')').unwrap().1.split_whitespace().collect();
    fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap()
}

/// Signals and timers of the primary have their turn, however much there is to hear.
#[test]
fn workers_that_talk_without_pause_do_not_make_the_primary_deaf() {
    let worksong = Worksong::run(["-i", "4", "--drain-timeout", "200ms"])
        .program(fixture("node/flood.js"))
        .args(["chatter"])
        .start();
    let pids = worksong.wait_ready(4);
    let mut talking = BTreeSet::new();
    while talking != pids {
        talking.insert(begin(&worksong));
    }
    worksong.signal(Signal::HUP);
    // Not by its event: a listener to the events that is so far behind misses some.
    eventually("the end of all old workers", || (!pids.iter().any(|pid| process::alive(*pid))).then_some(()));
    stop(&worksong);
}

#[test]
fn a_worker_that_reads_no_answers_is_cut_off_before_they_fill_the_memory() {
    let (worksong, _) = misuse("questions", &[]);
    let asking = begin(&worksong);
    let garbage = worksong.wait_event("garbage", |event| event.pid() == asking);
    assert!(garbage["reason"].as_str().unwrap().contains("unread"), "{garbage:?}");
    assert!(memory(worksong.pid()) < 128 * 1024, "{} KiB", memory(worksong.pid()));
    worksong.wait_event("exit", |event| event.pid() == asking);
    worksong.wait_ready(2);
}

#[test]
fn a_worker_that_closed_its_reading_half_is_noticed() {
    let port = free_port().to_string();
    let script = format!(
        "[ $WORKSONG_SLOT = 0 ] && exec python3 {}; HOST=127.0.0.1 exec node {}",
        fixture("python/half_closed.py").display(),
        fixture("node/http.js").display()
    );
    let worksong = Worksong::run(["-i", "2", "--dialect", "node", "--max-restarts", "1"])
        .env("PORT", &port)
        .program("sh")
        .args(["-c", &script])
        .start();
    let pids = worksong.wait_ready(2);
    for _ in 0..20 {
        let pid = http::get(port.parse::<u16>().unwrap(), "/").unwrap().json()["pid"].as_u64().unwrap();
        assert!(pids.contains(&u32::try_from(pid).unwrap()));
    }
    worksong.wait_event("disconnect", |event| event["slot"] == 0);
}

#[test]
fn a_listener_that_somebody_shut_down_is_told_and_comes_back_with_a_reload() {
    // A port that the kernel chose would be lost with the shutdown.
    let ours = TcpListener::bind(("127.0.0.1", free_port())).unwrap();
    let address = ours.local_addr().unwrap();
    let worksong = Worksong::run(["-i", "2"])
        .stdin(ours.try_clone().unwrap().into())
        .program(fixture("node/listen-forms.js"))
        .args([r#"[{"fd":0}]"#])
        .start();
    worksong.wait_ready(2);
    assert_eq!(http::get(address, "/").unwrap().status, 200);
    let before = ticks(worksong.pid());
    rustix::net::shutdown(&ours, rustix::net::Shutdown::Both).unwrap();
    let lost = worksong.wait_event("listener_lost", |_| true);
    assert_eq!(lost["address"], address.to_string());
    worksong.signal(Signal::HUP);
    worksong.wait_event("reload_done", |_| true);
    let spent = ticks(worksong.pid()) - before;
    assert!(spent < 50, "{spent} ticks: that is a busy loop");
    assert_eq!(http::get(address, "/").unwrap().status, 200);
    stop(&worksong);
}
