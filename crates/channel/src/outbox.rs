//! What may be written next, and what waits.
//!
//! Two rules of the receiving end shape this (libuv in Node 16–26, seen live):
//!
//! * It reads up to 64 KiB at a time and pairs *one* descriptor with the first handle message that a read
//!   completes. So a descriptor travels with exactly one whole message, and a handle message that could be cut
//!   by a read boundary must be the only unanswered one: the **fence**.
//! * About 280 unread messages fill the socket. So everything can be refused by the kernel, and waits here in
//!   order; connections never wait here, they go to another worker instead.

use std::collections::VecDeque;
use std::ops::Deref;
use std::sync::Arc;

/// How much a receiver reads at once; a handle message must end within it, counted from the last one.
pub const READ_WINDOW: usize = 64 * 1024;
/// Shorter messages stay in one piece inside the kernel, so that one read takes them with their descriptor.
pub const MAX_UNCUT: usize = 32 * 1024;
/// How many bytes of messages may wait for a peer that does not read.
pub const MAX_QUEUED: usize = 16 * 1024 * 1024;

/// The bytes of a message.
#[derive(Clone, Debug)]
pub enum Bytes {
    /// Those of one channel.
    Own(Vec<u8>),
    /// Those that several channels send: they wait in memory once, however many have not read them.
    Shared(Arc<[u8]>),
}

impl Deref for Bytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            Self::Own(bytes) => bytes,
            Self::Shared(bytes) => bytes,
        }
    }
}

impl From<Vec<u8>> for Bytes {
    fn from(bytes: Vec<u8>) -> Self {
        Self::Own(bytes)
    }
}

impl From<Arc<[u8]>> for Bytes {
    fn from(bytes: Arc<[u8]>) -> Self {
        Self::Shared(bytes)
    }
}

/// A message that waits to be written, with the descriptor that goes with its first byte.
#[derive(Debug)]
pub struct Outgoing<F> {
    /// The bytes not yet written.
    pub bytes: Bytes,
    /// The descriptor, until it was sent.
    pub handle: Option<F>,
}

/// The order and the limits of one direction of a channel. `F` is the descriptor type.
#[derive(Debug)]
pub struct Outbox<F> {
    queue: VecDeque<Outgoing<F>>,
    /// How many bytes of the queue's first message were written.
    written: usize,
    queued_bytes: usize,
    max_queued: usize,
    /// Plain bytes written since the last handle message: what a read may glue in front of the next one.
    plain: usize,
    /// Handle messages written and not answered.
    unanswered: usize,
    /// The last handle message may be cut by a read: no other may follow until all are answered.
    fenced: bool,
}

/// The peer does not read: the message was not queued.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the other end does not read its channel: {queued} bytes wait already, the limit is {limit}")]
pub struct Overfull {
    /// How many bytes wait.
    pub queued: usize,
    /// How many may.
    pub limit: usize,
}

impl<F> Default for Outbox<F> {
    fn default() -> Self {
        Self::with_max_queued(MAX_QUEUED)
    }
}

impl<F> Outbox<F> {
    /// Returns an empty outbox that holds at most `max_queued` bytes of user messages.
    #[must_use]
    pub fn with_max_queued(max_queued: usize) -> Self {
        Self {
            queue: VecDeque::new(),
            written: 0,
            queued_bytes: 0,
            max_queued,
            plain: 0,
            unanswered: 0,
            fenced: false,
        }
    }

    /// Returns true when nothing waits, so that a message may be written directly.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    /// Returns how many bytes wait.
    #[must_use]
    pub fn queued_bytes(&self) -> usize {
        self.queued_bytes
    }

    /// Returns how many handle messages were written and not answered.
    #[must_use]
    pub fn unanswered(&self) -> usize {
        self.unanswered
    }

    /// Queues a message whose loss the protocol does not survive; their number is bounded by the peer's own.
    pub fn push(&mut self, bytes: impl Into<Bytes>, handle: Option<F>) {
        let bytes = bytes.into();
        self.queued_bytes += bytes.len();
        self.queue.push_back(Outgoing { bytes, handle });
    }

    /// Queues a user message, unless the peer has left too much unread.
    ///
    /// What is shared counts for each of those that have not read it.
    pub fn push_bounded(&mut self, bytes: impl Into<Bytes>, handle: Option<F>) -> Result<(), Overfull> {
        let bytes = bytes.into();
        if self.queued_bytes + bytes.len() > self.max_queued {
            return Err(Overfull { queued: self.queued_bytes, limit: self.max_queued });
        }
        self.push(bytes, handle);
        Ok(())
    }

    /// Forgets what waits, and closes its descriptors: nobody will read it.
    pub fn clear(&mut self) {
        self.queue.clear();
        self.written = 0;
        self.queued_bytes = 0;
    }

    /// Returns true when a handle message of `length` bytes may be written now.
    #[must_use]
    pub fn may_send_handle(&self, length: usize) -> bool {
        if self.fenced {
            return false;
        }
        self.unanswered == 0 || self.plain + length <= READ_WINDOW
    }

    /// Returns the rest of the first message and its descriptor, unless the fence holds it back.
    #[must_use]
    pub fn next(&self) -> Option<(&[u8], Option<&F>)> {
        let first = self.queue.front()?;
        if first.handle.is_some() && !self.may_send_handle(first.bytes.len()) {
            return None;
        }
        Some((&first.bytes[self.written..], first.handle.as_ref()))
    }

    /// Notes that the first `count` bytes of [`next`](Self::next) were written.
    pub fn wrote(&mut self, count: usize) {
        let Some(first) = self.queue.front_mut() else {
            debug_assert!(count == 0, "nothing was queued");
            return;
        };
        let length = first.bytes.len();
        let sent_handle = count > 0 && first.handle.take().is_some();
        self.written += count;
        self.queued_bytes = self.queued_bytes.saturating_sub(count);
        if self.written >= length {
            self.queue.pop_front();
            self.written = 0;
        }
        if sent_handle {
            self.handle_went(length, count);
        } else {
            self.plain = self.plain.saturating_add(count);
        }
    }

    /// Notes that a handle message was written directly, its descriptor with its first `written` bytes.
    ///
    /// What is left of it waits here now, before everything else.
    pub fn sent_handle(&mut self, message: &[u8], written: usize) {
        debug_assert!(self.queue.is_empty(), "a message that waits cannot be overtaken");
        self.handle_went(message.len(), written);
        let rest = &message[written..];
        if !rest.is_empty() {
            self.queued_bytes += rest.len();
            self.queue.push_front(Outgoing { bytes: rest.to_vec().into(), handle: None });
        }
    }

    fn handle_went(&mut self, length: usize, written: usize) {
        debug_assert!(self.may_send_handle(length), "the fence was ignored");
        let whole = written == length && length < MAX_UNCUT;
        self.fenced = !whole || self.plain + length > READ_WINDOW;
        self.plain = 0;
        self.unanswered += 1;
    }

    /// Notes an answer to the oldest unanswered handle message; `false` when none was owed.
    #[must_use]
    pub fn answered(&mut self) -> bool {
        let Some(left) = self.unanswered.checked_sub(1) else {
            return false;
        };
        self.unanswered = left;
        if left == 0 {
            self.fenced = false;
        }
        true
    }
}

#[cfg(test)]
mod tests;
