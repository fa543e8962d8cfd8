//! HTTP/2, for clients that begin with it instead of asking for it ("prior knowledge", RFC 9113 §3.3).
//!
//! The state of such a connection is in this process, so it ends here: by GOAWAY as soon as the worker drains.

use std::pin::pin;

use hyper::body::Body;
use hyper::server::conn::http2::Builder;
use hyper::{Request, Response};
use hyper_util::rt::TokioExecutor;
use tokio::sync::watch;
use tower_service::Service;

use super::accept::Stream;
use super::body::RequestBody;
use super::io::Io;
use super::service::Counted;
use super::{Stage, reached};
use crate::error::BoxError;

/// What such a client sends first.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Returns true when these bytes, which are no HTTP/1, begin HTTP/2.
pub(super) fn begins(unused: &[u8]) -> bool {
    unused.starts_with(PREFACE)
}

/// Serves the connection until it is closed.
pub(super) async fn run<T, S, B>(io: Io<T>, service: Counted<S>, stage: watch::Receiver<Stage>)
where
    T: Stream,
    S: Service<Request<RequestBody>, Response = Response<B>> + Clone + Send + 'static,
    S::Error: Into<BoxError>,
    S::Future: Send + 'static,
    B: Body + Send + 'static,
    B::Data: Send,
    B::Error: Into<BoxError>,
{
    let mut connection = pin!(Builder::new(TokioExecutor::new()).serve_connection(io, service));
    tokio::select! {
        // How it ends is the client's affair.
        _end = connection.as_mut() => return,
        () = reached(stage, Stage::Draining) => {}
    }
    connection.as_mut().graceful_shutdown();
    let _end = connection.await;
}
