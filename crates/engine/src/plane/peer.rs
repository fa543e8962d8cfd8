//! A worker's channel and what the data plane knows about the worker.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use std::time::Instant;

use tokio::sync::oneshot;
use worksong_channel::Channel;

use super::command::PeerSpec;
use super::giving::{Abilities, Giving, OwnShare};
use super::hurrying::Haste;
use super::poll::{Interest, Repeat, Waker};
use super::probe::NotTaken;
use crate::handover::LineId;
use crate::ids::{Slot, WorkerId};
use crate::spec::NodeFlavour;

/// How many bytes of what a worker says may be on their way to the control plane and its subscribers. A worker that
/// sends faster is read no further until they are consumed: it waits, as it would for any slow reader.
const CREDIT: usize = 1024 * 1024;
/// What a message costs besides its length: it is never only its bytes.
const MESSAGE_COST: usize = 256;
/// What a failure to listen costs: its cause is looked for in all processes of the machine.
pub(super) const FAILURE_COST: usize = 64 * 1024;

/// A worker with a channel.
#[derive(Debug)]
pub(super) struct Peer {
    pub(super) worker: WorkerId,
    pub(super) slot: Slot,
    /// `None` for Rust workers.
    pub(super) flavour: Option<NodeFlavour>,
    pub(super) channel: Channel,
    pub(super) stage: Stage,
    /// Since when it has been in rotation.
    pub(super) in_rotation_since: Option<Instant>,
    /// It has ever been.
    pub(super) was_in_rotation: bool,
    /// Bun: internal messages begin with `0x02`, both ways.
    pub(super) prefixed: bool,
    /// The servers that it has open, by key.
    pub(super) servers: BTreeMap<String, LineId>,
    /// The listeners whose servers it has closed by itself. Connections that came by them may be open.
    pub(super) closed: Vec<LineId>,
    /// Shared sockets that were sent to it and not acknowledged, in order.
    pub(super) shares: VecDeque<Share>,
    pub(super) reading: Reading,
    pub(super) obstacle: Obstacle,
    /// What epoll is asked for at present; nothing while it is not asked at all.
    pub(super) interest: Option<Interest>,
    pub(super) credits: Arc<Credits>,
    /// What it understands beyond Node's protocol.
    pub(super) abilities: Abilities,
    pub(super) giving: Giving,
    /// How often in a row the connection did not arrive that it gave.
    pub(super) lost_gifts: u32,
    /// What it gives to workers that came later, while it stays in rotation.
    pub(super) share: OwnShare,
    /// It was told that none of its connections move.
    pub(super) keeps_all: bool,
    /// It was told to leave, and hears of it when nothing idle is left, or then.
    pub(super) disconnect_by: Option<Instant>,
    /// Whether it has little time left to leave.
    pub(super) haste: Haste,
    /// Until when it may read the datagrams that it has before it is told to leave.
    pub(super) reads_out_by: Option<Instant>,
    /// The number of the ping that it has not answered.
    pub(super) ping: Option<u64>,
    /// How many connections it said that it has, as it does when it leaves.
    pub(super) open: Option<u64>,
    /// How many unusable messages were reported; a worker that sends only garbage is reported a few times.
    pub(super) garbage: u32,
    /// Who waits for its answer to the connection of a probe.
    pub(super) probe: Option<oneshot::Sender<Result<(), NotTaken>>>,
}

/// A shared socket on its way to a worker.
#[derive(Clone, Copy, Debug)]
pub(super) struct Share {
    /// `None` when its listener is closed by now.
    pub(super) line: Option<LineId>,
    /// The worker's question that it answers.
    pub(super) query_seq: u64,
    /// How often it was sent.
    pub(super) tries: u32,
}

/// What a worker has said, or was told, about its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    /// Nothing yet.
    Starting,
    /// Its runtime is up.
    Online,
    /// It was told to leave.
    Told,
    /// It says that it leaves by itself.
    Leaving,
}

impl Stage {
    /// Out of the protocol's further course: from then on the worker's queries are not answered, or it would listen on
    /// a server that nobody closes.
    pub(super) fn is_last(self) -> bool {
        match self {
            Self::Starting | Self::Online => false,
            Self::Told | Self::Leaving => true,
        }
    }
}

/// What the last hand-over met. The switchboard is told when it is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Obstacle {
    Nothing,
    /// The channel was full.
    Full,
    /// There was unread data where it needs an empty channel.
    Unread,
    /// The worker reads no more.
    Closed,
}

/// How a channel is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reading {
    /// As soon as something comes.
    AtOnce,
    /// In batches: hand-overs are unanswered.
    InBatches,
    /// Not at all: what it said is not consumed.
    Paused,
}

impl Peer {
    pub(super) fn new(spec: PeerSpec, waker: Arc<Waker>) -> Self {
        Self {
            worker: spec.worker,
            slot: spec.slot,
            flavour: spec.flavour,
            channel: Channel::new(spec.channel),
            stage: Stage::Starting,
            in_rotation_since: None,
            was_in_rotation: false,
            prefixed: spec.flavour == Some(NodeFlavour::Bun),
            servers: BTreeMap::new(),
            closed: Vec::new(),
            shares: VecDeque::new(),
            reading: Reading::AtOnce,
            obstacle: Obstacle::Nothing,
            interest: Some(Interest::READ),
            credits: Credits::new(waker),
            abilities: Abilities::default(),
            giving: Giving::Unasked,
            lost_gifts: 0,
            share: OwnShare::Keeps,
            keeps_all: false,
            disconnect_by: None,
            haste: Haste::None,
            reads_out_by: None,
            ping: None,
            open: None,
            garbage: 0,
            probe: None,
        }
    }

    /// It serves nothing any more, without having been told to.
    pub(super) fn has_closed_all(&self) -> bool {
        self.servers.is_empty() && !self.closed.is_empty()
    }

    /// Deno: a descriptor that arrives behind unread data is lost, so each hand-over has to find the channel empty.
    pub(super) fn takes_one_at_a_time(&self) -> bool {
        self.flavour == Some(NodeFlavour::Deno)
    }

    /// Node: it sends a descriptor again, by itself, that did not arrive here.
    pub(super) fn sends_again(&self) -> bool {
        self.flavour.is_some()
    }

    pub(super) fn is_quiet(&self) -> bool {
        self.reading == Reading::InBatches
    }

    /// Returns what epoll should be asked for.
    pub(super) fn wanted_interest(&self) -> Interest {
        Interest {
            repeat: Repeat::Always,
            read: self.reading == Reading::AtOnce,
            write: matches!(self.obstacle, Obstacle::Full | Obstacle::Closed) || self.channel.wants_write(),
        }
    }
}

/// Counts the bytes of what a worker said that are on their way.
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

    /// Takes the credit that a message of this length costs.
    pub(super) fn take(self: &Arc<Self>, length: usize) -> Credit {
        let bytes = length + MESSAGE_COST;
        self.used.fetch_add(bytes, Ordering::SeqCst);
        Credit { bytes, credits: Arc::clone(self) }
    }

    /// Returns true when reading has to pause; the waker is called when it may go on.
    ///
    /// Who was woken has to ask again: a credit that is given back may wake late, when all is used up anew, and takes
    /// the wish to be woken with it.
    pub(super) fn exhausted(&self) -> bool {
        if self.used.load(Ordering::SeqCst) < CREDIT {
            return false;
        }
        self.paused.store(true, Ordering::SeqCst);
        // Consumed between the two lines above: nobody would wake us.
        !self.available()
    }

    fn available(&self) -> bool {
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

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::plane::poll::Poll;

    #[test]
    fn who_asks_again_after_a_late_wake_up_is_woken_again() {
        let poll = Poll::new().expect("a poll");
        let credits = Credits::new(poll.waker());
        let all = credits.take(CREDIT);
        assert!(credits.exhausted());
        // What a credit does that was given back before `all` was taken, and comes to its second half only now.
        assert!(credits.paused.swap(false, Ordering::SeqCst));
        assert!(credits.exhausted(), "there is still none");
        drop(all);
        let mut ready = Vec::new();
        poll.wait(Some(Duration::ZERO), &mut ready);
        assert_eq!(ready.len(), 1, "the waker was called");
        assert!(!credits.exhausted());
    }
}
