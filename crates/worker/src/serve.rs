//! An HTTP server for a worker's connections, which gives idle ones back when the worker leaves.
//!
//! One task for each connection drives hyper and decides about its own connection only. `serving → claimed → given`: when
//! the primary asks, an idle connection is taken apart between two polls of hyper, so that no request can begin
//! meanwhile. What hyper had read but not used goes back into a new hyper in front of the socket, and the connection
//! stays; else its descriptor goes to the primary, and our copy is closed when it has arrived.

mod accept;
mod activity;
mod body;
mod connection;
#[cfg(feature = "http2")]
mod http2;
mod io;
mod membership;
mod service;

use tokio::sync::watch;
use tokio::time::Instant;
use worksong_channel::message::Ability;

pub use self::accept::AnyListener;
use self::accept::{Accept, Kind};
pub use self::body::{BodyError, RequestBody};
use self::connection::Served;
use self::membership::Membership;
pub use self::service::{HttpService, PeerAddress};
use crate::error::Drained;
use crate::listener::pause;

/// How far `serve` is, for its connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Stage {
    Serving,
    /// No connection comes any more; the primary may take back what is idle.
    Draining,
    /// What is left ends as soon as it can.
    Parting,
}

/// Serves HTTP/1 on a worker's listener with any `tower` service, such as an axum `Router`, until the worker has drained.
///
/// When the worker leaves (a reload, the end, a panic), worksong's primary takes the connections back in which no
/// request is in flight, and another worker goes on with them: the client keeps its TCP connection and notices nothing.
/// Requests that run are answered first. What cannot move stays until it ends: a connection that was upgraded
/// (WebSocket) is the program's, which should end it when the worker [drains](crate::Worker::draining).
/// With the feature `http2`, clients that begin with HTTP/2 are served as well; they hear GOAWAY when the worker drains.
/// Under another primary, or without one, idle connections are closed, and answers say `Connection: close`.
///
/// Requests that came by TCP carry the client's address as an extension, [`PeerAddress`].
///
/// It returns when the last connection is closed or gone, upgraded ones too; the primary's deadline limits that. Each
/// connection has a task of its own, and a clone of the service for each request.
///
/// # Cancel safety
/// Dropping the future closes the listener. Open connections go on until they end by themselves or move; nothing tells
/// them any more that the worker leaves.
///
/// # Examples
/// ```no_run
/// # async fn example(worker: worksong_worker::Worker) -> Result<(), worksong_worker::BoxError> {
/// let app: axum::Router = axum::Router::new().route("/", axum::routing::get(async || "hello\n"));
/// let listener = worker.listen("0.0.0.0:8000").await?;
/// worksong_worker::serve(listener, app).await;
/// # Ok(()) }
/// ```
pub async fn serve(listener: impl Into<AnyListener>, service: impl HttpService) {
    match listener.into().0 {
        Kind::Tcp(listener) => serve_on(listener, service).await,
        Kind::Unix(listener) => serve_on(listener, service).await,
    }
}

async fn serve_on(listener: impl Accept, service: impl HttpService) {
    let source = listener.source();
    if let Some((link, key)) = source.server() {
        link.step(|session| session.count_connections_of(key));
        link.greet(&[Ability::Give, Ability::Ping, Ability::Drain, Ability::Count]);
    }
    let open = watch::Sender::new(());
    let stage = watch::Sender::new(Stage::Serving);
    loop {
        match listener.accept().await {
            Ok((stream, peer)) => {
                let membership = Membership::enter(source.server(), open.subscribe());
                let served = Served::new(stream, peer, service.clone(), membership, stage.subscribe());
                tokio::spawn(served.run());
            }
            Err(error) if Drained::caused(&error) => break,
            Err(error) => pause(&error).await,
        }
    }
    if let Some(link) = source.link() {
        link.step(|session| session.has_told_all(Instant::now()));
    }
    stage.send_replace(Stage::Draining);
    tokio::select! {
        () = open.closed() => {}
        () = source.parting() => {
            stage.send_replace(Stage::Parting);
            open.closed().await;
        }
    }
}

/// Waits until `serve` is so far; for ever when its future was dropped before that.
async fn reached(mut known: watch::Receiver<Stage>, stage: Stage) {
    if known.wait_for(|known| *known >= stage).await.is_err() {
        std::future::pending::<()>().await;
    }
}
