//! A server that opens its port itself, as servers of many libraries do, on several cores: `cargo run --example any_server`, then
//! `curl localhost:8000`.
//!
//! It takes its address as its first argument.

use axum::Router;
use axum::routing::get;
use worksong::{CaptureAddress, Cluster};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let address = std::env::args().nth(1).unwrap_or_else(|| "127.0.0.1:8000".to_owned());
    let captured: CaptureAddress = address.parse()?;
    Cluster::builder().workers(2).capture(captured).run(|_worker| async move {
        let app = Router::new().route("/", get(async || format!("process {}\n", std::process::id())));
        // It knows nothing of workers: each of them binds the port, and each gets a socket of its own.
        axum::serve(tokio::net::TcpListener::bind(address).await?, app).await?;
        Ok(())
    })?;
    Ok(())
}
