//! What workers print, passed through line by line by one thread of its own.
//!
//! Only that thread waits for a terminal that stands still. The queue in front of it is bounded: workers that go on
//! printing then wait, as they would if they printed there themselves.

use std::convert::Infallible;
use std::io::{self, Write};
use std::sync::mpsc::Receiver;
use std::thread;
use std::time::Duration;

use tokio::sync::mpsc;
use worksong_engine::ids::WorkerId;
use worksong_engine::output::{OutputLine, Stream};

/// How many lines wait for the writer.
const QUEUE: usize = 64;
/// How long the end of the cluster waits for a reader of its output.
const PATIENCE: Duration = Duration::from_secs(2);

/// The thread that writes; it ends when all senders are dropped and everything is written.
#[derive(Debug)]
pub(crate) struct Writer {
    ended: Receiver<Infallible>,
}

/// Starts the writer.
pub(crate) fn start() -> io::Result<(mpsc::Sender<OutputLine>, Writer)> {
    let (sender, lines) = mpsc::channel(QUEUE);
    let (alive, ended) = std::sync::mpsc::channel();
    thread::Builder::new().name("output".to_owned()).spawn(move || {
        write_lines(lines);
        drop(alive);
    })?;
    Ok((sender, Writer { ended }))
}

impl Writer {
    /// Waits until everything is written, but not for a reader that may never come back.
    pub(crate) fn finish(self) {
        // Nothing is ever sent: it waits for the end of the sender.
        let _ended_or_late = self.ended.recv_timeout(PATIENCE);
    }
}

fn write_lines(mut lines: mpsc::Receiver<OutputLine>) {
    let mut stdout = Target::new(io::stdout());
    let mut stderr = Target::new(io::stderr());
    while let Some(line) = lines.blocking_recv() {
        match line.stream {
            Stream::Stdout => stdout.write(&line),
            Stream::Stderr => stderr.write(&line),
        }
    }
}

/// One of the primary's own outputs.
struct Target<W> {
    output: W,
    /// The worker whose last piece did not end its line.
    unfinished: Option<WorkerId>,
}

impl<W: Write> Target<W> {
    fn new(output: W) -> Self {
        Self { output, unfinished: None }
    }

    fn write(&mut self, line: &OutputLine) {
        let mut bytes = Vec::with_capacity(line.bytes.len() + 2);
        if self.unfinished.is_some_and(|worker| worker != line.worker) {
            bytes.push(b'\n');
        }
        bytes.extend_from_slice(&line.bytes);
        self.unfinished = line.continued.then_some(line.worker);
        if !line.continued {
            bytes.push(b'\n');
        }
        // A reader that has gone away ends the output, not the cluster.
        let _unread = self.output.write_all(&bytes).and_then(|()| self.output.flush());
    }
}

#[cfg(test)]
mod tests {
    use worksong_engine::ids::{AppId, Slot};

    use super::*;

    fn piece(worker: u32, text: &str, continued: bool) -> OutputLine {
        OutputLine {
            app: "app".into(),
            slot: Slot(0),
            worker: WorkerId { app: AppId(0), number: worker },
            stream: Stream::Stdout,
            bytes: text.into(),
            continued,
        }
    }

    #[test]
    fn pieces_of_a_line_are_joined_and_lines_of_workers_never_are() {
        let mut target = Target::new(Vec::new());
        for line in [piece(1, "a", true), piece(1, "b", false), piece(1, "c", true), piece(2, "d", false)] {
            target.write(&line);
        }
        assert_eq!(String::from_utf8(target.output).unwrap(), "ab\nc\nd\n");
    }
}
