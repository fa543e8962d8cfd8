//! An axum server that knows nothing of worksong and binds `PORT` by itself.

use std::time::Duration;
use std::{env, io, process};

use axum::Router;
use axum::extract::RawQuery;
use axum::routing::get;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};

#[tokio::main(flavor = "current_thread")]
async fn main() -> io::Result<()> {
    let port = env::var("PORT").ok().and_then(|port| port.parse().ok());
    let port: u16 = port.ok_or_else(|| io::Error::other("PORT is not set to a port"))?;
    let listener = TcpListener::bind(("127.0.0.1", port)).await?;
    let mut terminate = signal(SignalKind::terminate())?;
    let leave = async move {
        terminate.recv().await;
    };
    axum::serve(listener, Router::new().route("/", get(answer))).with_graceful_shutdown(leave).await
}

/// Answers with its process id, after `ms` milliseconds if it is asked so.
async fn answer(RawQuery(query): RawQuery) -> String {
    let milliseconds = query.and_then(|query| query.strip_prefix("ms=")?.parse().ok()).unwrap_or(0);
    tokio::time::sleep(Duration::from_millis(milliseconds)).await;
    process::id().to_string()
}
