//! The Rust server under torture: what `apps/node/torture.js` answers, with HTTP/2 on the same port. It closes a WebSocket
//! politely when the worker leaves.

mod websocket;

use std::convert::Infallible;
use std::fmt::Write;
use std::future::poll_fn;
use std::path::PathBuf;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use hyper::body::{Body, Bytes, Frame, SizeHint};
use hyper::{Request, Response, StatusCode};
use sha2::{Digest, Sha256};
use tokio::time::{Interval, interval};
use tower_service::Service;
use worksong_worker::{BodyError, BoxError, RequestBody, RunError, Worker};

/// The period of the bytes that are large answers.
const PERIOD: usize = 23;
/// How much of them is written at once.
const PART: usize = PERIOD * 4096;

fn main() -> Result<(), RunError> {
    worksong_worker::run(serve)
}

async fn serve(worker: Worker) -> Result<(), BoxError> {
    let listener = worker.listen("127.0.0.1:0").await?;
    worksong_worker::serve(listener, Server { worker }).await;
    Ok(())
}

/// The service of every connection.
#[derive(Clone)]
struct Server {
    worker: Worker,
}

impl Service<Request<RequestBody>> for Server {
    type Response = Response<Answer>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Self::Error>> + Send>>;

    fn poll_ready(&mut self, _context: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<RequestBody>) -> Self::Future {
        Box::pin(answer(self.worker.clone(), request))
    }
}

async fn answer(worker: Worker, request: Request<RequestBody>) -> Result<Response<Answer>, Infallible> {
    let path = request.uri().path().to_owned();
    let words: Vec<&str> = path.split('/').skip(1).collect();
    let number =
        |place: usize| words.get(place).and_then(|word| word.parse::<u64>().ok()).unwrap_or_default();
    let body = match words[..] {
        ["say", word] => Answer::Text(Bytes::copy_from_slice(word.as_bytes())),
        ["bytes", _] => Answer::Pattern { left: number(1) as usize, part: pattern() },
        ["stream", ..] => {
            let pause = Duration::from_millis(number(2).max(1));
            Answer::Stream { next: 0, count: number(1), clock: interval(pause) }
        }
        ["upload"] => match digest(request.into_body()).await {
            Ok(digest) => Answer::Text(digest.into()),
            Err(_cut_by_the_client) => return Ok(failure(StatusCode::BAD_REQUEST)),
        },
        ["pid"] => Answer::Text(std::process::id().to_string().into()),
        ["block"] => block(),
        ["ws"] => return Ok(websocket::accept(worker, request)),
        _ => return Ok(failure(StatusCode::NOT_FOUND)),
    };
    Ok(Response::new(body))
}

/// Stops the only thread until there is a file `$RELEASE`, and says so first.
#[expect(clippy::print_stdout, reason = "who asked for it reads it")]
fn block() -> Answer {
    println!("blocked");
    let release = std::env::var_os("RELEASE").map(PathBuf::from).unwrap_or_default();
    while !release.exists() {
        std::thread::park_timeout(Duration::from_millis(20));
    }
    Answer::Text(Bytes::new())
}

fn failure(status: StatusCode) -> Response<Answer> {
    let mut response = Response::new(Answer::Text(Bytes::new()));
    *response.status_mut() = status;
    response
}

fn pattern() -> Bytes {
    (0..PART).map(|place| b'a' + (place % PERIOD) as u8).collect()
}

/// Returns the SHA-256 of a body in hexadecimal.
async fn digest(mut body: RequestBody) -> Result<String, BodyError> {
    let mut digest = Sha256::new();
    while let Some(frame) = poll_fn(|context| Pin::new(&mut body).poll_frame(context)).await {
        if let Ok(data) = frame?.into_data() {
            digest.update(&data);
        }
    }
    let mut text = String::new();
    for byte in digest.finalize() {
        let _infallible = write!(text, "{byte:02x}");
    }
    Ok(text)
}

/// A body.
enum Answer {
    Text(Bytes),
    /// So many bytes of a repeated part.
    Pattern {
        left: usize,
        part: Bytes,
    },
    /// So many numbered lines, one at each tick.
    Stream {
        next: u64,
        count: u64,
        clock: Interval,
    },
}

impl Body for Answer {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let data = match self.get_mut() {
            Self::Text(text) => std::mem::take(text),
            Self::Pattern { left, part } => {
                let data = part.slice(..part.len().min(*left));
                *left -= data.len();
                data
            }
            Self::Stream { next, count, clock } if *next < *count => {
                ready!(clock.poll_tick(context));
                *next += 1;
                format!("{}\n", *next - 1).into()
            }
            Self::Stream { .. } => Bytes::new(),
        };
        Poll::Ready((!data.is_empty()).then(|| Ok(Frame::data(data))))
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Text(text) => SizeHint::with_exact(text.len() as u64),
            Self::Pattern { left, .. } => SizeHint::with_exact(*left as u64),
            Self::Stream { .. } => SizeHint::default(),
        }
    }
}
