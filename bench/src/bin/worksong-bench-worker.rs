//! The worker of the Rust rows: it answers what `hello.js` answers, with as little as a Rust server can do.
//!
//! It looks at no more of a request than where it ends and whether the connection is to be closed.

use std::io;
use std::rc::Rc;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::LocalSet;
use worksong_worker::{BoxError, RunError, Worker};

const REQUEST_END: &[u8] = b"\r\n\r\n";
/// Longer requests are none of the load generator's.
const REQUEST_LIMIT: usize = 1024;

fn main() -> Result<(), RunError> {
    worksong_worker::run(serve)
}

async fn serve(worker: Worker) -> Result<(), BoxError> {
    let listener = worker.listen("127.0.0.1:0").await?;
    let answers = Rc::new(Answers::new());
    let accept = async {
        loop {
            let (stream, _peer) = listener.accept().await?;
            let answers = Rc::clone(&answers);
            tokio::task::spawn_local(async move {
                // A client that goes away is counted by the client.
                let _gone = answer(stream, &answers).await;
            });
        }
    };
    LocalSet::new().run_until(accept).await
}

/// The two answers, made once.
struct Answers {
    keep_alive: Vec<u8>,
    close: Vec<u8>,
}

impl Answers {
    fn new() -> Self {
        let body = format!("hello {}\n", std::process::id());
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
