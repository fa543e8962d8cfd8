//! A worker for any primary, also a real Node one:
//!
//! ```js
//! process.execPath = 'target/debug/examples/under_node'; // what cluster.fork() starts
//! cluster.setupPrimary({ exec: '127.0.0.1:8000', execArgv: [] }); // its first argument
//! cluster.fork();
//! ```
//!
//! It answers HTTP requests with who it is: `/slow` in two parts, `/leave` and `/send` do so, `/panic` not at all.
//! It obeys messages: `"leave"`, `"recycle"`, `"panic"`, `"environment"`; everything else is sent back. At its end it says how many
//! requests it answered.
#![expect(clippy::print_stdout, reason = "it says where it listens")]

use std::cell::Cell;
use std::io;
use std::process::{self, Command};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::{JoinError, JoinSet};
use worksong_worker::{RunError, Worker};

fn main() -> Result<(), RunError> {
    worksong_worker::run(|worker| async move {
        let address = std::env::args().nth(1).unwrap_or_else(|| "127.0.0.1:0".to_owned());
        let listener = worker.listen(&address).await?;
        println!("{}", listener.local_addr()?);
        let datagrams = worker.bind_udp("127.0.0.1:0").await?;
        tokio::spawn(obey(worker.clone()));
        tokio::spawn(async move {
            let mut buffer = [0; 512];
            while let Ok((length, peer)) = datagrams.recv_from(&mut buffer).await {
                // Datagrams may be lost, on the way out too.
                let _lost = datagrams.send_to(&buffer[..length], peer).await;
            }
        });
        let mut connections = JoinSet::new();
        let answered = Cell::new(0_u32);
        let count = |ended: Result<io::Result<()>, JoinError>| {
            if matches!(ended, Ok(Ok(()))) {
                answered.set(answered.get() + 1);
            }
        };
        while let Ok((stream, _peer)) = listener.accept().await {
            connections.spawn(answer(stream, worker.clone()));
            while let Some(ended) = connections.try_join_next() {
                count(ended);
            }
        }
        drop(listener);
        while let Some(ended) = connections.join_next().await {
            count(ended);
        }
        println!("answered {}", answered.get());
        Ok(())
    })
}

/// Answers one request; `/slow` only after the client has sent one more line.
async fn answer(mut stream: TcpStream, worker: Worker) -> io::Result<()> {
    let mut request = Vec::new();
    while !request.ends_with(b"\r\n\r\n") {
        if stream.read_buf(&mut request).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
    let request = String::from_utf8_lossy(&request);
    let path = request.split(' ').nth(1).unwrap_or_default();
    let pid = process::id();
    let head = format!("HTTP/1.1 200 OK\r\nconnection: close\r\npid: {pid}\r\npath: {path}\r\n\r\n");
    match path {
        "/slow" => {
            stream.write_all(format!("{head}slow ").as_bytes()).await?;
            stream.read_u8().await?;
        }
        "/panic" => panic!("a handler fails"),
        "/leave" => {
            worker.disconnect().await;
            stream.write_all(head.as_bytes()).await?;
        }
        "/send" => {
            worker.send(&("asked", worker.id())).map_err(io::Error::other)?;
            stream.write_all(head.as_bytes()).await?;
        }
        _ => stream.write_all(head.as_bytes()).await?,
    }
    stream.write_all(format!("worker {}", worker.id()).as_bytes()).await?;
    stream.shutdown().await
}

async fn obey(worker: Worker) {
    while let Some(message) = worker.recv().await {
        let reply = match message.parse() {
            Ok("leave") => {
                tokio::time::timeout(Duration::from_secs(10), worker.disconnect()).await.ok();
                continue;
            }
            Ok("panic") => {
                tokio::spawn(async { panic!("asked to") });
                continue;
            }
            Ok("recycle") => worker.recycle(),
            Ok("environment") => {
                let output = Command::new("env").output().map(|output| output.stdout).unwrap_or_default();
                worker.send(&String::from_utf8_lossy(&output))
            }
            _ => worker.send(&format!("{} heard {}", worker.id(), message.as_json())),
        };
        if reply.is_err() {
            break;
        }
    }
}
