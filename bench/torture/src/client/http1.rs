//! Requests with small, large and chunked answers over HTTP/1.1.

use std::fmt::Write;
use std::time::Duration;

use crate::class::Class;
use crate::ledger::Ending;
use crate::target::Contract;

use super::connection::{Connection, Loss, Pace};
use super::{Client, Turn};

/// What a client that reads slowly asks for.
const LARGE: u64 = 1024 * 1024;
/// About a third of a second for [`LARGE`].
const SLOW: Pace = Pace { pause: Duration::from_millis(8), read: 32 * 1024 };
/// A stream of this many chunks, one after each of these times, takes a second.
const CHUNKS: u64 = 20;
const CHUNK_PAUSE_MS: u64 = 50;
/// The most requests that are sent at once.
const LONGEST_PIPELINE: u64 = 8;
/// The period of the bytes that `/bytes` answers, which begin with `a`.
const PERIOD: u64 = 23;

/// A request, and what its answer has to be.
struct Request {
    path: String,
    expected: Expected,
}

enum Expected {
    Text(String),
    /// So many bytes of the pattern.
    Pattern(u64),
    /// Anything that is whole.
    Anything,
}

impl Client {
    /// Returns the next request of its class.
    fn request(&mut self) -> Request {
        if let Contract::Any { path, .. } = &self.target.contract {
            return Request { path: path.clone(), expected: Expected::Anything };
        }
        match self.class {
            Class::SlowReader => {
                Request { path: format!("/bytes/{LARGE}"), expected: Expected::Pattern(LARGE) }
            }
            Class::Stream => {
                let lines = (0..CHUNKS).fold(String::new(), |mut text, number| {
                    let _infallible = writeln!(text, "{number}");
                    text
                });
                let path = format!("/stream/{CHUNKS}/{CHUNK_PAUSE_MS}");
                Request { path, expected: Expected::Text(lines) }
            }
            _ => {
                let number = self.random.next();
                Request { path: format!("/say/{number}"), expected: Expected::Text(number.to_string()) }
            }
        }
    }

    fn pace(&self) -> Pace {
        if self.class == Class::SlowReader { SLOW } else { Pace::FULL }
    }

    fn head(&self, request: &Request, close: bool) -> String {
        let (path, host) = (&request.path, self.host());
        let connection = if close { "Connection: close\r\n" } else { "" };
        format!("GET {path} HTTP/1.1\r\nHost: {host}\r\n{connection}\r\n")
    }

    /// Sends a request and waits for its answer.
    async fn ask(&mut self, connection: &mut Connection, close: bool) -> Turn {
        let request = self.request();
        let head = self.head(&request, close);
        connection.begin(head.as_bytes()).await;
        self.take(connection, &request.expected).await
    }

    /// Takes the next answer from a connection.
    async fn take(&mut self, connection: &mut Connection, expected: &Expected) -> Turn {
        let mut check = Check { expected, seen: 0 };
        let pace = self.pace();
        let answer = self.within(async {
            let answer = connection.answer(pace, |bytes| check.take(bytes)).await?;
            if answer.status == 200 {
                check.end()?;
            }
            Ok(answer)
        });
        let answer = answer.await;
        self.judge(answer, connection)
    }

    /// A connection for each request.
    pub(super) async fn fresh(&mut self) {
        while self.pause(self.class.pause()).await {
            if let Some(mut connection) = self.connection().await {
                self.ask(&mut connection, true).await;
            }
        }
    }

    /// One request after the other on one connection.
    pub(super) async fn keep_alive(&mut self) {
        while !self.stopped() {
            let Some(mut connection) = self.connection().await else { continue };
            loop {
                match self.ask(&mut connection, false).await {
                    Turn::Usable if self.rest(&mut connection).await => {}
                    Turn::Usable | Turn::Lost => break,
                    Turn::Closes => {
                        self.book.ended(self.class, Ending::Polite);
                        break;
                    }
                }
            }
        }
    }

    /// Several requests at once on one connection.
    pub(super) async fn pipelined(&mut self) {
        while !self.stopped() {
            let Some(mut connection) = self.connection().await else { continue };
            while self.pipeline(&mut connection).await && self.rest(&mut connection).await {}
        }
    }

    /// Sends some requests at once and takes their answers; returns true when the connection can be used again.
    async fn pipeline(&mut self, connection: &mut Connection) -> bool {
        let length = 2 + self.random.below(LONGEST_PIPELINE - 1);
        let requests: Vec<Request> = (0..length).map(|_| self.request()).collect();
        let heads: String = requests.iter().map(|request| self.head(request, false)).collect();
        connection.begin(heads.as_bytes()).await;
        let mut unanswered = requests.iter();
        while let Some(request) = unanswered.next() {
            match self.take(connection, &request.expected).await {
                Turn::Usable => {}
                Turn::Lost => {
                    unanswered.for_each(|_request| self.unanswered(connection));
                    return false;
                }
                Turn::Closes => {
                    self.book.ended(self.class, Ending::Polite);
                    unanswered.for_each(|_request| self.book.declined(self.class));
                    return false;
                }
            }
        }
        true
    }
}

/// Compares a body with what is expected, as it comes.
struct Check<'a> {
    expected: &'a Expected,
    seen: u64,
}

impl Check<'_> {
    fn take(&mut self, bytes: &[u8]) -> Result<(), String> {
        let seen = self.seen;
        self.seen += bytes.len() as u64;
        let right = match self.expected {
            Expected::Text(text) => {
                let rest = text.as_bytes().get(seen as usize..).unwrap_or_default();
                rest.starts_with(bytes)
            }
            Expected::Pattern(_) => bytes
                .iter()
                .zip(seen..)
                .all(|(byte, place)| u64::from(*byte) == u64::from(b'a') + place % PERIOD),
            Expected::Anything => true,
        };
        if right {
            return Ok(());
        }
        let begin = String::from_utf8_lossy(&bytes[..bytes.len().min(40)]).into_owned();
        Err(format!("after {seen} bytes of the body there is {begin:?}"))
    }

    fn end(&self) -> Result<(), Loss> {
        let expected = match self.expected {
            Expected::Text(text) => text.len() as u64,
            Expected::Pattern(count) => *count,
            Expected::Anything => return Ok(()),
        };
        if self.seen == expected {
            return Ok(());
        }
        Err(Loss::wrong(format!("a body of {} bytes, not {expected}", self.seen)))
    }
}
