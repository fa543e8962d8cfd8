//! What was read, as messages with their descriptors.

use std::collections::VecDeque;
use std::io::BufRead;

use crate::message::{DecodeError, Message};

/// The longest line that is read; longer ones are skipped and reported.
pub const MAX_LINE: usize = 64 * 1024 * 1024;
/// How many descriptors may wait for their message. Honest peers have one or two under way; more are closed,
/// so that no worker can use up the descriptors of the primary.
pub const MAX_UNPAIRED: usize = 64;

/// One message as it came in.
#[derive(Debug)]
pub struct Incoming<F> {
    /// The message.
    pub message: Message,
    /// The descriptor of a handle message; `None` where it was lost on the way (answer with a NACK).
    pub handle: Option<F>,
    /// True for Bun's internal messages, which start with a `0x02` byte and want the same back.
    pub prefixed: bool,
}

/// Collects bytes and descriptors until they are whole messages. `F` is the descriptor type.
///
/// Descriptors are paired in order of arrival, one per completed handle message. A worker that sends a
/// descriptor with a message that is no handle message only hurts itself: the next handle gets it.
#[derive(Debug)]
pub struct Inbox<F> {
    partial: Vec<u8>,
    skipping: bool,
    handles: VecDeque<F>,
    max_line: usize,
}

impl<F> Default for Inbox<F> {
    fn default() -> Self {
        Self::with_max_line(MAX_LINE)
    }
}

impl<F> Inbox<F> {
    /// Returns an empty inbox that skips lines longer than `max_line` bytes.
    #[must_use]
    pub fn with_max_line(max_line: usize) -> Self {
        Self { partial: Vec::new(), skipping: false, handles: VecDeque::new(), max_line }
    }

    /// Takes a descriptor that came with the bytes of the next [`feed`](Self::feed).
    ///
    /// When [`MAX_UNPAIRED`] others wait for their message already, it is dropped.
    pub fn take_handle(&mut self, handle: F) {
        if self.handles.len() < MAX_UNPAIRED {
            self.handles.push_back(handle);
        }
    }

    /// Takes bytes as they were read and appends every message that they complete to `out`.
    pub fn feed(&mut self, mut bytes: &[u8], out: &mut Vec<Result<Incoming<F>, DecodeError>>) {
        while let Some(at) = line_end(bytes) {
            let (line, rest) = (&bytes[..at], &bytes[at + 1..]);
            bytes = rest;
            if std::mem::take(&mut self.skipping) {
                continue;
            }
            if self.partial.is_empty() {
                self.line(line, out);
            } else {
                let mut whole = std::mem::take(&mut self.partial);
                whole.extend_from_slice(line);
                self.line(&whole, out);
            }
        }
        if self.skipping {
            return;
        }
        if self.partial.len() + bytes.len() > self.max_line {
            self.partial = Vec::new();
            self.skipping = true;
            out.push(Err(DecodeError::TooLong { limit: self.max_line }));
        } else {
            self.partial.extend_from_slice(bytes);
        }
    }

    /// Returns true when a started message waits for its end.
    #[must_use]
    pub fn has_partial(&self) -> bool {
        self.skipping || !self.partial.is_empty()
    }

    fn line(&mut self, line: &[u8], out: &mut Vec<Result<Incoming<F>, DecodeError>>) {
        let (prefixed, line) = match line.split_first() {
            Some((0x02, rest)) => (true, rest),
            _ => (false, line),
        };
        if line.is_empty() {
            return;
        }
        if line.len() > self.max_line {
            out.push(Err(DecodeError::TooLong { limit: self.max_line }));
            return;
        }
        let decoded = Message::decode(line);
        // A handle message that cannot be understood still uses up its descriptor, else all later ones shift.
        let handle = match &decoded {
            Ok(Message::Handle(_)) => self.handles.pop_front(),
            Err(error) if error.is_handle() => self.handles.pop_front(),
            Ok(_) | Err(_) => None,
        };
        out.push(decoded.map(|message| Incoming { message, handle, prefixed }));
    }
}

/// Finds the first line end. Behind this stands the `memchr` of the C library, which looks at many bytes at once.
fn line_end(mut bytes: &[u8]) -> Option<usize> {
    let all = bytes;
    let last = bytes.skip_until(b'\n').ok()?.checked_sub(1)?;
    (all.get(last) == Some(&b'\n')).then_some(last)
}

#[cfg(test)]
mod tests;
