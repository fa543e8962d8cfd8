//! The table of `docs/capture.md`.

use std::env;
use std::fmt;
use std::fs::{self, File};
use std::process::Command;

use worksong_testkit::{checkout, fixture};

use crate::server::Server;

const DOCUMENT: &str = "docs/capture.md";
/// The heads of the tables.
const HEADS: [&str; 2] = ["| server | version |", "| at a path | version |"];

/// What a trial has shown.
#[derive(Debug)]
pub(crate) enum Outcome {
    Passed {
        /// How many connections each worker had.
        share: Vec<usize>,
        /// How many questions were answered around a reload.
        reloaded: usize,
        /// How many connections a killed worker and its neighbours had in their queues.
        inherited: usize,
        /// How many connections waited while there was no worker.
        held: usize,
    },
    /// At a path, which all workers share.
    PassedAtPath {
        /// How many questions were answered around a reload.
        reloaded: usize,
        /// Whether others may have been cut.
        may_cut: bool,
        /// How many were answered although a worker was killed, and how many waited while there was none.
        killed: usize,
        held: usize,
    },
    /// The program makes it impossible, which its note explains.
    Impossible,
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Passed { share, reloaded, inherited, held } => {
                let share: Vec<String> = share.iter().map(usize::to_string).collect();
                write!(f, "{} | {reloaded} | {inherited} | {held}", share.join(" + "))
            }
            Self::PassedAtPath { reloaded, may_cut, killed, held } => {
                write!(f, "{reloaded} | {} | {killed} | {held}", if *may_cut { "some" } else { "none" })
            }
            Self::Impossible => f.write_str("no | no | no | no"),
        }
    }
}

/// Returns the names of the rows that are published.
pub(crate) fn names() -> Vec<String> {
    let text = fs::read_to_string(checkout().join(DOCUMENT)).unwrap();
    let table = |head| {
        let rows = text.lines().skip_while(move |line| !line.starts_with(head)).skip(2);
        rows.take_while(|line| line.starts_with('|'))
    };
    let rows = HEADS.into_iter().flat_map(table);
    rows.filter_map(|row| row.split('|').nth(1)).map(|name| name.trim().to_owned()).collect()
}

/// Writes a server's row when `WORKSONG_MATRIX` says `write`; there has to be one.
pub(crate) fn row(server: &Server, outcome: &Outcome) {
    let row = format!("| {} | {} | {outcome} | {} |", server.name, version(server), server.note);
    if env::var_os("WORKSONG_MATRIX").is_none_or(|value| value != "write") {
        return;
    }
    let path = checkout().join(DOCUMENT);
    // The rows are tried side by side, each in a process of its own.
    let lock = File::open(&path).unwrap();
    lock.lock().unwrap();
    let begin = format!("| {} |", server.name);
    let text = fs::read_to_string(&path).unwrap();
    assert!(text.contains(&begin), "{DOCUMENT} has no row {begin}");
    let lines = text.lines().map(|line| if line.starts_with(&begin) { row.as_str() } else { line });
    let lines: Vec<&str> = lines.collect();
    fs::write(&path, lines.join("\n") + "\n").unwrap();
}

/// The first number with a dot in what the server says of itself.
fn version(server: &Server) -> String {
    let said = Command::new("sh")
        .args(["-c", &format!("PATH=\"$PATH:/usr/sbin\"; {} 2>&1", server.version)])
        .env("SERVERS", fixture("servers"))
        .env("APPS", fixture(""))
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&said.stdout).into_owned();
    let is_version =
        |word: &&str| word.contains('.') && word.starts_with(|first: char| first.is_ascii_digit());
    let words = said.split(|character: char| !character.is_ascii_digit() && character != '.');
    words.map(|word| word.trim_matches('.')).find(is_version).unwrap_or("–").to_owned()
}
