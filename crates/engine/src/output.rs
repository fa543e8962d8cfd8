//! What workers print: exact lines, and the last ones as evidence of how a worker ended.

mod last;
mod lines;

use std::sync::Arc;

use serde::Serialize;

use crate::ids::{Slot, WorkerId};

pub use last::LastLines;
pub use lines::{Line, LineSplitter};

/// One line that a worker printed, or a piece of a line that is longer than the limit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OutputLine {
    /// The name of the worker's app.
    pub app: Arc<str>,
    /// The worker's slot.
    pub slot: Slot,
    /// The worker.
    pub worker: WorkerId,
    /// Where it was printed.
    pub stream: Stream,
    /// The line without its line feed, exactly as printed.
    pub bytes: Vec<u8>,
    /// True when the line goes on in this worker's next piece on the same stream.
    pub continued: bool,
}

/// Which of its two outputs a worker printed on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Stream {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
}
