//! A worker's stdout or stderr, line by line, to whoever wants the lines.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::net::unix::pipe;
use tokio::sync::mpsc;

use crate::ids::{Slot, WorkerId};
use crate::output::{LastLines, Line, LineSplitter, OutputLine, Stream};

/// How much is read at once.
const BUFFER: usize = 8 * 1024;

/// Where a worker's lines go.
#[derive(Clone, Debug)]
pub(super) struct Sink {
    pub(super) app: Arc<str>,
    pub(super) slot: Slot,
    pub(super) worker: WorkerId,
    pub(super) lines: mpsc::Sender<OutputLine>,
    /// The last lines of stderr.
    pub(super) last: Arc<Mutex<LastLines>>,
}

impl Sink {
    /// Pumps until the pipe's writing end is closed by every process that has it.
    pub(super) async fn pump(self, stream: Stream, pipe: OwnedFd) -> io::Result<()> {
        let pipe = pipe::Receiver::from_owned_fd(pipe)?;
        let mut splitter = LineSplitter::default();
        let mut whole = Vec::new();
        loop {
            pipe.readable().await?;
            match read(&pipe, &mut splitter, &mut whole) {
                Ok(0) => break,
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => continue,
                Err(error) => return Err(error),
            }
            for line in whole.drain(..) {
                self.send(stream, line).await;
            }
        }
        if let Some(line) = splitter.finish() {
            self.send(stream, line).await;
        }
        Ok(())
    }

    async fn send(&self, stream: Stream, line: Line) {
        if stream == Stream::Stderr {
            self.last.lock().unwrap_or_else(PoisonError::into_inner).push(&line.bytes);
        }
        let line = OutputLine {
            app: Arc::clone(&self.app),
            slot: self.slot,
            worker: self.worker,
            stream,
            bytes: line.bytes,
            continued: line.continued,
        };
        // Nobody wants lines any more; they are read all the same, or the worker would stop.
        let _unwanted = self.lines.send(line).await;
    }
}

/// Reads once. The buffer lives only here, so that an idle pump costs no memory for it.
fn read(pipe: &pipe::Receiver, splitter: &mut LineSplitter, lines: &mut Vec<Line>) -> io::Result<usize> {
    let mut buffer = [0; BUFFER];
    let count = pipe.try_read(&mut buffer)?;
    splitter.push(&buffer[..count], |line| lines.push(line));
    Ok(count)
}
