//! Connections of the primary's own, which show whether a worker is ready.

use std::os::fd::OwnedFd;

use tokio::sync::oneshot;

use super::Plane;
use crate::handover::{LineId, ProbeSent, SeatId};
use crate::ids::WorkerId;

/// Why a worker did not take the connection of a probe.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum NotTaken {
    #[error("it is gone, or has closed its channel")]
    Gone,
    #[error("it has no server open")]
    NoServer,
    #[error("it has not answered the one before")]
    Busy,
    #[error("it does not read its channel")]
    Full,
    #[error("it refused the connection")]
    Refused,
}

impl Plane {
    /// Hands the connection to the worker, for the first server of its app that it has open.
    pub(super) fn probe(
        &mut self,
        worker: WorkerId,
        connection: OwnedFd,
        taken: oneshot::Sender<Result<(), NotTaken>>,
    ) {
        let begun = self.begin_probe(worker, connection);
        match begun.map(|seat| self.peer_mut(seat)) {
            Ok(Some(peer)) => peer.probe = Some(taken),
            // Who asked may have stopped waiting.
            Ok(None) => drop(taken.send(Err(NotTaken::Gone))),
            Err(failure) => drop(taken.send(Err(failure))),
        }
    }

    fn begin_probe(&mut self, worker: WorkerId, connection: OwnedFd) -> Result<SeatId, NotTaken> {
        let (seat, line) = self.first_server_of(worker)?;
        let delivered = self.with_courier(|switchboard, now, courier| {
            switchboard.probe(line, seat, connection, now, courier)
        });
        match delivered {
            ProbeSent::Yes => Ok(seat),
            ProbeSent::Busy => Err(NotTaken::Busy),
            ProbeSent::Full => Err(NotTaken::Full),
        }
    }

    /// Tells who waits for it what the worker said to the connection of a probe.
    pub(super) fn on_probed(&mut self, seat: SeatId, accepted: bool) {
        let waiting = self.peer_mut(seat).and_then(|peer| peer.probe.take());
        if let Some(taken) = waiting {
            let _unheard = taken.send(if accepted { Ok(()) } else { Err(NotTaken::Refused) });
        }
    }

    /// Lines are numbered as they are opened, so the first one is that of the app's first server.
    fn first_server_of(&self, worker: WorkerId) -> Result<(SeatId, LineId), NotTaken> {
        let seat = self.seat_of(worker).ok_or(NotTaken::Gone)?;
        let servers = self.peer(seat).map(|peer| peer.servers.values().copied()).ok_or(NotTaken::Gone)?;
        let is_handed = |line: &LineId| self.port(*line).is_some_and(|port| port.manner.hands_over());
        let line = servers.filter(is_handed).min().ok_or(NotTaken::NoServer)?;
        Ok((seat, line))
    }
}
