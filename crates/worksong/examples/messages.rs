//! Workers that count together: each tells the primary what it has counted, the primary tells all of them the sum.
//!
//! `cargo run --example messages`, then `curl localhost:7001` a few times.

use std::cell::Cell;
use std::rc::Rc;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::LocalSet;

fn main() -> worksong::Result<()> {
    let mut total = 0_u64;
    worksong::Cluster::builder()
        .name("counter")
        .on_message(move |message| {
            if let Ok(count) = message.parse::<u64>() {
                total += count;
                // Fails only when the cluster ends.
                let _ended = message.cluster().broadcast(&total);
            }
        })
        .run(|worker| async move {
            let address = std::env::args().nth(1).unwrap_or_else(|| "127.0.0.1:7001".to_owned());
            let listener = worker.listen(address).await?;
            let total = Rc::new(Cell::new(0));
            let tasks = LocalSet::new();
            tasks.spawn_local(listen_to_primary(worker.clone(), Rc::clone(&total)));
            let serve = async {
                while let Ok((stream, _peer)) = listener.accept().await {
                    worker.send(&1)?;
                    // One client at a time, and one that goes away is its own affair: this is about messages.
                    let _gone = answer(stream, total.get()).await;
                }
                Ok(())
            };
            tasks.run_until(serve).await
        })
}

async fn answer(mut stream: TcpStream, total: u64) -> std::io::Result<()> {
    let mut request = Vec::new();
    while !request.ends_with(b"\r\n\r\n") && stream.read_buf(&mut request).await? > 0 {}
    let body = format!("{total} requests were counted before yours\n");
    let head = format!("HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: {}\r\n\r\n", body.len());
    stream.write_all((head + &body).as_bytes()).await
}

async fn listen_to_primary(worker: worksong::Worker, total: Rc<Cell<u64>>) {
    while let Some(message) = worker.recv().await {
        if let Ok(sum) = message.parse() {
            total.set(sum);
        }
    }
}
