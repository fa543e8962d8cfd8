//! Which sockets the processes of an app's workers have open.

use std::collections::{HashMap, HashSet};
use std::ffi::{OsStr, OsString};

use crate::ids::WorkerId;

/// Which sockets the processes of workers have open. One that is on its way from process to process is nobody's for a moment.
#[derive(Debug, Default)]
pub(crate) struct OpenSockets(HashMap<WorkerId, Option<HashSet<OsString>>>);

impl OpenSockets {
    /// Adds what the descriptors of a worker's processes are; `None` when some of them cannot be seen.
    pub(crate) fn add(&mut self, worker: WorkerId, links: Option<HashSet<OsString>>) {
        match (self.0.get_mut(&worker), links) {
            (Some(Some(known)), Some(links)) => known.extend(links),
            (Some(known), None) => *known = None,
            (Some(None), Some(_)) => {}
            (None, links) => drop(self.0.insert(worker, links)),
        }
    }

    /// Returns true unless it was seen that no process of the worker has the socket.
    pub(super) fn may_have(&self, worker: WorkerId, socket: &OsStr) -> bool {
        self.0.get(&worker).is_none_or(|links| links.as_ref().is_none_or(|links| links.contains(socket)))
    }

    /// Returns true when it was seen that a process of the worker has the socket.
    pub(super) fn has(&self, worker: WorkerId, socket: &OsStr) -> bool {
        self.0.get(&worker).is_some_and(|links| links.as_ref().is_some_and(|links| links.contains(socket)))
    }

    /// Returns true unless it was seen that no process of any worker has the socket.
    pub(super) fn may_be_open(&self, socket: &OsStr) -> bool {
        self.0.keys().any(|worker| self.may_have(*worker, socket))
    }
}
