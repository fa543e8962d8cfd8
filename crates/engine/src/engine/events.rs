//! Events to subscribers.

use std::collections::VecDeque;
use std::sync::{Arc, Weak};
use std::time::{SystemTime, UNIX_EPOCH};

use tokio::sync::broadcast;
use tokio::sync::broadcast::error::{RecvError, TryRecvError};

use crate::event::{Event, Record};

/// How many bytes of messages may wait for subscribers. A message that is alone may be larger.
const MESSAGES: usize = 16 * 1024 * 1024;

/// Where subscriptions come from; it does not keep the stream of events open.
#[derive(Clone, Debug)]
pub(super) struct Source(broadcast::WeakSender<Arc<Record>>, Arc<SourceKeeper>);

/// Holds the sender until the control task takes it over.
#[derive(Debug)]
struct SourceKeeper(std::sync::Mutex<Option<broadcast::Sender<Arc<Record>>>>);

impl Source {
    pub(super) fn new(sender: broadcast::Sender<Arc<Record>>) -> Self {
        Self(sender.downgrade(), Arc::new(SourceKeeper(std::sync::Mutex::new(Some(sender)))))
    }

    /// Takes the sending end, once.
    pub(super) fn journal(&self) -> Option<Journal> {
        let sender = self.1.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner).take()?;
        Some(Journal { sender, seq: 0, messages: Messages::default() })
    }

    pub(super) fn subscribe(&self) -> Subscription {
        Subscription { events: self.0.upgrade().map(|sender| sender.subscribe()), missed: 0 }
    }
}

/// Numbers events and sends them to all subscribers.
#[derive(Debug)]
pub(super) struct Journal {
    sender: broadcast::Sender<Arc<Record>>,
    seq: u64,
    messages: Messages,
}

impl Journal {
    pub(super) fn record(&mut self, app: &str, event: Event) {
        let (event, length) = match event {
            Event::Message { worker, body } => {
                let length = body.get().len();
                if self.messages.have_room_for(length) {
                    (Event::Message { worker, body }, Some(length))
                } else {
                    (Event::MessageDropped { worker, length }, None)
                }
            }
            other => (other, None),
        };
        self.seq += 1;
        let at = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let at_ms = u64::try_from(at.as_millis()).unwrap_or(u64::MAX);
        let record = Arc::new(Record { seq: self.seq, at_ms, app: app.to_owned(), event });
        if let Some(length) = length {
            self.messages.add(&record, length);
        }
        // Without subscribers nobody needs it.
        let _unheard = self.sender.send(record);
    }
}

/// The messages that somebody still has to read, or has read and keeps.
#[derive(Debug, Default)]
struct Messages {
    alive: VecDeque<(Weak<Record>, usize)>,
    bytes: usize,
}

impl Messages {
    /// Returns whether one more message may be kept.
    fn have_room_for(&mut self, length: usize) -> bool {
        // Subscribers read in order, so this finds most of what is gone, at little cost.
        while let Some((_, length)) = self.alive.pop_front_if(|(record, _)| record.strong_count() == 0) {
            self.bytes -= length;
        }
        if self.bytes + length > MESSAGES {
            self.alive.retain(|(record, _)| record.strong_count() > 0);
            self.bytes = self.alive.iter().map(|(_, length)| length).sum();
        }
        self.alive.is_empty() || self.bytes + length <= MESSAGES
    }

    fn add(&mut self, record: &Arc<Record>, length: usize) {
        self.alive.push_back((Arc::downgrade(record), length));
        self.bytes += length;
    }
}

/// The events of an engine, in order. Dropping it ends the subscription.
#[derive(Debug)]
pub struct Subscription {
    events: Option<broadcast::Receiver<Arc<Record>>>,
    missed: u64,
}

impl Subscription {
    /// Waits for the next event; `None` when the engine has ended.
    ///
    /// A subscriber that is more than 1024 events behind misses the oldest: the gap shows in [`Record::seq`] and
    /// in [`missed`](Self::missed).
    ///
    /// # Cancel safety
    ///
    /// No event is lost when the future is dropped.
    pub async fn recv(&mut self) -> Option<Arc<Record>> {
        loop {
            match self.events.as_mut()?.recv().await {
                Ok(record) => return Some(record),
                Err(RecvError::Lagged(count)) => self.missed += count,
                Err(RecvError::Closed) => return None,
            }
        }
    }

    /// Returns the next event if there is one already.
    pub fn try_recv(&mut self) -> Option<Arc<Record>> {
        loop {
            match self.events.as_mut()?.try_recv() {
                Ok(record) => return Some(record),
                Err(TryRecvError::Lagged(count)) => self.missed += count,
                Err(TryRecvError::Empty | TryRecvError::Closed) => return None,
            }
        }
    }

    /// Returns how many events were missed so far.
    #[must_use]
    pub fn missed(&self) -> u64 {
        self.missed
    }
}

#[cfg(test)]
mod tests {
    use serde_json::value::RawValue;

    use super::*;
    use crate::event::WorkerRef;
    use crate::ids::{AppId, Generation, Slot, WorkerId};

    const MIB: usize = 1024 * 1024;

    /// A journal, one subscriber, and the lengths of messages that it is told, or of those that were dropped.
    struct Post {
        journal: Journal,
        events: Subscription,
    }

    impl Post {
        fn new() -> Self {
            let source = Source::new(broadcast::Sender::new(64));
            let journal = source.journal().expect("it is taken once");
            Self { journal, events: source.subscribe() }
        }

        fn send(&mut self, length: usize) {
            let id = WorkerId { app: AppId(1), number: 1 };
            let worker = WorkerRef { id, slot: Slot(0), generation: Generation(1), pid: 1 };
            let body = RawValue::from_string(format!("\"{}\"", "x".repeat(length - 2))).expect("JSON");
            self.journal.record("api", Event::Message { worker, body });
        }

        fn receive(&mut self) -> Option<(usize, Result<(), Dropped>)> {
            match &self.events.try_recv()?.event {
                Event::Message { body, .. } => Some((body.get().len(), Ok(()))),
                Event::MessageDropped { length, .. } => Some((*length, Err(Dropped))),
                other => panic!("{other:?}"),
            }
        }
    }

    #[derive(Debug, PartialEq, Eq)]
    struct Dropped;

    #[test]
    fn messages_that_nobody_reads_are_dropped_beyond_a_limit() {
        let mut post = Post::new();
        for _ in 0..20 {
            post.send(MIB);
        }
        for number in 0..20 {
            let expected = if number < 16 { Ok(()) } else { Err(Dropped) };
            assert_eq!(post.receive(), Some((MIB, expected)), "message {number}");
        }
        post.send(MIB);
        assert_eq!(post.receive(), Some((MIB, Ok(()))), "what was read makes room");
    }

    #[test]
    fn a_large_message_is_told_when_no_other_waits() {
        let mut post = Post::new();
        post.send(40 * MIB);
        post.send(8);
        assert_eq!(post.receive(), Some((40 * MIB, Ok(()))));
        assert_eq!(post.receive(), Some((8, Err(Dropped))));
        post.send(8);
        post.send(MESSAGES);
        assert_eq!(post.receive(), Some((8, Ok(()))));
        assert_eq!(post.receive(), Some((MESSAGES, Err(Dropped))));
    }

    #[test]
    fn an_event_that_is_kept_for_long_does_not_hide_the_room_behind_it() {
        let mut post = Post::new();
        post.send(MIB);
        let kept = post.events.try_recv();
        for _ in 0..40 {
            post.send(MIB);
            assert_eq!(post.receive(), Some((MIB, Ok(()))));
        }
        drop(kept);
    }
}
