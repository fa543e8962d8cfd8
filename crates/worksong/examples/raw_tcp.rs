//! A line echo server on every core: `cargo run --example raw_tcp`, then `nc localhost 7000`.

use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

fn main() -> worksong::Result<()> {
    worksong::Cluster::builder().name("echo").run(|worker| async move {
        let address = std::env::args().nth(1).unwrap_or_else(|| "127.0.0.1:7000".to_owned());
        let listener = worker.listen(address).await?;
        let mut clients = JoinSet::new();
        // Ends when the worker has to finish.
        while let Ok((stream, _peer)) = listener.accept().await {
            clients.spawn(echo(stream));
            // Forget those that are done.
            while clients.try_join_next().is_some() {}
        }
        while clients.join_next().await.is_some() {}
        Ok(())
    })
}

async fn echo(mut stream: TcpStream) -> std::io::Result<()> {
    let (reader, mut writer) = stream.split();
    let mut lines = BufReader::new(reader).lines();
    while let Some(line) = lines.next_line().await? {
        writer.write_all(format!("{line}\n").as_bytes()).await?;
    }
    Ok(())
}
