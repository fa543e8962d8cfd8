//! A policy of one's own: `/admin` has worker 0 for itself, so that no crowd of visitors keeps an operator out.
//! `cargo run --example own_policy --features serve`, then `curl localhost:8000/admin`.
//!
//! It takes its address as its first argument.

use axum::Router;
use axum::routing::get;
use worksong::balance::{Balance, Candidate, Connection};
use worksong::{Cluster, Policy};

/// Sends administrators to slot 0, and visitors to whichever other worker has fewest connections.
struct AdminApart;

impl Balance for AdminApart {
    fn wants_more(&mut self, first_bytes: &[u8]) -> bool {
        // The first line of a request says what it is for.
        !first_bytes.contains(&b'\n')
    }

    fn choose(&mut self, connection: &Connection<'_>, workers: &[Candidate]) -> Option<usize> {
        let is_admin = connection.first_bytes.starts_with(b"GET /admin");
        let fit = workers.iter().enumerate().filter(|(_, worker)| (worker.slot.0 == 0) == is_admin);
        let least = fit.min_by_key(|(_, worker)| worker.unanswered as u64 + worker.open);
        // With nobody fit, anybody: `None` is round robin.
        least.map(|(index, _)| index)
    }
}

fn main() -> worksong::Result<()> {
    let policy = Policy::custom(|| AdminApart);
    Cluster::builder().workers(3).policy(policy).run(|worker| async move {
        let address = std::env::args().nth(1).unwrap_or_else(|| "8000".to_owned());
        let slot = worker.slot().map_or_else(|| "?".to_owned(), |slot| slot.to_string());
        let app = Router::new().fallback(get(async move || slot));
        worksong::serve(worker.listen(address).await?, app).await;
        Ok(())
    })
}
