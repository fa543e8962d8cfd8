//! Everything that the foreground prints, written by one thread of its own.
//!
//! A terminal can stand still (Ctrl-S) and a pipe can be full for ever. Only the writer thread waits then; the queue in
//! front of it is bounded, so workers that go on printing wait as they would without a primary, and supervision and
//! connections are not touched.

mod format;
mod target;

use std::io;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use worksong_engine::event::Record;
use worksong_engine::output::OutputLine;

use crate::args::OutputArgs;
pub(crate) use format::Format;
use target::Targets;

/// How many items wait for the writer; a line has up to 1 MiB, so this also bounds memory.
const QUEUE: usize = 64;

/// Something to print.
#[derive(Clone, Debug)]
pub(crate) enum Item {
    /// A line of a worker.
    Line(OutputLine),
    /// Something that happened.
    Event(Arc<Record>),
    /// Something that worksong has to say by itself.
    Note(String),
}

/// The way to the writer thread.
#[derive(Debug)]
pub(crate) struct Printer {
    queue: mpsc::Sender<Item>,
    ended: oneshot::Receiver<()>,
}

impl Printer {
    /// Starts the writer thread on stdout and stderr.
    pub(crate) fn start(args: &OutputArgs) -> io::Result<Self> {
        let targets = Targets::standard()?;
        Self::start_with(Format::new(args), targets)
    }

    fn start_with(format: Format, targets: Targets) -> io::Result<Self> {
        let (queue, items) = mpsc::channel(QUEUE);
        let (end, ended) = oneshot::channel();
        thread::Builder::new().name("printer".to_owned()).spawn(move || {
            write_items(items, format, targets);
            drop(end);
        })?;
        Ok(Self { queue, ended })
    }

    /// Returns a sender for things to print; it waits while the queue is full.
    pub(crate) fn queue(&self) -> mpsc::Sender<Item> {
        self.queue.clone()
    }

    /// Waits until everything is written, but not for longer than `patience`: the reader may never come back.
    ///
    /// All other senders have to be dropped before, otherwise there is always more to come.
    pub(crate) async fn finish(self, patience: Duration) {
        drop(self.queue);
        // Both a finished writer and one that stands still are the end.
        let _ended = tokio::time::timeout(patience, self.ended).await;
    }
}

fn write_items(mut items: mpsc::Receiver<Item>, mut format: Format, mut targets: Targets) {
    while let Some(item) = items.blocking_recv() {
        format.render(&item, &mut targets);
        // One system call for all that is there.
        while let Ok(item) = items.try_recv() {
            format.render(&item, &mut targets);
        }
        targets.flush();
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::os::fd::OwnedFd;

    use worksong_engine::ids::{AppId, Slot, WorkerId};
    use worksong_engine::output::Stream;

    use super::*;

    fn line(text: &str) -> Item {
        Item::Line(OutputLine {
            app: "api".into(),
            slot: Slot(0),
            worker: WorkerId { app: AppId(0), number: 1 },
            stream: Stream::Stdout,
            bytes: text.into(),
            continued: false,
        })
    }

    fn pipes() -> (Targets, io::PipeReader, io::PipeReader) {
        let (out_reader, out) = io::pipe().unwrap();
        let (err_reader, err) = io::pipe().unwrap();
        (Targets::new(OwnedFd::from(out).into(), OwnedFd::from(err).into()), out_reader, err_reader)
    }

    fn runtime() -> tokio::runtime::Runtime {
        tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap()
    }

    #[test]
    fn everything_is_written_before_the_end() {
        let (targets, mut out, mut err) = pipes();
        let printer = Printer::start_with(Format::plain(), targets).unwrap();
        runtime().block_on(async {
            let queue = printer.queue();
            queue.send(line("one")).await.unwrap();
            queue.send(Item::Note("two".to_owned())).await.unwrap();
            queue.send(line("three")).await.unwrap();
            drop(queue);
            printer.finish(Duration::from_mins(1)).await;
        });
        let mut text = String::new();
        out.read_to_string(&mut text).unwrap();
        assert_eq!(text, "api.0 | one\napi.0 | three\n");
        text.clear();
        err.read_to_string(&mut text).unwrap();
        assert_eq!(text, "worksong: two\n");
    }

    #[test]
    fn a_reader_that_went_away_ends_nothing() {
        let (targets, out, mut err) = pipes();
        drop(out);
        let printer = Printer::start_with(Format::plain(), targets).unwrap();
        runtime().block_on(async {
            let queue = printer.queue();
            for _ in 0..3 * QUEUE {
                queue.send(line("nobody reads this")).await.unwrap();
            }
            queue.send(Item::Note("still here".to_owned())).await.unwrap();
            drop(queue);
            printer.finish(Duration::from_mins(1)).await;
        });
        let mut text = String::new();
        err.read_to_string(&mut text).unwrap();
        assert_eq!(text, "worksong: still here\n");
    }

    #[test]
    fn a_reader_that_stands_still_blocks_only_the_writer() {
        let (targets, out, _err) = pipes();
        let printer = Printer::start_with(Format::plain(), targets).unwrap();
        runtime().block_on(async {
            let queue = printer.queue();
            let long = "x".repeat(100_000);
            let mut sent = 0;
            // The queue fills up because nobody reads, and says so instead of growing.
            while tokio::time::timeout(Duration::from_millis(100), queue.send(line(&long))).await.is_ok() {
                sent += 1;
                assert!(sent < 10 * QUEUE, "the queue has no bound");
            }
            drop(queue);
            printer.finish(Duration::from_millis(1)).await;
        });
        drop(out);
    }
}
