//! What the workers of these tests serve.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};

use axum::body::{Body, Bytes, to_bytes};
use axum::extract::Request;
use axum::response::Response;
use axum::routing::{any, get};
use axum::{Extension, Router};
use hyper::StatusCode;
use hyper::body::Frame;
use hyper::header::{CONNECTION, UPGRADE};
use hyper_util::rt::TokioIo;
use tokio::io::AsyncWriteExt;
use tokio::sync::mpsc;
use worksong_worker::PeerAddress;

/// Parts of a response's body; it ends when the sender is dropped.
struct Parts(mpsc::Receiver<Bytes>);

impl hyper::body::Body for Parts {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        self.0.poll_recv(cx).map(|part| part.map(|part| Ok(Frame::data(part))))
    }
}

/// Returns the program, and what writes the body of its one answer to `/stream`.
pub(crate) fn program() -> (Router, mpsc::Sender<Bytes>) {
    let (sender, parts) = mpsc::channel(1);
    let parts = Arc::new(Mutex::new(Some(parts)));
    let stream = async move || {
        let parts = parts.lock().expect("no panic").take().expect("the first request");
        Response::new(Body::new(Parts(parts)))
    };
    let router = Router::new()
        .route("/", get(async || "hello"))
        .route("/who", get(async |peer: Extension<PeerAddress>| peer.0.0.to_string()))
        .route("/echo/{number}", get(async |path: axum::extract::Path<String>| path.0))
        .route("/length", any(async |body: Bytes| body.len().to_string()))
        .route("/ignores", any(async || "ignored"))
        .route("/reads-later", any(reads_later))
        .route("/large", get(async || vec![b'x'; LARGE]))
        .route("/upgrade", get(upgrade))
        .route("/stream", get(stream));
    (router, sender)
}

/// More than the kernel takes for a client that does not read.
pub(crate) const LARGE: usize = 32 << 20;

/// Answers at once, and reads the request's body to its end after that.
async fn reads_later(request: Request) -> &'static str {
    tokio::spawn(to_bytes(request.into_body(), usize::MAX));
    "later"
}

/// Leaves HTTP and sends back what comes, until the client ends it.
async fn upgrade(request: Request) -> Response {
    tokio::spawn(async move {
        let upgraded = hyper::upgrade::on(request).await.expect("the client wants it");
        let (mut from, mut to) = tokio::io::split(TokioIo::new(upgraded));
        tokio::io::copy(&mut from, &mut to).await.expect("the client is there");
        to.shutdown().await.expect("the client is there");
    });
    let response = Response::builder().status(StatusCode::SWITCHING_PROTOCOLS);
    let response = response.header(CONNECTION, "upgrade").header(UPGRADE, "echo");
    response.body(Body::empty()).expect("a response")
}
