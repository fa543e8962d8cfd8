//! A listener of an app, with what all workers that asked for it have in common.

use std::time::Instant;

use serde_json::value::RawValue;
use worksong_channel::message::encode::EncodedKey;

use crate::handover::SeatId;
use crate::ids::AppId;
use crate::listen::Listener;

/// A listener that workers asked for.
#[derive(Debug)]
pub(super) struct Port {
    pub(super) app: AppId,
    pub(super) key: String,
    pub(super) encoded_key: EncodedKey,
    pub(super) listener: Listener,
    /// Data of the first worker that asked, returned to all: TLS ticket keys.
    pub(super) data: Option<Box<RawValue>>,
    pub(super) accepting: Accepting,
    /// When it last had a connection to accept.
    pub(super) reported_at: Instant,
    pub(super) abandoned: Option<Abandoned>,
    /// Since when no worker was seen to have it open.
    pub(super) unused_since: Option<Instant>,
}

/// The last worker that had the server open has closed it, without saying why.
#[derive(Clone, Copy, Debug)]
pub(super) struct Abandoned {
    pub(super) by: SeatId,
    /// When the program is taken at its word and the port becomes free.
    pub(super) until: Instant,
}

/// Who accepts, and whether we do it now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Accepting {
    /// The workers, on their own copies of the socket.
    Shared,
    /// We do, and the socket is polled.
    Open,
    /// We do, but no worker can take a connection now: they wait in the kernel's queue.
    Paused,
}
