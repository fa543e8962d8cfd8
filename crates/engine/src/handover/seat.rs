//! A worker as the switchboard sees it.

use std::collections::VecDeque;
use std::time::Instant;

use super::line::LineId;

/// A worker with a channel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct SeatId(pub(crate) usize);

/// A connection that a worker was given and has not answered.
#[derive(Debug)]
pub(super) struct Pending<C> {
    pub(super) seq: u64,
    pub(super) line: LineId,
    pub(super) connection: C,
    pub(super) since: Instant,
}

/// A handle message that a worker has to acknowledge, in the order of sending.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sent {
    Connection { seq: u64 },
    Other,
}

#[derive(Debug)]
pub(super) struct Seat<C> {
    pub(super) in_rotation: bool,
    /// The channel takes nothing more for now.
    pub(super) full: bool,
    /// The oldest hand-over is unanswered for too long.
    pub(super) overdue: bool,
    pub(super) sent: VecDeque<Sent>,
    window: usize,
    /// In the order of sending; answers come nearly in this order.
    pending: VecDeque<Pending<C>>,
}

impl<C> Seat<C> {
    pub(super) fn new(window: usize) -> Self {
        Self {
            in_rotation: false,
            full: false,
            overdue: false,
            sent: VecDeque::new(),
            window,
            pending: VecDeque::new(),
        }
    }

    pub(super) fn takes_more(&self) -> bool {
        self.in_rotation && !self.full && !self.overdue && self.pending.len() < self.window
    }

    pub(super) fn unanswered(&self) -> usize {
        self.pending.len()
    }

    pub(super) fn oldest(&self) -> Option<Instant> {
        self.pending.front().map(|pending| pending.since)
    }

    pub(super) fn hand(&mut self, pending: Pending<C>) {
        self.sent.push_back(Sent::Connection { seq: pending.seq });
        self.pending.push_back(pending);
    }

    pub(super) fn take(&mut self, seq: u64) -> Option<Pending<C>> {
        let at = self.pending.iter().position(|pending| pending.seq == seq)?;
        self.pending.remove(at)
    }

    pub(super) fn into_pending(self) -> impl Iterator<Item = Pending<C>> {
        self.pending.into_iter()
    }
}
