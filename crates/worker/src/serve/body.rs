//! Bodies that say when they end.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use hyper::body::{Body, Bytes, Frame, Incoming, SizeHint};
use pin_project_lite::pin_project;
use thiserror::Error;

use super::activity::{Activity, Half};

/// The body of a request that [`serve`](crate::serve) hands to a service.
#[derive(Debug)]
pub struct RequestBody {
    // Before the half: hyper has to know of the drop when the half ends.
    inner: Incoming,
    half: Option<Half>,
}

/// Why a request's body ended early: the client went away, or sent what is no body.
#[derive(Debug, Error)]
#[error(transparent)]
pub struct BodyError(#[from] hyper::Error);

impl RequestBody {
    pub(super) fn new(inner: Incoming, activity: &Arc<Activity>) -> Self {
        let half = (!inner.is_end_stream()).then(|| activity.begin_body());
        Self { inner, half }
    }

    fn note_end(&mut self, read_to_its_end: bool) {
        if read_to_its_end && let Some(half) = self.half.take() {
            half.complete();
        }
    }
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let frame = ready!(Pin::new(&mut self.inner).poll_frame(cx));
        let ended = frame.is_none() || self.inner.is_end_stream();
        self.note_end(ended);
        Poll::Ready(frame.map(|frame| frame.map_err(BodyError)))
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

pin_project! {
    /// The body of a response; the response ends when hyper drops it.
    pub(super) struct ResponseBody<B> {
        #[pin]
        inner: B,
        half: Half,
    }
}

impl<B> ResponseBody<B> {
    pub(super) fn new(inner: B, half: Half) -> Self {
        Self { inner, half }
    }
}

impl<B: Body> Body for ResponseBody<B> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<B::Data>, B::Error>>> {
        self.project().inner.poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}
