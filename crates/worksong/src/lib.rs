//! Runs your server on every core: one worker process per core behind one shared port.
//!
//! ```no_run
//! use axum::{Router, routing::get};
//!
//! fn main() -> worksong::Result<()> {
//!     worksong::Cluster::builder().run(|worker| async move {
//!         let app: Router = Router::new().route("/", get(async || "hello\n"));
//!         let listener = worker.listen("0.0.0.0:8000").await?;
//! # #[cfg(feature = "serve")]
//!         worksong::serve(listener, app).await;
//! # #[cfg(not(feature = "serve"))]
//! # drop((listener, app));
//!         Ok(())
//!     })
//! }
//! ```
//!
//! That is a whole program (with the feature `serve`). Started by hand it is the *primary*: a small process that opens
//! the port, starts the same program again for each core as a *worker*, and hands every connection to one of them.
//! What you get for it:
//!
//! * **Crash isolation.** A worker that dies takes its own requests with it and no others; connections that it had
//!   not taken yet go to the next worker, and a new one takes its slot. A handler that panics makes its worker leave in
//!   good order.
//! * **Deploys without downtime.** Replace the binary and send SIGHUP: each successor is ready before its predecessor
//!   is asked to finish. A version that does not start leaves the old one running.
//! * **Nothing shared.** A worker has one thread, so there are no locks to wait for and nothing that must be `Send`.
//!
//! # How it fits together
//!
//! [`Cluster::builder`] says how many workers there are and how they live; [`Builder::run`] never returns in between:
//! in the primary it returns when all workers are gone, in a worker when your function does. Your function gets a
//! [`Worker`]: [`listen`](Worker::listen) gives a listener in the shape of Tokio's, [`draining`](Worker::draining) the
//! signal to finish, [`send`](Worker::send) and [`recv`](Worker::recv) talk to the primary.
//!
//! Whatever `main` does before [`Builder::run`] is done by the primary and by every worker. Start no threads before it.
//!
//! # Signals
//!
//! | the primary gets | and does |
//! |---|---|
//! | SIGTERM, SIGINT | drains all workers and ends; a second one ends them at once. The same signal again within 100 ms counts as one |
//! | SIGHUP, SIGUSR2 | reloads: new workers first, then the old ones drain |
//!
//! # The same program elsewhere
//!
//! Under `worksong run ./server`, or under a Node primary (`cluster.fork()` with `process.execPath = './server'`), the
//! program is a worker of that primary, and what the builder says about workers is that primary's business.
//!
//! # Servers
//!
//! `worksong::serve` (feature `serve`) runs any `tower` service, such as an axum `Router`, over HTTP/1. In a reload its idle
//! keep-alive connections move to the new workers; their clients keep them and notice nothing. With
//! `axum::serve(listener, app).with_graceful_shutdown(worker.draining())` (feature `axum`) they are closed instead: a
//! client that sends a request at that moment has to send it again. Any other server accepts from the listener by itself.
//!
//! # Features
//!
//! * `serve`: `worksong::serve`.
//! * `http2`: `worksong::serve` speaks HTTP/2, too, with clients that begin with it.
//! * `axum`: the worker's listeners implement axum's `Listener`.
//! * `multi-thread`: `Builder::threads`, workers with several threads.

mod builder;
mod cluster;
mod error;
mod executable;
mod output;
mod primary;

pub use worksong_engine::balance;
pub use worksong_engine::event::{self, Event, Record, WorkerRef};
pub use worksong_engine::ids::WorkerId;
pub use worksong_engine::spec::{
    CaptureAddress, CaptureAddressError, Deadlines, ListenAddress, OpenLimits, Overload, Policy, Probe,
    Ready, RestartPolicy, Spread, StopSignal,
};
pub use worksong_engine::sticky::{Network, StickyBy};
pub use worksong_worker::{
    Address, AddressError, BoxError, Drained, EncodeError, EnvironmentError, ListenError, Listener, Message,
    SendError, UdpSocket, UnixListener, Worker,
};

#[cfg(feature = "serve")]
pub use worksong_worker::{AnyListener, BodyError, HttpService, PeerAddress, RequestBody, serve};

pub use self::builder::{Builder, Workers};
pub use self::cluster::{Cluster, FromWorker};
pub use self::error::{Error, NotSent, Result};
