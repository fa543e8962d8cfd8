//! Messages of the primary to the program.

use std::collections::VecDeque;
use std::os::fd::OwnedFd;

use serde::Deserialize;
use serde_json::value::RawValue;

use crate::error::EncodeError;

/// How many messages wait for a program that does not read them.
const MAX_UNREAD: usize = 1024;

/// A message that the primary's program sent: any JSON value, and perhaps a descriptor.
#[derive(Debug)]
pub struct Message {
    body: Box<RawValue>,
    handle: Option<OwnedFd>,
}

impl Message {
    pub(crate) fn new(body: Box<RawValue>, handle: Option<OwnedFd>) -> Self {
        Self { body, handle }
    }

    /// Returns the message's JSON text.
    #[must_use]
    pub fn as_json(&self) -> &str {
        self.body.get()
    }

    /// Reads the message as a value.
    ///
    /// # Errors
    /// When the message has another shape.
    pub fn parse<'a, T: Deserialize<'a>>(&'a self) -> Result<T, EncodeError> {
        serde_json::from_str(self.body.get()).map_err(EncodeError)
    }

    /// Takes the descriptor that came with the message, such as a socket that a Node primary sent along.
    pub fn take_handle(&mut self) -> Option<OwnedFd> {
        self.handle.take()
    }
}

/// Messages that the program has not read yet. When it is full, the oldest goes.
#[derive(Debug, Default)]
pub(crate) struct Mailbox {
    unread: VecDeque<Message>,
    missed: u64,
}

impl Mailbox {
    pub(crate) fn put(&mut self, message: Message) {
        if self.unread.len() == MAX_UNREAD {
            self.unread.pop_front();
            self.missed += 1;
        }
        self.unread.push_back(message);
    }

    pub(crate) fn take(&mut self) -> Option<Message> {
        self.unread.pop_front()
    }

    pub(crate) fn has_unread(&self) -> bool {
        !self.unread.is_empty()
    }

    pub(crate) fn missed(&self) -> u64 {
        self.missed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_mailbox_loses_its_oldest_and_says_so() {
        let mut mailbox = Mailbox::default();
        for number in 0..MAX_UNREAD + 2 {
            mailbox.put(Message::new(serde_json::value::to_raw_value(&number).expect("a number"), None));
        }
        assert_eq!(mailbox.missed(), 2);
        assert_eq!(mailbox.take().expect("a message").parse::<usize>().expect("a number"), 2);
    }
}
