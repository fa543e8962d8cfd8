//! An axum app on every core, whose open connections survive a reload: `cargo run --example hello_serve --features serve`,
//! then `curl localhost:8000`.
//!
//! It takes its address as its first argument. Send the primary SIGHUP for a reload, SIGTERM for the end.

use axum::Router;
use axum::routing::get;

fn main() -> worksong::Result<()> {
    worksong::Cluster::builder().run(|worker| async move {
        let address = std::env::args().nth(1).unwrap_or_else(|| "8000".to_owned());
        let name =
            format!("worker {} of slot {:?}, process {}\n", worker.id(), worker.slot(), std::process::id());
        let app = Router::new()
            .route("/", get(async move || name))
            .route("/panic", get(async || -> &'static str { panic!("a handler fails") }));
        worksong::serve(worker.listen(address).await?, app).await;
        Ok(())
    })
}
