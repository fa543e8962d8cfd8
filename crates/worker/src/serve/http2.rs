//! HTTP/2, for clients that begin with it instead of asking for it ("prior knowledge", RFC 9113 §3.3).
//!
//! The state of such a connection is in this process, so it ends here: by GOAWAY as soon as the worker drains.

use std::pin::pin;

use hyper::server::conn::http2::Builder;
use hyper_util::rt::TokioExecutor;
use tokio::sync::watch;

use super::accept::Stream;
use super::io::Io;
use super::service::{Counted, HttpService};
use super::{Stage, reached};

/// What such a client sends first.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Returns true when these bytes, which are no HTTP/1, begin HTTP/2.
pub(super) fn begins(unused: &[u8]) -> bool {
    unused.starts_with(PREFACE)
}

/// Serves the connection until it is closed.
pub(super) async fn run<T: Stream, S: HttpService>(
    io: Io<T>,
    service: Counted<S>,
    stage: watch::Receiver<Stage>,
) {
    let mut connection = pin!(Builder::new(TokioExecutor::new()).serve_connection(io, service));
    tokio::select! {
        // How it ends is the client's affair.
        _end = connection.as_mut() => return,
        () = reached(stage, Stage::Draining) => {}
    }
    connection.as_mut().graceful_shutdown();
    let _end = connection.await;
}
