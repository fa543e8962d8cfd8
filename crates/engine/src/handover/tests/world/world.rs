//! The simulated world: a switchboard among workers, in virtual time.

use std::collections::{BTreeMap, VecDeque};

use super::crowd::{Act, Answer, Crowd, Traits};
use super::ledger::Connection;
use super::*;

/// What the rest of the primary learns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in super::super) enum Fact {
    Overdue(u32, Duration),
    Answering(u32),
    /// The worker's channel was read to its end, and its seat is removed.
    Closed(u32),
}

/// A switchboard among workers that never trust it.
pub(in super::super) struct World {
    pub(in super::super) board: Switchboard<Connection>,
    pub(in super::super) crowd: Crowd,
    pub(in super::super) lines: Vec<LineId>,
    /// The connections that the kernel keeps.
    backlog: BTreeMap<LineId, VecDeque<()>>,
    pub(in super::super) facts: Vec<Fact>,
    is_calm: bool,
}
