//! Whether a connection is idle, as far as that is seen from outside of hyper.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use crate::giving::Standing;

/// What goes on in one connection. Its task, its requests and its responses share it.
///
/// Idle means: hyper has nothing to do until the client sends something. That is so when all of this holds after hyper
/// was polled and has nothing more to do:
///
/// * every response has ended and was written to the socket,
/// * every request body was read to its end, or dropped *before* that poll: hyper then reads the rest or gives up,
/// * nothing that hyper has read waits for its other half. That is known only by taking hyper apart.
#[derive(Debug)]
pub(super) struct Activity {
    standing: Arc<Standing>,
    /// Requests and responses that have not ended, each by itself.
    halves: AtomicUsize,
    /// A response has ended, and hyper may hold its last bytes.
    unflushed: AtomicBool,
    /// A request body was dropped before its end, and hyper has not been polled since.
    unsettled: AtomicBool,
    /// The connection cannot move before its next request was answered.
    stays: AtomicBool,
}

/// A request's or a response's part in its connection's activity; it ends when this is dropped.
#[derive(Debug)]
pub(super) struct Half {
    activity: Arc<Activity>,
    kind: Kind,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Response,
    Request,
    /// A request whose body hyper has read to its end.
    CompleteRequest,
}

impl Activity {
    pub(super) fn new(standing: Arc<Standing>) -> Arc<Self> {
        Arc::new(Self {
            standing,
            halves: AtomicUsize::new(0),
            unflushed: AtomicBool::new(false),
            unsettled: AtomicBool::new(false),
            stays: AtomicBool::new(false),
        })
    }

    /// Notes that a request has come whose response is to be written.
    pub(super) fn begin(self: &Arc<Self>) -> Half {
        self.stays.store(false, Ordering::Release);
        self.half(Kind::Response)
    }

    /// Notes that the request has a body.
    pub(super) fn begin_body(self: &Arc<Self>) -> Half {
        self.half(Kind::Request)
    }

    fn half(self: &Arc<Self>, kind: Kind) -> Half {
        self.halves.fetch_add(1, Ordering::AcqRel);
        Half { activity: Arc::clone(self), kind }
    }

    /// Notes that hyper has written everything that it had.
    pub(super) fn flushed(&self) {
        self.unflushed.store(false, Ordering::Release);
    }

    /// Notes that hyper is polled now: it sees what was dropped before.
    pub(super) fn before_poll(&self) {
        // Not a plain store: it has to see also what was done before the mark was made.
        self.unsettled.swap(false, Ordering::AcqRel);
    }

    /// Returns true when hyper has to be polled once more before anything can be said.
    pub(super) fn is_unsettled(&self) -> bool {
        self.unsettled.load(Ordering::Acquire)
    }

    /// Returns true when the connection was idle after the last poll.
    pub(super) fn is_idle(&self) -> bool {
        // In this order: whoever drops a body leaves its mark before it counts itself out.
        self.halves.load(Ordering::Acquire) == 0
            && !self.is_unsettled()
            && !self.unflushed.load(Ordering::Acquire)
            && !self.stays.load(Ordering::Acquire)
    }

    /// Notes that the connection cannot move before its next request was answered.
    pub(super) fn stay(&self) {
        self.stays.store(true, Ordering::Release);
    }
}

impl Half {
    /// Ends a request whose body hyper has read to its end.
    pub(super) fn complete(mut self) {
        debug_assert!(self.kind == Kind::Request, "only requests are read");
        self.kind = Kind::CompleteRequest;
    }
}

impl Drop for Half {
    fn drop(&mut self) {
        match self.kind {
            Kind::Response => self.activity.unflushed.store(true, Ordering::Release),
            Kind::Request => self.activity.unsettled.store(true, Ordering::Release),
            Kind::CompleteRequest => {}
        }
        let was_last = self.activity.halves.fetch_sub(1, Ordering::AcqRel) == 1;
        match self.kind {
            // Bodies may be read elsewhere, and the connection's task has not seen this end.
            Kind::Request | Kind::CompleteRequest if was_last => self.activity.standing.wake(),
            Kind::Response | Kind::Request | Kind::CompleteRequest => {}
        }
    }
}
