//! What the Rust workers of the benchmarks serve: the answer of `servers/hello.js`, with as little as a server can do.
//!
//! They look at no more of a request than where it ends and whether the connection is to be closed.

#![forbid(unsafe_code)]

use std::io;
use std::rc::Rc;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::LocalSet;
use worksong_worker::{BoxError, Worker};

const REQUEST_END: &[u8] = b"\r\n\r\n";
/// Longer requests are none of the load generator's.
const REQUEST_LIMIT: usize = 1024;

/// Answers every request with `hello NUMBER`, until the worker has to leave.
///
/// # Errors
///
/// When the worker cannot listen.
pub async fn serve(worker: Worker, number: u32) -> Result<(), BoxError> {
    let listener = worker.listen("127.0.0.1:0").await?;
    let answers = Rc::new(Answers::new(number));
    let accept = async {
        // Ends when the worker has to leave.
        while let Ok((stream, _peer)) = listener.accept().await {
            let answers = Rc::clone(&answers);
            tokio::task::spawn_local(async move {
                // A client that goes away is counted by the client.
                let _gone = answer(stream, &answers).await;
            });
        }
    };
    let tasks = LocalSet::new();
    tasks.run_until(accept).await;
    // What was begun is finished.
    tasks.await;
    Ok(())
}

/// The two answers, made once.
struct Answers {
    keep_alive: Vec<u8>,
    close: Vec<u8>,
}

impl Answers {
    fn new(number: u32) -> Self {
        let body = format!("hello {number}\n");
        let answer = |header: &str| {
            format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n{header}\r\n{body}", body.len()).into_bytes()
        };
        Self { keep_alive: answer(""), close: answer("Connection: close\r\n") }
    }
}

/// Answers the requests of one connection.
async fn answer(mut stream: TcpStream, answers: &Answers) -> io::Result<()> {
    let mut request = [0; REQUEST_LIMIT];
    let mut filled = 0;
    loop {
        match stream.read(&mut request[filled..]).await? {
            0 => return Ok(()),
            count => filled += count,
        }
        let received = &request[..filled];
        if !received.ends_with(REQUEST_END) {
            continue;
        }
        let closes = received.windows(5).any(|word| word.eq_ignore_ascii_case(b"close"));
        write(&stream, if closes { &answers.close } else { &answers.keep_alive })?;
        if closes {
            // As every HTTP server does; to drop it is not enough to end a connection of which there are copies.
            return stream.shutdown().await;
        }
        filled = 0;
    }
}

/// Writes an answer, which is far smaller than an empty socket buffer: whole, or the client does not read.
fn write(stream: &TcpStream, answer: &[u8]) -> io::Result<()> {
    match stream.try_write(answer)? {
        count if count == answer.len() => Ok(()),
        _ => Err(io::ErrorKind::WriteZero.into()),
    }
}
