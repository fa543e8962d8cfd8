//! What the ledger knows of one worker.

use std::time::Instant;

use crate::ids::{Generation, Slot};

/// One worker, as seen from outside.
#[derive(Debug)]
#[expect(clippy::struct_excessive_bools, reason = "a record of what was seen, not a state")]
pub(crate) struct Entry {
    pub(crate) slot: Slot,
    pub(crate) generation: Generation,
    pub(crate) is_process: bool,
    /// It was started while another worker served its slot.
    pub(crate) succeeds: bool,
    /// A successor took its slot.
    pub(crate) replaced: bool,
    pub(crate) unborn: bool,
    pub(crate) told_ready: bool,
    pub(crate) is_probed: bool,
    pub(crate) told_exit: Option<Instant>,
    pub(crate) told_closed: bool,
    /// How many connections it had when its channel closed, as far as it has said.
    pub(crate) open: Option<u64>,
    pub(crate) rotation: Rotation,
    /// When it entered rotation for the first time, and when it was over with that.
    pub(crate) entered: Option<Instant>,
    pub(crate) departed: Option<Instant>,
    pub(crate) leaves: bool,
    /// It was asked to leave, or asked for that; it did not hang before, close its channel or end.
    pub(crate) is_let_go: bool,
    pub(crate) disconnects: u32,
    pub(crate) awaited_idle: bool,
    /// It was sent a signal before its exit was seen.
    pub(crate) signalled: bool,
    pub(crate) killed: bool,
    /// It was told that the kernel does not end it.
    pub(crate) abandoned: bool,
    pub(crate) forgotten: bool,
    pub(crate) exits: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Rotation {
    Never,
    In,
    Paused,
    /// `relieved`: a newer worker of the same slot was in rotation at that moment.
    Left {
        relieved: bool,
    },
}

impl Entry {
    /// Returns what is known of a worker when it was asked for.
    pub(crate) fn new(slot: Slot, generation: Generation, succeeds: bool) -> Self {
        Self {
            slot,
            generation,
            is_process: false,
            succeeds,
            replaced: false,
            unborn: false,
            told_ready: false,
            is_probed: false,
            told_exit: None,
            told_closed: false,
            open: None,
            rotation: Rotation::Never,
            entered: None,
            departed: None,
            leaves: false,
            is_let_go: false,
            disconnects: 0,
            awaited_idle: false,
            signalled: false,
            killed: false,
            abandoned: false,
            forgotten: false,
            exits: 0,
        }
    }

    /// It serves what it has, whether new connections come to it or not.
    pub(crate) fn serves(&self) -> bool {
        let is_there = !self.leaves && self.told_exit.is_none();
        is_there && matches!(self.rotation, Rotation::In | Rotation::Paused)
    }

    /// Its process runs, as far as anybody was told.
    pub(crate) fn is_left(&self) -> bool {
        self.is_process && !self.forgotten
    }
}
