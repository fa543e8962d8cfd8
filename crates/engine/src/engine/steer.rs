//! Pause and resume of single workers.

use tokio::sync::oneshot;

use super::control::Control;
use super::{App, Request};
use crate::ids::WorkerId;
use crate::supervise::{Input, WorkerState};

/// A worker could not be paused or resumed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SteerError {
    /// It was never there, or has ended.
    #[error("there is no such worker")]
    Gone,
    /// It is in rotation only once it is ready.
    #[error("the worker is not ready yet; try again when it is")]
    NotReady,
    /// It is on its way out.
    #[error("the worker is leaving")]
    Leaving,
}

impl App {
    /// Takes a worker out of rotation, alive, so that somebody can look at it; its idle connections move. Nothing is done
    /// when it is paused already.
    ///
    /// It is not expected to answer, and not recycled; a reload replaces it as any other, and when it ends by itself, a
    /// new worker takes its slot. While all workers are paused, connections wait.
    ///
    /// # Errors
    ///
    /// When it is not in rotation: see [`SteerError`].
    ///
    /// # Cancel safety
    ///
    /// The worker is paused even if the future is dropped.
    pub async fn pause(&self, worker: WorkerId) -> Result<(), SteerError> {
        let (done, answer) = oneshot::channel();
        let request = Request::Pause { worker, done };
        self.requests.send(request).await.map_err(|_ended| SteerError::Gone)?;
        answer.await.unwrap_or(Err(SteerError::Gone))
    }

    /// Puts a paused worker back into rotation. Nothing is done when it is there.
    ///
    /// # Errors
    ///
    /// When it can be in rotation no more, or not yet: see [`SteerError`].
    ///
    /// # Cancel safety
    ///
    /// The worker is resumed even if the future is dropped.
    pub async fn resume(&self, worker: WorkerId) -> Result<(), SteerError> {
        let (done, answer) = oneshot::channel();
        let request = Request::Resume { worker, done };
        self.requests.send(request).await.map_err(|_ended| SteerError::Gone)?;
        answer.await.unwrap_or(Err(SteerError::Gone))
    }
}

impl Control {
    /// Pauses or resumes a worker, if there is one that has been ready.
    pub(super) fn steer(&mut self, worker: WorkerId, input: Input) -> Result<(), SteerError> {
        let app = self.apps.get(&worker.app).ok_or(SteerError::Gone)?;
        match app.supervisor.state_of(worker).ok_or(SteerError::Gone)? {
            WorkerState::Ready | WorkerState::Unresponsive | WorkerState::Paused => {}
            WorkerState::Spawning | WorkerState::Starting => return Err(SteerError::NotReady),
            WorkerState::Leaving | WorkerState::Unkillable | WorkerState::Exited => {
                return Err(SteerError::Leaving);
            }
        }
        self.tell(worker.app, input);
        Ok(())
    }
}
