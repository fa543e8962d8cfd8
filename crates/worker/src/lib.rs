//! What a Rust server links to run as a worker, on every core, behind one shared port.
//!
//! A *primary* starts the same program once per core and gives every connection to one of the workers. This crate is
//! the worker's half: [`run`] makes a runtime and a [`Worker`], and the worker gives sockets that look like Tokio's.
//!
//! ```no_run
//! fn main() -> Result<(), worksong_worker::RunError> {
//!     worksong_worker::run(|worker| async move {
//!         let listener = worker.listen("0.0.0.0:8000").await?;
//!         let mut connections = tokio::task::JoinSet::new();
//!         while let Ok((mut stream, _peer)) = listener.accept().await {
//!             connections.spawn(async move {
//!                 let (mut from, mut to) = stream.split();
//!                 tokio::io::copy(&mut from, &mut to).await
//!             });
//!         }
//!         while connections.join_next().await.is_some() {}
//!         Ok(())
//!     })
//! }
//! ```
//!
//! The same binary runs
//!
//! * under worksong: `worksong run ./server`, or its own primary by the `worksong` crate,
//! * under a real Node primary: `process.execPath = './server'; cluster.fork()`,
//! * alone: it binds the port by itself.
//!
//! # The life of a worker
//!
//! `starting → serving → draining → closed`
//!
//! * **Serving** begins with [`Worker::listen`]. The primary hands over connections, or shares its listening socket; the
//!   program sees no difference. A connection counts as taken when `accept()` returns it and not before: one that the
//!   program leaves waiting for a second goes to another worker.
//! * **Draining** begins when the primary asks for it (a reload, the end), when the worker
//!   [asks itself](Worker::disconnect), or after a panic. No connection comes any more, `accept()` fails with [`Drained`],
//!   [`Worker::draining`] resolves. The program finishes what it has; the primary's deadline limits it. Idle connections of
//!   `serve` move to other workers.
//! * **Closed**: the program returned and the process ends with code 0. When the *primary* goes away first, the
//!   process ends at once ([`Worker::outlive_primary`] changes that).
//!
//! # Features
//!
//! * `axum`: [`Listener`] and [`UnixListener`] are axum's listeners: `axum::serve(listener, app)`.
//! * `serve`: [`serve`](fn@serve), an HTTP server whose idle connections move to another worker.
//! * `http2`: [`serve`](fn@serve) speaks HTTP/2, too.
//! * `multi-thread`: [`Options::threads`](Options), a worker with several threads.

mod address;
#[allow(
    unsafe_code,
    reason = "adopts the inherited descriptor and cleans the environment, each with its reason"
)]
mod env;
mod error;
#[cfg_attr(
    all(not(feature = "serve"), not(test)),
    expect(dead_code, reason = "only what is served here can be given")
)]
mod giving;
mod link;
mod listen;
mod listener;
mod message;
mod run;
#[cfg(feature = "serve")]
mod serve;
mod session;
mod worker;

pub use self::address::{Address, AddressError};
pub use self::env::{EnvironmentError, is_worker};
pub use self::error::{BoxError, Drained, EncodeError, ListenError, RunError, SendError};
pub use self::listener::{Listener, UdpSocket, UnixListener};
pub use self::message::Message;
pub use self::run::{Options, run};
#[cfg(feature = "serve")]
pub use self::serve::{AnyListener, BodyError, HttpService, PeerAddress, RequestBody, serve};
pub use self::worker::Worker;
