//! Amounts, times and texts as people say them.

use std::fmt;
use std::time::Duration;

/// How much of a worker's own message is shown.
const MESSAGE_LENGTH: usize = 200;

/// Returns the beginning of a long text, and how long it is.
pub(super) fn shortened(text: &str) -> String {
    if text.len() <= MESSAGE_LENGTH {
        return text.to_owned();
    }
    format!("{}… ({} bytes)", &text[..text.floor_char_boundary(MESSAGE_LENGTH)], text.len())
}

/// A time span as people say it: `80 ms`, `1.2 s`, `3 min 5 s`, `2 h 10 min`.
pub(super) struct Span(pub(super) Duration);

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let milliseconds = self.0.as_millis();
        let seconds = self.0.as_secs();
        match seconds {
            0 => write!(f, "{milliseconds} ms"),
            1..60 if milliseconds % 1000 < 100 => write!(f, "{seconds} s"),
            1..60 => write!(f, "{seconds}.{} s", milliseconds % 1000 / 100),
            60..3600 if seconds.is_multiple_of(60) => write!(f, "{} min", seconds / 60),
            60..3600 => write!(f, "{} min {} s", seconds / 60, seconds % 60),
            _ => write!(f, "{} h {} min", seconds / 3600, seconds / 60 % 60),
        }
    }
}

/// Returns a number with a narrow space between each three digits.
pub(super) fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (at, digit) in digits.char_indices() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push('\u{202f}');
        }
        text.push(digit);
    }
    text
}

/// Returns `1 connection`, `3 connections`.
pub(super) fn connections(count: u64) -> String {
    counted(count, "connection")
}

/// Returns `1 datagram`, `3 datagrams`.
pub(super) fn datagrams(count: u64) -> String {
    counted(count, "datagram")
}

fn counted(count: u64, thing: &str) -> String {
    let plural = if count == 1 { "" } else { "s" };
    format!("{} {thing}{plural}", grouped(count))
}

/// Returns `3 connections to *:80 were`, to which it is added what they were.
pub(super) fn connections_were(count: u64, address: &str) -> String {
    let were = if count == 1 { "was" } else { "were" };
    format!("{} to {address} {were}", connections(count))
}

/// An amount of memory as people say it: `212 MB`, `1.5 GB`, in powers of 1024.
pub(super) struct Size(pub(super) u64);

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const MEGABYTE: u64 = 1024 * 1024;
        const GIGABYTE: u64 = 1024 * MEGABYTE;
        match self.0 {
            bytes if bytes < 10 * MEGABYTE => write!(f, "{} kB", bytes / 1024),
            bytes if bytes < GIGABYTE => write!(f, "{} MB", bytes / MEGABYTE),
            bytes => write!(f, "{}.{} GB", bytes / GIGABYTE, bytes % GIGABYTE * 10 / GIGABYTE),
        }
    }
}
