//! The program as a whole, with Node's own cluster as the system: results, wrong use, and nothing left behind.

use std::fs;
use std::io::{BufRead, BufReader};
use std::os::fd::OwnedFd;
use std::process::{Child, Command, Output, Stdio};
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
            // Only the primary that hands over is in the path of a connection.
            let handed_over = round["front_us"].as_f64().unwrap() > 5.0;
            assert_eq!(handed_over, row["system"] == "node-rr", "{round}");
        }
    }
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
