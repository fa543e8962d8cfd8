//! The program as a whole, with Node's own cluster as the system: results, wrong use, and nothing left behind.

use std::fs;
use std::io::{BufRead, BufReader};
use std::os::fd::OwnedFd;
use std::process::{Child, Command, Output, Stdio};
use std::sync::mpsc::channel;
use std::thread;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use serde_json::Value;

const PATIENCE: Duration = Duration::from_secs(15);

fn bench() -> Command {
    Command::new(env!("CARGO_BIN_EXE_worksong-bench"))
}

fn run(arguments: &str) -> Output {
    bench().args(arguments.split_whitespace()).output().expect("the program can be started")
}

/// Kills a benchmark that a failed assertion would leave behind; its guard ends the rest.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

/// Runs one round of a benchmark that has to succeed, and returns what it printed and what it wrote.
fn measure(arguments: &str) -> (String, Value) {
    measure_rounds(1, arguments)
}

fn measure_rounds(rounds: usize, arguments: &str) -> (String, Value) {
    let name = arguments.split_whitespace().next().expect("a benchmark has a name");
    let file = std::env::temp_dir().join(format!("worksong-bench-{name}-{}.json", std::process::id()));
    let output = run(&format!("{arguments} --rounds {rounds} --json {}", file.display()));
    let (stdout, stderr) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{stdout}{stderr}");
    let text = fs::read_to_string(&file).expect("the results are written");
    fs::remove_file(&file).expect("the results can be removed");
    (stdout.into_owned(), serde_json::from_str(&text).expect("the results are JSON"))
}

/// Returns the rounds of every row of every table, with the name of the system.
fn rounds(document: &Value) -> Vec<(&str, &Value)> {
    let mut all = Vec::new();
    for row in items(&document["results"]).flat_map(|table| items(&table["rows"])) {
        let system = row["system"].as_str().expect("a row has a system");
        all.extend(items(&row["rounds"]).map(|round| (system, round)));
    }
    all
}

fn items(list: &Value) -> impl Iterator<Item = &Value> {
    list.as_array().into_iter().flatten()
}

/// Fails unless every one of these systems answered all that it was asked, in so many tables.
fn assert_all_answered(document: &Value, systems: &str, tables: usize) {
    let rounds = rounds(document);
    for system in systems.split(',') {
        let count = rounds.iter().filter(|(name, _)| *name == system).count();
        assert_eq!(count, tables, "{system}: {document:#}");
    }
    for (system, round) in rounds {
        assert_eq!(round["failed"].as_f64(), Some(0.0), "{system}: {round}");
    }
}

#[test]
fn a_benchmark_prints_a_table_and_writes_its_rounds() {
    let file = std::env::temp_dir().join(format!("worksong-bench-{}.json", std::process::id()));
    let output = run(&format!(
        "accept --systems node-rr,node-none --workers 2 --rounds 2 --seconds 0.2 --rate 200 --json {}",
        file.display()
    ));
    let (stdout, stderr) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{stdout}{stderr}");
    assert!(stdout.contains("| Node cluster, round-robin | "), "{stdout}");

    let document: Value = serde_json::from_str(&fs::read_to_string(&file).unwrap()).unwrap();
    fs::remove_file(&file).unwrap();
    let results = document["results"].as_array().unwrap();
    assert_eq!(results.len(), 2, "saturated and at a fixed rate");
    for row in results.iter().flat_map(|result| result["rows"].as_array().unwrap()) {
        let rounds = row["rounds"].as_array().unwrap();
        assert_eq!(rounds.len(), 2);
        for round in rounds {
            assert_eq!(round["failed"], 0.0, "{round}");
            assert!(round["workers_us"].as_f64().unwrap() > 1.0, "{round}");
            // Only the primary that hands over is in the path of a connection; Node's has something to do now and then.
            let handed_over = round["front_us"].as_f64().unwrap() > 20.0;
            assert_eq!(handed_over, row["system"] == "node-rr", "{round}");
        }
    }
}

#[test]
fn fairness_tells_even_from_uneven() {
    let systems =
        "node-rr,node-none,worksong,worksong-least,worksong-shared,worksong-kernel,worksong-sticky-query";
    let (stdout, document) = measure(&format!(
        "fairness --workers 2 --seconds 0.2 --rate 200 --connections 400 --systems {systems}"
    ));
    assert_all_answered(&document, systems, 3);
    assert_eq!(stdout.matches("| worksong kernel, Node workers | ").count(), 3, "{stdout}");
    let mut in_turn: f64 = 0.0;
    for (system, round) in rounds(&document) {
        let jain = round["jain"].as_f64().unwrap();
        assert!((0.5..=1.000_001).contains(&jain), "{system}: {round}");
        if system == "worksong" {
            in_turn = in_turn.max(jain);
        }
    }
    // On a busy machine one of them may be left waiting, and passed by, for all of 0.2 s.
    assert!(in_turn > 0.9, "in turn means both: {document:#}");
}

#[test]
fn skew_sees_the_connections_that_wait_for_a_blocked_worker() {
    // Node's round robin has always given the blocked worker one connection.
    let systems = "node-rr,worksong,worksong-kernel";
    let (stdout, document) =
        measure(&format!("skew --workers 2 --seconds 0.4 --rate 200 --systems {systems}"));
    assert_all_answered(&document, systems, 4);
    assert_eq!(stdout.matches("### ").count(), 4, "{stdout}");
    let blocked = &document["results"][1]["rows"][0]["rounds"][0];
    let longest = blocked["longest_us"].as_u64().unwrap();
    assert!(longest > 1_000_000, "a connection waited for the worker that was blocked for 2 s: {blocked}");
}

#[test]
fn nginx_is_a_system_like_the_others() {
    let (stdout, document) = measure("skew --workers 2 --seconds 0.3 --rate 100 --systems nginx");
    assert_all_answered(&document, "nginx", 4);
    assert!(stdout.contains("nginx: nginx/"), "its version stands above the tables: {stdout}");
}

#[test]
fn skew_says_how_to_install_nginx() {
    let output = run("skew --systems nginx --nginx /nonexistent/nginx --json /dev/null");
    assert_eq!(output.status.code(), Some(2));
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(stderr.contains("/nonexistent/nginx does not exist; `apt install nginx-light`"), "{stderr}");
}

#[test]
fn peek_says_what_a_look_costs() {
    let systems = "worksong,worksong-sticky-ip,worksong-sticky";
    let (stdout, document) = measure(&format!("peek --seconds 0.3 --rate 200 --systems {systems}"));
    assert_all_answered(&document, systems, 2);
    assert!(stdout.contains("| more than the one before, µs |"), "{stdout}");
    for system in systems.split(',') {
        let rounds = rounds(&document).into_iter().filter(|(of, _)| *of == system);
        let busiest: Vec<f64> = rounds.map(|(_, round)| round["busiest"].as_f64().unwrap()).collect();
        // Users have addresses and cookies of their own, so both workers have work; but on a busy machine one of them
        // may be left waiting for all of 0.3 s.
        assert!(busiest.iter().any(|share| *share < 0.9), "{system}: {busiest:?}");
    }
}

#[test]
fn slow_measures_others_beside_clients_that_say_nothing() {
    let (stdout, document) =
        measure("slow --slow-clients 200 --seconds 0.3 --rate 100 --systems worksong-sticky");
    let rows = document["results"][0]["rows"].as_array().unwrap();
    let crowds: Vec<&str> = rows.iter().map(|row| row["slow_clients"].as_str().unwrap()).collect();
    assert_eq!(crowds, ["none", "silent", "dripping"], "{stdout}");
    for row in rows {
        let round = &row["rounds"][0];
        assert!(round["answered"].as_u64().unwrap() > 0 && round["failed"] == 0, "{document:#}");
    }
}

#[test]
fn affinity_moves_only_what_has_to_move() {
    let (stdout, document) = measure("affinity --sessions 400 --workers 2,3 --upload-mb 8");
    let moves = document["results"][0].as_array().unwrap();
    let moved_by = |step: &str| {
        let step = moves.iter().find(|moves| moves["step"] == step);
        step.unwrap_or_else(|| panic!("{stdout}"))["moved"].as_u64().unwrap()
    };
    assert!((60..210).contains(&moved_by("2 → 3 slots")), "about a third: {stdout}");
    assert_eq!(moved_by("reload of 3 slots"), 0);
    assert_eq!(moved_by("SIGKILL in slot 0 of 2"), 0);
    assert!(moved_by("3 → 2 slots") > 0, "{stdout}");
    assert_eq!(document["results"][1]["bytes"], 8 << 20, "{document:#}");
}

#[test]
fn stall_loads_both() {
    const ROUNDS: usize = 2;
    let (stdout, document) = measure_rounds(ROUNDS, "stall --seconds 2 --rate 200");
    assert_all_answered(&document, "worksong-library,worksong-library-stalled", ROUNDS);
    assert!(stdout.contains("its main thread blocked 1 s in every 2 s | "), "{stdout}");
    // Of connections that wait for a blocked thread one in a hundred would wait for nearly all of its second, in every
    // round; the machine may stand still in one.
    let mut of_stalled =
        rounds(&document).into_iter().filter(|(system, _)| *system == "worksong-library-stalled");
    let quick = |(_, round): (&str, &Value)| round["p99_us"].as_f64().unwrap() < 700_000.0;
    assert!(of_stalled.any(quick), "{document:#}");
}

#[test]
fn the_stalled_program_blocks_the_thread_that_supervises() {
    let mut program = Command::new(env!("CARGO_BIN_EXE_worksong-bench-cluster"));
    program.args(["--workers", "1", "--stall"]).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut running = Running(program.spawn().unwrap());
    let lines = BufReader::new(running.0.stdout.take().unwrap()).lines();
    let events = lines.map(|line| serde_json::from_str::<Value>(&line.unwrap()).unwrap());
    let (tell, told) = channel();
    thread::spawn(move || {
        for stall in events.filter(|event| event["event"] == "stalled") {
            tell.send(stall).ok();
        }
    });
    for _ in 0..2 {
        let stall = told.recv_timeout(PATIENCE).unwrap();
        assert!(stall["ms"].as_u64().unwrap() >= 1000 && stall["is_main"] == true, "{stall}");
    }
}

#[test]
fn memory_counts_the_primary_alone_and_with_its_helpers() {
    let (stdout, document) = measure("memory --systems worksong --workers 1 --seconds 0.2");
    let round = &document["results"][0][0]["rounds"][0];
    let (alone, all) = (&round["alone_kb"]["rss"], &round["fresh_kb"]["rss"]);
    assert!(alone.as_u64().unwrap() > 0 && alone.as_u64() < all.as_u64(), "the guard is a helper: {round}");
    assert!(stdout.contains("alone: RSS kB"), "{stdout}");
}

#[test]
fn absent_programs_are_skipped_with_the_reason() {
    let output = run(
        "start --systems node-rr,worksong --worksong /nonexistent/w --workers 1 --rounds 1 --json /dev/null",
    );
    let stdout = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{stdout}{}", String::from_utf8_lossy(&output.stderr));
    assert!(stdout.contains("Skipped worksong: /nonexistent/w does not exist"), "{stdout}");
}

#[test]
fn wrong_use_and_a_failing_system_end_with_a_sentence() {
    let output = run("accept --round 7");
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&output.stderr).contains("there is no option \"--round\""));

    let output = run("start --systems node-rr --node /bin/true --json /dev/null");
    assert_eq!(output.status.code(), Some(1));
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(stderr.contains("node-rr: 0 of 2 workers listened when it ended"), "{stderr}");
}

#[test]
fn a_killed_benchmark_leaves_no_process() {
    let mut command = bench();
    command.args(["keepalive", "--systems", "node-rr", "--rounds", "1", "--seconds", "600"]);
    command.args(["--json", "/dev/null"]).stdout(Stdio::null()).stderr(Stdio::piped());
    let mut running = Running(command.spawn().unwrap());
    // Not earlier: a cluster whose start is not over ends by itself when nobody reads its events.
    let mut progress = BufReader::new(running.0.stderr.take().unwrap()).lines();
    assert!(progress.any(|line| line.unwrap().contains("node-rr listens on port")));
    let started: Vec<OwnedFd> =
        descendants(running.0.id()).into_iter().map(|pid| open(pid).unwrap()).collect();
    assert_eq!(started.len(), 4, "the guard, Node's primary and its two workers");
    drop(running);
    for process in &started {
        assert!(ended_within(process, PATIENCE), "a process outlived the benchmark that started it");
    }
}

fn descendants(pid: u32) -> Vec<u32> {
    let Ok(threads) = fs::read_dir(format!("/proc/{pid}/task")) else { return Vec::new() };
    let mut all = Vec::new();
    for thread in threads.flatten() {
        let children = fs::read_to_string(thread.path().join("children")).unwrap_or_default();
        for child in children.split_whitespace().filter_map(|child| child.parse().ok()) {
            all.push(child);
            all.extend(descendants(child));
        }
    }
    all
}

fn open(pid: u32) -> Option<OwnedFd> {
    pidfd_open(Pid::from_raw(pid.cast_signed())?, PidfdFlags::empty()).ok()
}

fn ended_within(process: &OwnedFd, wait: Duration) -> bool {
    let timeout = Timespec { tv_sec: wait.as_secs().cast_signed(), tv_nsec: 0 };
    poll(&mut [PollFd::new(process, PollFlags::IN)], Some(&timeout)).is_ok_and(|ready| ready > 0)
}
