//! A listener of an app, with what all workers that asked for it have in common.

use std::time::Instant;

use serde_json::value::RawValue;
use worksong_channel::message::encode::EncodedKey;

use super::advising::Adviser;
use super::poll::Interest;
use super::stalled::Suspicion;
use crate::handover::{LineId, SeatId};
use crate::ids::AppId;
use crate::listen::{Address, Listener, Target};
use crate::sticky::StickyBy;

/// A listener that workers asked for.
#[derive(Debug)]
pub(super) struct Port {
    pub(super) app: AppId,
    pub(super) key: String,
    pub(super) encoded_key: EncodedKey,
    pub(super) listener: Listener,
    /// Data of the first worker that asked, returned to all: TLS ticket keys.
    pub(super) data: Option<Box<RawValue>>,
    pub(super) manner: Manner,
    /// What decides who gets a connection, besides what the switchboard knows.
    pub(super) guide: Guide,
    /// One for each of the listener's sockets, in their order; for datagrams one in all.
    pub(super) entrances: Vec<Entrance>,
    /// With a socket for each worker: where the kernel sends new connections.
    pub(super) targets: Vec<Target>,
    /// With a socket for each worker: how their queues are watched.
    pub(super) watch: Watch,
    pub(super) abandoned: Option<Abandoned>,
    /// Since when no worker was seen to have it open.
    pub(super) unused_since: Option<Instant>,
}

/// What decides who gets a connection, besides what the switchboard knows.
#[derive(Debug)]
pub(super) enum Guide {
    Nothing,
    /// What connections that belong together have in common.
    Sticky(StickyBy),
    /// A policy of the program's own.
    Own(Adviser),
}

/// The last worker that had the server open has closed it, without saying why.
#[derive(Clone, Copy, Debug)]
pub(super) struct Abandoned {
    pub(super) by: SeatId,
    /// When the program is taken at its word and the port becomes free.
    pub(super) until: Instant,
}

/// How connections get from the listener to workers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Manner {
    /// We accept and hand over.
    HandedOver,
    /// The workers accept, all of them from one socket.
    Shared,
    /// Each worker accepts from a socket of its own. What is queued where no worker serves is handed over.
    Spread,
    /// The workers read datagrams, each from a socket of its own.
    Flows,
}

impl Manner {
    /// Returns true where we can hand a connection to a worker, all of them or what its own socket does not give it.
    pub(super) fn hands_over(self) -> bool {
        match self {
            Self::HandedOver | Self::Spread => true,
            Self::Shared | Self::Flows => false,
        }
    }
}

/// How the queues of sockets are watched from which workers accept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Watch {
    /// The next connection wakes us.
    Asleep,
    /// They are looked at again and again, for a while after a connection came.
    Awake { look_at: Instant, until: Instant },
}

/// One of a listener's sockets.
#[derive(Debug)]
pub(super) struct Entrance {
    pub(super) accepting: Accepting,
    /// When it last had a connection to accept.
    pub(super) reported_at: Instant,
    /// The worker that has this one for itself.
    pub(super) holder: Option<SeatId>,
    /// Whether that one accepts, when it cannot be pinged.
    pub(super) suspicion: Suspicion,
}

/// Who accepts from a socket, and whether we do it now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Accepting {
    /// Workers, on their own copies of it.
    Theirs,
    /// We do, and the socket is polled.
    Open,
    /// We do, but no worker can take a connection now: they wait in the kernel's queue.
    Paused,
}

impl Entrance {
    pub(super) fn new(accepting: Accepting, now: Instant) -> Self {
        Self { accepting, reported_at: now, holder: None, suspicion: Suspicion::default() }
    }
}

/// One socket of one listener.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct EntranceId {
    pub(super) line: LineId,
    /// An index into [`Port::entrances`].
    pub(super) index: usize,
}

impl Port {
    pub(super) fn adviser_mut(&mut self) -> Option<&mut Adviser> {
        match &mut self.guide {
            Guide::Own(adviser) => Some(adviser),
            Guide::Nothing | Guide::Sticky(_) => None,
        }
    }

    /// Returns whether its workers read the datagrams of an address, each from a socket of its own.
    pub(super) fn spreads_datagrams_at(&self, address: &Address) -> bool {
        self.listener.flows().is_some_and(|flows| flows.at().told() == *address)
    }

    /// Returns what is asked about a socket where this is how connections are accepted.
    pub(super) fn interest(&self, accepting: Accepting) -> Interest {
        match (accepting, self.watch) {
            (Accepting::Open, _) => Interest::READ,
            (Accepting::Theirs, Watch::Asleep) => Interest::READ_ONCE,
            (Accepting::Theirs, Watch::Awake { .. }) | (Accepting::Paused, _) => Interest::NONE,
        }
    }

    /// Returns where connections can be accepted by us.
    pub(super) fn own_entrances(&self, line: LineId) -> impl Iterator<Item = EntranceId> {
        let is_ours = move |(_, entrance): &(usize, &Entrance)| match self.manner {
            // Those of workers, too: they take what is handed over as well.
            Manner::HandedOver | Manner::Spread => true,
            Manner::Shared | Manner::Flows => entrance.accepting != Accepting::Theirs,
        };
        self.entrances.iter().enumerate().filter(is_ours).map(move |(index, _)| EntranceId { line, index })
    }
}
