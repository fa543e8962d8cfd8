//! A connection's socket, as hyper sees it.

use std::io::{self, IoSlice};
use std::os::fd::OwnedFd;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use hyper::body::Bytes;
use hyper::rt::{Read, ReadBufCursor, Write};
use hyper_util::rt::TokioIo;

use super::accept::Stream;
use super::activity::Activity;
use super::membership::Membership;

/// A socket with bytes in front of it that were read before.
pub(super) struct Io<T> {
    stream: TokioIo<T>,
    ahead: Bytes,
    activity: Arc<Activity>,
    /// Counts the connection as open; after an upgrade nobody else holds it.
    _membership: Arc<Membership>,
}

impl<T: Stream> Io<T> {
    pub(super) fn new(stream: T, activity: Arc<Activity>, membership: Arc<Membership>) -> Self {
        Self { stream: TokioIo::new(stream), ahead: Bytes::new(), activity, _membership: membership }
    }

    /// Returns the socket with these bytes, which hyper had read and not used, in front of it.
    pub(super) fn behind(self, unused: Bytes) -> Self {
        debug_assert!(self.ahead.is_empty(), "hyper reads what is ahead before it waits");
        Self { ahead: unused, ..self }
    }

    /// Returns one more descriptor of the socket.
    pub(super) fn descriptor(&self) -> io::Result<OwnedFd> {
        self.stream.inner().as_fd().try_clone_to_owned()
    }
}

impl<T: Stream> Read for Io<T> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        mut buffer: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        if self.ahead.is_empty() {
            return Pin::new(&mut self.stream).poll_read(cx, buffer);
        }
        let length = self.ahead.len().min(buffer.remaining());
        buffer.put_slice(&self.ahead.split_to(length));
        Poll::Ready(Ok(()))
    }
}

impl<T: Stream> Write for Io<T> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = Pin::new(&mut self.stream).poll_flush(cx);
        if matches!(flushed, Poll::Ready(Ok(()))) {
            // hyper flushes the socket only after it has written all that it had.
            self.activity.flushed();
        }
        flushed
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, slices)
    }
}
