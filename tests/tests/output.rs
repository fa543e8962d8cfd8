//! What the primary prints of its workers: whole lines, each once, in order; and its own events.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;
use worksong_testkit::{
    Event, Folder, Launch, Signal, Stream, Worksong, binary, eventually, fixture, http, process,
};

const WORKERS: u32 = 4;
const LINES: usize = 2000;

/// Writes numbered lines of very different lengths in pieces that end anywhere, then lives on.
const FLOOD: &str = "
const fs = require('node:fs');
const lines = Number(process.argv[2]);
let text = '';
for (let n = 0; n < lines; n++) text += `${process.env.WORKSONG_SLOT} ${n} ${'x'.repeat((n * 37) % 700)}.\\n`;
const bytes = Buffer.from(text);
for (let at = 0; at < bytes.length; at += 997) fs.writeSync(1, bytes, at, Math.min(997, bytes.length - at));
setInterval(() => {}, 1 << 30);
";

fn flood(folder: &Folder) -> PathBuf {
    folder.write("flood.js", FLOOD)
}

fn flood_line(slot: u32, number: usize) -> String {
    format!("{slot} {number} {}.", "x".repeat((number * 37) % 700))
}

/// Runs a script in one worker, in the given way.
fn one(way: &[&str], script: &Path) -> Launch {
    Worksong::with(["run", "-i", "1", "--ready", "started", "--max-restarts", "1"])
        .args(way)
        .args(["--name", "app"])
        .program(script)
}

fn stdout(worksong: &Worksong) -> Vec<String> {
    let lines = worksong.lines().into_iter();
    lines.filter(|line| line.stream == Stream::Stdout).map(|line| line.text).collect()
}

fn wait_stdout(worksong: &Worksong, count: usize) -> Vec<String> {
    eventually(&format!("{count} lines"), || {
        let lines = stdout(worksong);
        (lines.len() >= count).then_some(lines)
    })
}

/// Asserts that each worker's lines are all there, in order and as they were written.
fn assert_whole(lines: impl IntoIterator<Item = (u32, String)>) {
    let mut next: BTreeMap<u32, usize> = BTreeMap::new();
    for (slot, line) in lines {
        let number = next.entry(slot).or_default();
        assert_eq!(line, flood_line(slot, *number));
        *number += 1;
    }
    assert_eq!(next, (0..WORKERS).map(|slot| (slot, LINES)).collect());
}

#[test]
fn lines_of_many_workers_are_whole_in_json() {
    let folder = Folder::new();
    let options = ["-i", "4", "--name", "flood"];
    let worksong = Worksong::run(options).program(flood(&folder)).args([LINES.to_string()]).start();
    wait_stdout(&worksong, WORKERS as usize * LINES);
    let output = worksong.output();
    assert!(output.iter().all(|line| line.app == "flood" && line.stream == "stdout"));
    assert_whole(output.into_iter().map(|line| (line.slot, line.line)));
}

#[test]
fn lines_of_many_workers_are_whole_with_a_prefix() {
    let folder = Folder::new();
    let launch = Worksong::with(["run", "-i", "4", "--name", "flood"]).program(flood(&folder));
    let worksong = launch.args([LINES.to_string()]).start();
    let lines = wait_stdout(&worksong, WORKERS as usize * LINES);
    assert_whole(lines.iter().map(|line| {
        let (prefix, rest) = line.split_once(" | ").expect("each line has a prefix");
        let slot = prefix.strip_prefix("flood.").expect("the prefix names the app");
        (slot.parse().expect("the prefix names the slot"), rest.to_owned())
    }));
}

#[test]
fn lines_of_many_workers_are_whole_and_bare_with_raw() {
    let folder = Folder::new();
    let launch = Worksong::with(["run", "--raw", "-i", "4"]).program(flood(&folder));
    let worksong = launch.args([LINES.to_string()]).start();
    let lines = wait_stdout(&worksong, WORKERS as usize * LINES);
    assert_whole(lines.into_iter().map(|line| {
        let slot = line.split(' ').next().and_then(|slot| slot.parse().ok());
        (slot.expect("each line begins with its slot"), line)
    }));
}

#[test]
fn streams_are_kept_apart() {
    let folder = Folder::new();
    let script = folder.write("both.sh", "echo out; echo err >&2; exec sleep 1000\n");

    let worksong = one(&["--json"], &script).start();
    let stream = |text: &str| {
        worksong.wait_output(text, |output| (output.line == text).then(|| output.stream.clone()))
    };
    assert_eq!(stream("out"), "stdout");
    assert_eq!(stream("err"), "stderr");

    for (way, out, err) in [(&[][..], "app.0 | out", "app.0 | err"), (&["--raw"], "out", "err")] {
        let worksong = one(way, &script).start();
        for (stream, text) in [(Stream::Stdout, out), (Stream::Stderr, err)] {
            eventually(text, || {
                worksong.lines().iter().any(|line| line.stream == stream && line.text == text).then_some(())
            });
        }
    }
}

#[test]
fn a_last_line_needs_no_end() {
    let folder = Folder::new();
    let script = folder.write("last.sh", "echo first; printf 'the end'; exit 3\n");
    for (way, expected) in
        [(&[][..], ["app.0 | first", "app.0 | the end"]), (&["--raw"], ["first", "the end"])]
    {
        let (status, lines) = one(way, &script).finish();
        assert_eq!(status.code(), Some(1));
        let lines: Vec<String> =
            lines.into_iter().filter(|line| line.stream == Stream::Stdout).map(|line| line.text).collect();
        assert_eq!(lines, expected);
    }
    let worksong = one(&["--json"], &script).start();
    worksong.wait_exit();
    let lines: Vec<String> = worksong.output().into_iter().map(|line| line.line).collect();
    assert_eq!(lines, ["first", "the end"]);
}

#[test]
fn an_overlong_line_comes_in_marked_pieces() {
    let folder = Folder::new();
    let script = folder
        .write("long.sh", "head -c 3000000 /dev/zero | tr '\\0' z; echo; echo short; exec sleep 1000\n");
    let worksong = one(&["--json"], &script).start();
    worksong.wait_output("the line after it", |output| (output.line == "short").then_some(()));
    let pieces: Vec<Value> =
        stdout(&worksong).iter().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    let (last, pieces) = pieces.split_last().unwrap();
    assert_eq!((last["line"].as_str(), last.get("continued")), (Some("short"), None));
    let whole: String = pieces.iter().map(|piece| piece["line"].as_str().unwrap()).collect();
    assert_eq!((whole.len(), whole.trim_matches('z')), (3_000_000, ""));
    let (end, begin) = pieces.split_last().unwrap();
    assert!(begin.iter().all(|piece| piece["continued"] == true));
    assert_eq!(end.get("continued"), None);

    // Without JSON nobody needs to put it together again.
    let worksong = one(&["--raw"], &script).start();
    let lines = wait_stdout(&worksong, 2);
    assert_eq!((lines[0].len(), lines[1].as_str()), (3_000_000, "short"));
}

#[test]
fn raw_output_is_the_very_bytes() {
    let folder = Folder::new();
    let bytes: Vec<u8> = (0..=255_u8).cycle().take(100_000).chain(*b"end").collect();
    let data = folder.write("data", &bytes);
    let script = folder.write("binary.sh", "cat \"$1\"; exit 1\n");
    let copy = folder.join("copy");
    let shell = "out=$1; shift; exec \"$@\" > \"$out\"";
    let launch = Worksong::with(["-c", shell, "sh"]).binary("/bin/sh").args([&copy, &binary("worksong")]);
    let options = ["run", "--raw", "-i", "1", "--ready", "started", "--max-restarts", "1"];
    let (status, _) = launch.args(options).program(script).args([data]).finish();
    assert_eq!(status.code(), Some(1));
    let mut copied = fs::read(copy).unwrap();
    assert_eq!(copied.pop(), Some(b'\n'), "the last line is given an end");
    assert!(copied == bytes, "{} bytes instead of {}", copied.len(), bytes.len());
}

#[test]
fn binary_output_is_still_json_with_json() {
    let folder = Folder::new();
    let script =
        folder.write("binary.sh", "printf 'a\\377\\000\\033\"b\\r\\n\\200\\nend\\n'; exec sleep 1000\n");
    let worksong = one(&["--json"], &script).start();
    worksong.wait_output("the end", |output| (output.line == "end").then_some(()));
    let lines: Vec<String> = worksong.output().into_iter().map(|line| line.line).collect();
    assert_eq!(lines, ["a\u{fffd}\0\u{1b}\"b\r", "\u{fffd}", "end"]);
}

/// Serves; after `/flood` one child of it writes to its stdout without end.
const NOISY: &str = "
const { spawn } = require('node:child_process');
require('node:http').createServer((request, response) => {
  response.end(String(process.pid));
  if (request.url === '/flood') spawn('yes', ['noise'], { stdio: ['ignore', 'inherit', 'inherit'] });
  if (request.url === '/exit') response.on('close', () => process.exit(1));
}).listen(0);
";

#[test]
fn a_reader_that_stands_still_stops_neither_serving_nor_supervision() {
    let folder = Folder::new();
    let program = folder.write("noisy.js", NOISY);
    let fifo = folder.join("stdout");
    assert!(Command::new("mkfifo").arg(&fifo).status().unwrap().success());
    // Open for reading and never read.
    let reader = File::options().read(true).write(true).open(&fifo).unwrap();
    let shell = "out=$1; shift; exec \"$@\" > \"$out\"";
    let launch = Worksong::with(["-c", shell, "sh"]).binary("/bin/sh").args([&fifo, &binary("worksong")]);
    let options = ["run", "--json", "-i", "2", "--drain-timeout", "1s"];
    let worksong = launch.args(options).program(program).start();
    let pids = worksong.wait_ready(2);
    let port = worksong.listening_port();
    http::get(port, "/flood").unwrap();
    // The noise sleeps only in its write; when it does so again and again, all pipes up to the reader are full.
    let mut asleep = 0;
    eventually("a full pipe", || {
        let noise = process::descendants(worksong.pid()).into_iter().find(|child| {
            fs::read_to_string(format!("/proc/{}/comm", child.pid())).is_ok_and(|name| name == "yes\n")
        })?;
        asleep = if process::state(noise.pid()) == Some('S') { asleep + 1 } else { 0 };
        (asleep == 10).then_some(())
    });

    let mut served = BTreeSet::new();
    for _ in 0..20 {
        served.insert(http::get(port, "/").unwrap().text().to_owned());
    }
    assert_eq!(served, pids.iter().map(u32::to_string).collect());
    let crashed = http::get(port, "/exit").unwrap().text().to_owned();
    eventually("the successor of a crashed worker", || {
        let answer = http::get(port, "/").unwrap().text().to_owned();
        (!served.contains(&answer)).then_some(())
    });
    assert!(!process::alive(crashed.parse().unwrap()));
    worksong.signal(Signal::TERM);
    assert_eq!(worksong.wait_exit().code(), Some(0));
    drop(reader);
}

#[test]
fn a_reader_that_went_away_stops_nothing() {
    let folder = Folder::new();
    let program = folder.write("noisy.js", NOISY);
    let shell = "exec 3>&1; { \"$@\" 3>&-; echo \"exit $?\" >&3; } | true";
    let launch = Worksong::with(["-c", shell, "sh"]).binary("/bin/sh").args([binary("worksong")]);
    let worksong =
        launch.args(["run", "--json", "-i", "1", "--drain-timeout", "500ms"]).program(program).start();
    let port = worksong.listening_port();
    http::get(port, "/flood").unwrap();
    for _ in 0..5 {
        assert_eq!(http::get(port, "/").unwrap().status, 200);
    }
    let primary = eventually("the primary", || {
        process::descendants(worksong.pid()).into_iter().find(|child| {
            fs::read_to_string(format!("/proc/{}/comm", child.pid())).is_ok_and(|name| name == "worksong\n")
        })
    });
    primary.signal(Signal::TERM);
    worksong.wait_exit();
    let last = worksong.lines().into_iter().rev().find(|line| line.stream == Stream::Stdout);
    assert_eq!(last.map(|line| line.text), Some("exit 0".to_owned()));
}

#[test]
fn events_are_json_in_one_order_without_gaps() {
    let worksong = Worksong::run(["-i", "3"]).program(fixture("node/http.js")).start();
    let pids = worksong.wait_ready(3);
    process::kill(*pids.first().unwrap(), Signal::KILL);
    worksong.wait_event("exit", |_| true);
    worksong.wait_ready(3);
    worksong.signal(Signal::HUP);
    worksong.wait_event("reload_done", |_| true);
    worksong.signal(Signal::TERM);
    assert_eq!(worksong.wait_exit().code(), Some(0));

    for line in worksong.lines() {
        let value: Value =
            serde_json::from_str(&line.text).unwrap_or_else(|_| panic!("not JSON: {}", line.text));
        assert!(value.is_object());
    }
    let events = worksong.events();
    let seqs: Vec<u32> = events.iter().map(Event::seq).collect();
    let count = u32::try_from(events.len()).unwrap();
    assert_eq!(seqs, (1..=count).collect::<Vec<_>>());
    let times: Vec<u64> = events.iter().map(|event| event["at_ms"].as_u64().unwrap()).collect();
    assert!(times.is_sorted());
    assert!(events.iter().all(|event| event["app"] == "http"));

    let mut lives: BTreeMap<u32, Vec<&str>> = BTreeMap::new();
    for event in events.iter().filter(|event| event.has("worker")) {
        lives.entry(event.worker()).or_default().push(event.name());
    }
    assert_eq!(lives.len(), 3 + 1 + 3);
    let killed = events.iter().find(|event| event["signal"] == "SIGKILL").unwrap().worker();
    for (worker, life) in lives {
        let expected: &[&str] = if worker == killed {
            &["forked", "online", "listening", "ready", "disconnect", "exit"]
        } else {
            &["forked", "online", "listening", "ready", "draining", "disconnect", "exit"]
        };
        assert_eq!(life, expected, "worker {worker}");
    }
}

#[test]
fn people_read_sentences() {
    let worksong = Worksong::with(["run", "-i", "1"]).program(fixture("node/http.js")).start();
    let read = |part: &str| {
        eventually(part, || {
            let lines = worksong.lines();
            let line =
                lines.into_iter().find(|line| line.stream == Stream::Stderr && line.text.contains(part))?;
            assert!(line.text.starts_with("worksong: "), "{}", line.text);
            Some(line.text)
        })
    };
    read("runs ");
    read("http listens on ");
    read("http.0 (pid ");
    worksong.signal(Signal::TERM);
    worksong.wait_exit();
    read("http stops: SIGTERM");
    read("http has stopped");
    assert_eq!(stdout(&worksong), Vec::<String>::new());
}
