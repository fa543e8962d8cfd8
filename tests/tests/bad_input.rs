//! What comes in wrong: from people who type, from workers that break the protocol, from a system without descriptors.
//! Each time the primary says what is wrong and how to mend it, and goes on.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking, also in its helpers")]

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs;
use std::io;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use rustix::process::{Pid, Resource, Rlimit, prlimit};
use worksong_testkit::{
    Folder, Launch, Signal, Stream, Worksong, binary, eventually, fixture, http, process,
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
    let (worksong, _) = misuse("half", &["--hung-timeout", "300ms"]);
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
    let (worksong, _) = misuse("endless", &["--hung-timeout", "300ms"]);
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
    let (worksong, _) = misuse("block", &["--hung-timeout", "500ms"]);
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

/// Prepares a primary that may have so many descriptors.
fn limited(descriptors: u32, arguments: &[&str], program: &Path) -> Launch {
    Worksong::run(["-i", "2"]).args(arguments).program(program).after(&format!("ulimit -n {descriptors}"))
}

/// Processor time in clock ticks.
fn ticks(pid: u32) -> u64 {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let fields: Vec<&str> = stat.rsplit_once(')').unwrap().1.split_whitespace().collect();
    fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap()
}

/// How many connections were shed until now.
fn shed(worksong: &Worksong) -> u64 {
    let events = worksong.events();
    let counts = events.iter().filter(|event| event.name() == "shed").map(|event| event["count"].as_u64());
    counts.map(|count| count.expect("a shed event has its count")).sum()
}

/// Opens a hundred connections, each with its request, so that none holds a descriptor for longer than its answer takes.
fn ask_all(port: u16) -> Vec<http::Connection> {
    let ask = |_| {
        let mut client = http::Connection::open(port).expect("the kernel completes it");
        // It may be closed already; that shows when it is read.
        let _sent = client.send(b"GET / HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n");
        client
    };
    (0..100).map(ask).collect()
}

/// Returns how many are answered, and how many were closed before an answer began; nothing else may happen to them.
#[track_caller]
fn answered_and_closed(clients: Vec<http::Connection>) -> (u64, u64) {
    let (mut answered, mut closed) = (0, 0);
    for mut client in clients {
        match client.read_response(false) {
            Ok(answer) if answer.status == 200 => answered += 1,
            Err(http::Error::NoAnswer(error)) if error.kind() != io::ErrorKind::WouldBlock => closed += 1,
            outcome => panic!("{outcome:?} after {answered} were answered and {closed} closed"),
        }
    }
    (answered, closed)
}

/// The kernel holds what the primary has no descriptors for; only what is counted as shed may be lost.
#[test]
fn a_primary_without_descriptors_keeps_connections_and_recovers() {
    const LIMIT: u32 = 36;
    let worksong = limited(LIMIT, &[], &fixture("node/http.js")).start();
    let pids = worksong.wait_ready(2);
    let port = worksong.listening_port();
    for pid in &pids {
        process::kill(*pid, Signal::STOP);
        eventually("that it stands still", || (process::state(*pid) == Some('T')).then_some(()));
    }
    let before = ticks(worksong.pid());
    let clients = ask_all(port);
    eventually("that no descriptor is left", || {
        (process::open_descriptors(worksong.pid())? >= LIMIT as usize).then_some(())
    });
    for pid in &pids {
        worksong.wait_event("unresponsive", |event| event.pid() == *pid);
    }
    let spent = ticks(worksong.pid()) - before;
    assert!(spent < 50, "{spent} ticks in a second of waiting: that is a busy loop");
    for pid in &pids {
        process::kill(*pid, Signal::CONT);
    }
    let (answered, closed) = answered_and_closed(clients);
    eventually("that every closed one is counted", || (shed(&worksong) == closed).then_some(()));
    assert!(answered > 0);
    assert_both_serve(&worksong, &pids);
    stop(&worksong);
}

/// Lets a running process open only so many descriptors more.
fn leave_free(pid: u32, count: u64) {
    let entries = fs::read_dir(format!("/proc/{pid}/fd")).unwrap();
    let taken: BTreeSet<u64> =
        entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect();
    let free = (0..).filter(|number| !taken.contains(number));
    let limit = free.take(usize::try_from(count).unwrap()).last().unwrap() + 1;
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw);
    let limit = Rlimit { current: Some(limit), maximum: Some(limit) };
    prlimit(pid, Resource::Nofile, limit).expect("everybody may lower the limits of a child");
}

/// A worker that takes nothing keeps all descriptors, so there is none for what the other could take.
#[test]
fn a_primary_that_stays_without_descriptors_sheds_counts_and_recovers() {
    let worksong = Worksong::run(["-i", "2"]).program(fixture("node/http.js")).start();
    let pids = worksong.wait_ready(2);
    let port = worksong.listening_port();
    let stopped = *pids.first().unwrap();
    process::kill(stopped, Signal::STOP);
    eventually("that it stands still", || (process::state(stopped) == Some('T')).then_some(()));
    leave_free(worksong.pid(), 2);
    let before = ticks(worksong.pid());
    let clients = ask_all(port);
    worksong.wait_event("shed", |_| true);
    process::kill(stopped, Signal::CONT);
    let (answered, closed) = answered_and_closed(clients);
    let spent = ticks(worksong.pid()) - before;
    assert!(spent < 50, "{spent} ticks in a second of waiting: that is a busy loop");
    eventually("that every closed one is counted", || (shed(&worksong) == closed).then_some(()));
    assert!(closed > 0 && answered >= 2, "{answered} answered, {closed} shed");
    assert_both_serve(&worksong, &pids);
    assert_eq!(shed(&worksong), closed, "with descriptors nothing is shed any more");
    stop(&worksong);
}

#[test]
fn connections_of_a_worker_without_descriptors_go_to_the_other() {
    let script =
        format!("[ $WORKSONG_SLOT = 0 ] && ulimit -n 40; exec node {}", fixture("node/http.js").display());
    let worksong =
        Worksong::run(["-i", "2", "--dialect", "node"]).program("sh").args(["-c", &script]).start();
    worksong.wait_ready(2);
    let port = worksong.listening_port();
    let mut answering = BTreeSet::new();
    // Each is kept open, far beyond what the first worker can have.
    let clients: Vec<http::Connection> = (0..100)
        .map(|_| {
            let mut client = http::Connection::open(port).unwrap();
            answering.insert(client.get("/").expect("an answer").json()["slot"].as_str().unwrap().to_owned());
            client
        })
        .collect();
    assert_eq!(answering.len(), 2, "the first worker took what it could");
    drop(clients);
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

/// Returns a port that nothing listens on now.
fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
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
