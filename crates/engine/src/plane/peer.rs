//! A worker's channel and what the data plane knows about the worker.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use worksong_channel::Channel;

use super::poll::{Interest, Waker};
use crate::handover::LineId;
use crate::ids::WorkerId;

/// How many bytes of a worker's user messages may be on their way to subscribers. A worker that sends faster is
/// read no further until they are consumed: it waits, as it would for any slow reader.
const CREDIT: usize = 1024 * 1024;

/// A worker with a channel.
#[derive(Debug)]
pub(super) struct Peer {
    pub(super) worker: WorkerId,
    pub(super) channel: Channel,
    /// Out of the protocol's further course: `disconnect` was sent or the worker said that it leaves. From then
    /// on its queries are not answered, or it would listen on a server that nobody closes.
    pub(super) leaving: bool,
    /// Bun: internal messages begin with `0x02`, both ways.
    pub(super) prefixed: bool,
    /// The servers that it has open, by key.
    pub(super) servers: BTreeMap<String, LineId>,
    pub(super) reading: Reading,
    /// A hand-over found the channel full; the switchboard is told when there is room.
    pub(super) wants_room: bool,
    /// What epoll is asked for at present.
    pub(super) interest: Interest,
    pub(super) credits: Arc<Credits>,
    /// How many unusable messages were reported; a worker that sends only garbage is reported a few times.
    pub(super) garbage: u32,
}

/// How a channel is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reading {
    /// As soon as something comes.
    AtOnce,
    /// In batches: hand-overs are unanswered.
    InBatches,
    /// Not at all: its user messages are not consumed.
    Paused,
}

impl Peer {
    pub(super) fn is_quiet(&self) -> bool {
        self.reading == Reading::InBatches
    }

    /// Returns what epoll should be asked for.
    pub(super) fn wanted_interest(&self) -> Interest {
        Interest {
            read: self.reading == Reading::AtOnce,
            write: self.wants_room || self.channel.wants_write(),
        }
    }
}

/// Counts the bytes of a worker's user messages that are on their way.
#[derive(Debug)]
pub(crate) struct Credits {
    used: AtomicUsize,
    paused: AtomicBool,
    waker: Arc<Waker>,
}

impl Credits {
    pub(super) fn new(waker: Arc<Waker>) -> Arc<Self> {
        Arc::new(Self { used: AtomicUsize::new(0), paused: AtomicBool::new(false), waker })
    }

    pub(super) fn take(self: &Arc<Self>, bytes: usize) -> Credit {
        self.used.fetch_add(bytes, Ordering::SeqCst);
        Credit { bytes, credits: Arc::clone(self) }
    }

    /// Returns true when reading has to pause; the waker is called when it may go on.
    pub(super) fn exhausted(&self) -> bool {
        if self.used.load(Ordering::SeqCst) < CREDIT {
            return false;
        }
        self.paused.store(true, Ordering::SeqCst);
        // Consumed between the two lines above: nobody would wake us.
        !self.available()
    }

    pub(super) fn available(&self) -> bool {
        self.used.load(Ordering::SeqCst) < CREDIT
    }
}

/// Part of a worker's credit; dropping it gives it back.
#[derive(Debug)]
pub(crate) struct Credit {
    bytes: usize,
    credits: Arc<Credits>,
}

impl Drop for Credit {
    fn drop(&mut self) {
        self.credits.used.fetch_sub(self.bytes, Ordering::SeqCst);
        if self.credits.available() && self.credits.paused.swap(false, Ordering::SeqCst) {
            self.credits.waker.wake();
        }
    }
}
