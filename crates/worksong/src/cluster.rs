//! The handle on a running cluster, for the program's hooks in the primary.

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use tokio::sync::mpsc;
use worksong_engine::event::WorkerRef;
use worksong_engine::ids::WorkerId;
use worksong_worker::BoxError;

use crate::builder::Builder;
use crate::error::NotSent;

/// How many requests wait for the primary.
pub(crate) const MAX_REQUESTS: usize = 4096;

/// A running cluster, as its own program sees it in the primary.
///
/// Hooks get it: see [`Builder::on_message`] and [`Builder::on_event`]. Clones are handles on the same cluster and may be
/// moved to other threads and tasks; dropping them changes nothing. Requests are queued and done in their order.
#[derive(Clone, Debug)]
pub struct Cluster {
    requests: mpsc::Sender<Request>,
}

/// What the program asks of its primary.
#[derive(Debug)]
pub(crate) enum Request {
    Send { worker: WorkerId, body: Box<RawValue> },
    Broadcast { body: Box<RawValue> },
    Reload,
    Resize { workers: u32 },
    Pause { worker: WorkerId },
    Resume { worker: WorkerId },
    Stop,
}

impl Cluster {
    /// Begins to describe a cluster.
    pub fn builder() -> Builder {
        Builder::default()
    }

    pub(crate) fn new() -> (Self, mpsc::Receiver<Request>) {
        let (requests, receiver) = mpsc::channel(MAX_REQUESTS);
        (Self { requests }, receiver)
    }

    /// Sends a message to one worker, whose program reads it by [`Worker::recv`](crate::Worker::recv). A worker that is gone
    /// does not get it.
    ///
    /// # Errors
    /// When the cluster has ended, or too many requests wait already, or the message cannot be written as JSON.
    pub fn send<T: Serialize + ?Sized>(&self, worker: WorkerId, message: &T) -> Result<(), NotSent> {
        self.request(Request::Send { worker, body: encode(message)? })
    }

    /// Sends a message to every worker that has a channel now.
    ///
    /// # Errors
    /// When the cluster has ended, or too many requests wait already, or the message cannot be written as JSON.
    pub fn broadcast<T: Serialize + ?Sized>(&self, message: &T) -> Result<(), NotSent> {
        self.request(Request::Broadcast { body: encode(message)? })
    }

    /// Replaces all workers by new ones, started from the executable as it is now. What comes of it is an
    /// [event](crate::Event).
    ///
    /// # Errors
    /// When the cluster has ended, or too many requests wait already.
    pub fn reload(&self) -> Result<(), NotSent> {
        self.request(Request::Reload)
    }

    /// Changes the number of workers; at least one stays. Of fewer, those in the highest slots drain.
    ///
    /// # Errors
    /// When the cluster has ended, or too many requests wait already.
    pub fn resize(&self, workers: u32) -> Result<(), NotSent> {
        self.request(Request::Resize { workers })
    }

    /// Takes a worker out of rotation, alive, so that somebody can look at it; its idle connections move. It is not expected
    /// to answer, and not recycled; a reload replaces it as any other. One that is not ready is left as it is.
    ///
    /// # Errors
    /// When the cluster has ended, or too many requests wait already.
    pub fn pause(&self, worker: WorkerId) -> Result<(), NotSent> {
        self.request(Request::Pause { worker })
    }

    /// Puts a paused worker back into rotation.
    ///
    /// # Errors
    /// When the cluster has ended, or too many requests wait already.
    pub fn resume(&self, worker: WorkerId) -> Result<(), NotSent> {
        self.request(Request::Resume { worker })
    }

    /// Drains all workers; [`Builder::run`] returns when they are gone.
    ///
    /// # Errors
    /// When the cluster has ended, or too many requests wait already.
    pub fn stop(&self) -> Result<(), NotSent> {
        self.request(Request::Stop)
    }

    fn request(&self, request: Request) -> Result<(), NotSent> {
        self.requests.try_send(request).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => NotSent::Full { limit: MAX_REQUESTS },
            mpsc::error::TrySendError::Closed(_) => NotSent::Ended,
        })
    }
}

/// A message that a worker sent to the primary.
#[derive(Clone, Debug)]
pub struct FromWorker {
    worker: WorkerRef,
    body: Box<RawValue>,
    cluster: Cluster,
}

impl FromWorker {
    pub(crate) fn new(worker: WorkerRef, body: Box<RawValue>, cluster: Cluster) -> Self {
        Self { worker, body, cluster }
    }

    /// Returns the worker that sent it.
    #[must_use]
    pub fn worker(&self) -> WorkerRef {
        self.worker
    }

    /// Returns the message's JSON text.
    #[must_use]
    pub fn as_json(&self) -> &str {
        self.body.get()
    }

    /// Reads the message as a value.
    ///
    /// # Errors
    /// When the message has another shape.
    pub fn parse<'a, T: Deserialize<'a>>(&'a self) -> Result<T, BoxError> {
        serde_json::from_str(self.body.get()).map_err(Into::into)
    }

    /// Sends a message back to the worker.
    ///
    /// # Errors
    /// When the cluster has ended, or too many requests wait already, or the message cannot be written as JSON.
    pub fn reply<T: Serialize + ?Sized>(&self, message: &T) -> Result<(), NotSent> {
        self.cluster.send(self.worker.id, message)
    }

    /// Returns the cluster.
    #[must_use]
    pub fn cluster(&self) -> &Cluster {
        &self.cluster
    }
}

fn encode<T: Serialize + ?Sized>(message: &T) -> Result<Box<RawValue>, NotSent> {
    serde_json::value::to_raw_value(message).map_err(|error| NotSent::Encode(error.into()))
}
