//! Events to subscribers.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use tokio::sync::broadcast;
use tokio::sync::broadcast::error::{RecvError, TryRecvError};

use crate::event::{Event, Record};

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
        Some(Journal { sender, seq: AtomicU64::new(0) })
    }

    pub(super) fn subscribe(&self) -> Subscription {
        Subscription { events: self.0.upgrade().map(|sender| sender.subscribe()), missed: 0 }
    }
}

/// Numbers events and sends them to all subscribers.
#[derive(Debug)]
pub(super) struct Journal {
    sender: broadcast::Sender<Arc<Record>>,
    seq: AtomicU64,
}

impl Journal {
    pub(super) fn record(&self, app: &str, event: Event) {
        let at = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let record = Record {
            seq: self.seq.fetch_add(1, Ordering::Relaxed) + 1,
            at_ms: u64::try_from(at.as_millis()).unwrap_or(u64::MAX),
            app: app.to_owned(),
            event,
        };
        // Without subscribers nobody needs it.
        let _unheard = self.sender.send(Arc::new(record));
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
