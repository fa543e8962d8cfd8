//! An axum server on every core: `cargo run --example hello_axum --features axum`, then `curl localhost:8000`.
//!
//! It takes its port as its first argument. Send the primary SIGHUP for a reload, SIGTERM for the end.

use axum::Router;
use axum::routing::get;

fn main() -> worksong::Result<()> {
    worksong::Cluster::builder().run(|worker| async move {
        let port = std::env::args().nth(1).unwrap_or_else(|| "8000".to_owned());
        let listener = worker.listen(port).await?;
        let name =
            format!("worker {} of slot {:?}, process {}\n", worker.id(), worker.slot(), std::process::id());
        let app = Router::new()
            .route("/", get(async move || name))
            .route("/panic", get(async || -> &'static str { panic!("a handler fails") }));
        axum::serve(listener, app).with_graceful_shutdown(worker.draining()).await?;
        Ok(())
    })
}
