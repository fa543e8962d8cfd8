//! How lines, events and notes look: for people, raw, and as JSON.

use std::borrow::Cow;
use std::env;
use std::io::{self, IsTerminal, Write};

use serde::Serialize;
use worksong_engine::ids::{Slot, WorkerId};
use worksong_engine::output::{OutputLine, Stream};

use super::Item;
use super::target::Targets;
use crate::args::OutputArgs;
use crate::narrator::Narrator;

/// Colours of slots, in turn; none of them means good or bad.
const COLOURS: [u8; 6] = [36, 33, 32, 35, 34, 96];

/// Turns items into bytes for stdout and stderr.
#[derive(Debug)]
pub(crate) struct Format {
    style: Style,
    narrator: Narrator,
}

#[derive(Debug)]
enum Style {
    /// A prefix before each line; colours where the stream is a terminal.
    People { colour: PerStream<bool> },
    /// The bytes as they are. Remembers the worker whose overlong line is not complete yet.
    Raw { open: PerStream<Option<WorkerId>> },
    /// A JSON object for each line.
    Json,
}

/// One value for each stream.
#[derive(Clone, Copy, Debug, Default)]
struct PerStream<T> {
    stdout: T,
    stderr: T,
}

impl<T> PerStream<T> {
    fn of(&mut self, stream: Stream) -> &mut T {
        match stream {
            Stream::Stdout => &mut self.stdout,
            Stream::Stderr => &mut self.stderr,
        }
    }
}

impl Format {
    /// Returns the format that was asked for, with colours only where they can be seen and are not refused.
    pub(crate) fn new(args: &OutputArgs) -> Self {
        let style = if args.json {
            Style::Json
        } else if args.raw {
            Style::Raw { open: PerStream::default() }
        } else {
            let allowed = !args.no_color
                && env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
                && env::var_os("TERM").is_none_or(|value| value != "dumb");
            let stdout = allowed && io::stdout().is_terminal();
            let stderr = allowed && io::stderr().is_terminal();
            Style::People { colour: PerStream { stdout, stderr } }
        };
        Self { style, narrator: Narrator::new(args.verbose) }
    }

    /// Returns the format for people without colours.
    #[cfg(test)]
    pub(crate) fn plain() -> Self {
        Self { style: Style::People { colour: PerStream::default() }, narrator: Narrator::default() }
    }

    /// Appends an item to the output that it belongs to.
    pub(super) fn render(&mut self, item: &Item, targets: &mut Targets) {
        match item {
            Item::Line(line) => {
                let stream = if matches!(self.style, Style::Json) { Stream::Stdout } else { line.stream };
                self.line(line, targets.buffer(stream));
            }
            Item::Event(record) => {
                if matches!(self.style, Style::Json) {
                    json(record.as_ref(), targets.buffer(Stream::Stderr));
                } else if let Some(sentence) = self.narrator.tell(record) {
                    self.sentence(&sentence, targets.buffer(Stream::Stderr));
                }
            }
            Item::Note(text) => {
                if matches!(self.style, Style::Json) {
                    json(&JsonNote { note: text }, targets.buffer(Stream::Stderr));
                } else {
                    self.sentence(text, targets.buffer(Stream::Stderr));
                }
            }
        }
    }

    fn line(&mut self, line: &OutputLine, buffer: &mut Vec<u8>) {
        match &mut self.style {
            Style::People { colour } => {
                let name = format_args!("{}.{}", line.app, line.slot);
                if *colour.of(line.stream) {
                    let code = COLOURS[line.slot.0 as usize % COLOURS.len()];
                    append(buffer, format_args!("\x1b[{code}m{name} |\x1b[0m "));
                } else {
                    append(buffer, format_args!("{name} | "));
                }
                buffer.extend_from_slice(&line.bytes);
                if line.continued {
                    buffer.extend_from_slice("…".as_bytes());
                }
                buffer.push(b'\n');
            }
            Style::Raw { open } => {
                let open = open.of(line.stream);
                if open.is_some_and(|worker| worker != line.worker) {
                    buffer.push(b'\n');
                }
                buffer.extend_from_slice(&line.bytes);
                *open = line.continued.then_some(line.worker);
                if !line.continued {
                    buffer.push(b'\n');
                }
            }
            Style::Json => {
                let text = String::from_utf8_lossy(&line.bytes);
                let line = JsonLine {
                    app: &line.app,
                    slot: line.slot,
                    worker: line.worker.number,
                    stream: line.stream,
                    line: text,
                    continued: line.continued,
                };
                json(&line, buffer);
            }
        }
    }

    fn sentence(&mut self, text: &str, buffer: &mut Vec<u8>) {
        let bold = match &mut self.style {
            Style::People { colour } => colour.stderr,
            Style::Raw { open } => {
                if open.stderr.take().is_some() {
                    buffer.push(b'\n');
                }
                false
            }
            Style::Json => false,
        };
        let name = if bold { "\x1b[1mworksong:\x1b[0m" } else { "worksong:" };
        append(buffer, format_args!("{name} {text}\n"));
    }
}

/// A line of a worker with `--json`.
#[derive(Serialize)]
struct JsonLine<'a> {
    app: &'a str,
    slot: Slot,
    worker: u32,
    stream: Stream,
    line: Cow<'a, str>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    continued: bool,
}

/// A note with `--json`.
#[derive(Serialize)]
struct JsonNote<'a> {
    note: &'a str,
}

fn append(buffer: &mut Vec<u8>, text: std::fmt::Arguments<'_>) {
    buffer.write_fmt(text).expect("invariant: a vector takes all bytes");
}

fn json(value: &impl Serialize, buffer: &mut Vec<u8>) {
    let start = buffer.len();
    // Half an object would spoil the line of a reader; a message of a worker is the only part that could fail.
    if serde_json::to_writer(&mut *buffer, value).is_err() {
        buffer.truncate(start);
        return;
    }
    // A worker's own message is passed on as it was sent and may contain line feeds only between its tokens.
    for byte in &mut buffer[start..] {
        if *byte == b'\n' || *byte == b'\r' {
            *byte = b' ';
        }
    }
    buffer.push(b'\n');
}

#[cfg(test)]
mod tests;
