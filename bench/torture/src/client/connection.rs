//! A connection that speaks HTTP/1.1, and all the ways in which it can fail to.

use std::io;
use std::time::{Duration, Instant};

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::sleep;

use crate::ledger::{Course, Fate};

/// A head that is longer is none that our servers write.
const HEAD_LIMIT: usize = 16 * 1024;
/// The longest line that frames a chunk.
const CHUNK_LINE_LIMIT: usize = 256;
/// How much is read at once.
const READ: usize = 64 * 1024;

/// A request that got no right answer.
#[derive(Debug)]
pub(crate) struct Loss {
    pub(crate) fate: Fate,
    pub(crate) detail: String,
}

impl Loss {
    pub(crate) fn wrong(detail: impl Into<String>) -> Self {
        Self { fate: Fate::WrongAnswer, detail: detail.into() }
    }

    /// The end of a connection, before or within an answer.
    pub(crate) fn end(error: Option<&io::Error>, within: bool) -> Self {
        let fate = match (error, within) {
            (None, false) => Fate::ClosedBefore,
            (None, true) => Fate::ClosedWithin,
            (Some(_), false) => Fate::ResetBefore,
            (Some(_), true) => Fate::ResetWithin,
        };
        Self { fate, detail: error.map_or_else(|| "end of the stream".to_owned(), ToString::to_string) }
    }
}

/// What is kept of an answer; its body was given away as it came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    /// The server said that it closes the connection after this.
    pub(crate) closes: bool,
}

/// How slowly a client reads.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pace {
    /// Rest after each read.
    pub(crate) pause: Duration,
    /// The most that is read at once.
    pub(crate) read: usize,
}

impl Pace {
    pub(crate) const FULL: Self = Self { pause: Duration::ZERO, read: READ };
}

/// An open connection.
#[derive(Debug)]
pub(crate) struct Connection {
    stream: TcpStream,
    /// What was read and belongs to no answer yet.
    buffer: BytesMut,
    /// The reset that a write has met: reading finds an end of the stream after it.
    reset: Option<io::Error>,
    pub(crate) course: Course,
}

/// How a body ends.
#[derive(Clone, Copy, Debug)]
enum Length {
    Bytes(u64),
    Chunked,
    UntilEnd,
}

impl Connection {
    pub(crate) fn new(stream: TcpStream) -> Self {
        Self { stream, buffer: BytesMut::new(), reset: None, course: Course::new() }
    }

    /// Returns when the server has ended the connection, or said something that nobody asked for.
    pub(crate) async fn ended(&mut self) {
        // Whatever is to be read without a request means the end: a server has nothing to say then.
        let _bytes_or_error = self.stream.peek(&mut [0]).await;
    }

    /// Sends a request, or its first part; returns false when that is not possible.
    pub(crate) async fn begin(&mut self, bytes: &[u8]) -> bool {
        self.course.asked = Instant::now();
        self.send(bytes).await
    }

    /// Sends more of a request; returns false when that is not possible.
    ///
    /// Then the server may have answered already: reading tells what happened.
    pub(crate) async fn send(&mut self, bytes: &[u8]) -> bool {
        let written = self.stream.write_all(bytes).await;
        let is_possible = written.is_ok();
        // Other errors come after an end that reading tells rightly.
        let reset = written.err().filter(|error| error.kind() == io::ErrorKind::ConnectionReset);
        self.reset = self.reset.take().or(reset);
        is_possible
    }

    /// Reads one answer and gives its body to `body` piece by piece, unless it is the body of an error.
    pub(crate) async fn answer(
        &mut self,
        pace: Pace,
        mut body: impl FnMut(&[u8]) -> Result<(), String>,
    ) -> Result<Answer, Loss> {
        let (answer, length) = self.head().await?;
        let mut body = |bytes: &[u8]| if answer.status == 200 { body(bytes) } else { Ok(()) };
        match length {
            Length::Bytes(count) => self.bytes(count, pace, &mut body).await?,
            Length::Chunked => {
                while let Some(size) = self.chunk_size().await? {
                    self.bytes(size, pace, &mut body).await?;
                    self.line().await?;
                }
            }
            Length::UntilEnd => while self.more(pace, &mut body).await? {},
        }
        Ok(answer)
    }

    /// Reads a head alone, such as the one that accepts an upgrade.
    pub(crate) async fn upgrade(mut self) -> Result<(TcpStream, BytesMut), Loss> {
        let (answer, _length) = self.head().await?;
        if answer.status == 101 {
            Ok((self.stream, self.buffer))
        } else {
            Err(Loss { fate: Fate::WrongStatus, detail: format!("status {} to an upgrade", answer.status) })
        }
    }

    async fn head(&mut self) -> Result<(Answer, Length), Loss> {
        loop {
            if let Some(end) = find(&self.buffer, b"\r\n\r\n") {
                let head = self.buffer.split_to(end + 4);
                let (answer, length) = read_head(&head[..end]).map_err(Loss::wrong)?;
                if (100..200).contains(&answer.status) && answer.status != 101 {
                    continue;
                }
                return Ok((answer, length));
            }
            if self.buffer.len() > HEAD_LIMIT {
                return Err(Loss::wrong(format!("a head of more than {HEAD_LIMIT} bytes")));
            }
            let within = !self.buffer.is_empty();
            self.fill(READ, within).await?;
        }
    }

    /// Reads more; the end of the connection is a loss.
    async fn fill(&mut self, most: usize, within: bool) -> Result<(), Loss> {
        match self.read(most).await {
            Ok(0) => Err(Loss::end(self.reset.as_ref(), within)),
            Ok(_) => Ok(()),
            Err(error) => Err(Loss::end(Some(&error), within)),
        }
    }

    async fn read(&mut self, most: usize) -> io::Result<usize> {
        self.buffer.reserve(most);
        (&mut self.stream).take(most as u64).read_buf(&mut self.buffer).await
    }

    async fn bytes(
        &mut self,
        mut left: u64,
        pace: Pace,
        body: &mut impl FnMut(&[u8]) -> Result<(), String>,
    ) -> Result<(), Loss> {
        while left > 0 {
            if self.buffer.is_empty() {
                self.fill(pace.read, true).await?;
                sleep_if(pace.pause).await;
            }
            let usable = usize::try_from(left).unwrap_or(usize::MAX).min(self.buffer.len());
            body(&self.buffer[..usable]).map_err(Loss::wrong)?;
            self.buffer.advance(usable);
            left -= usable as u64;
        }
        Ok(())
    }

    /// Passes on what is there of a body that ends with the connection; false at its end.
    async fn more(
        &mut self,
        pace: Pace,
        body: &mut impl FnMut(&[u8]) -> Result<(), String>,
    ) -> Result<bool, Loss> {
        if self.buffer.is_empty() {
            match self.read(pace.read).await {
                Ok(0) => return Ok(false),
                Ok(_) => sleep_if(pace.pause).await,
                Err(error) => return Err(Loss::end(Some(&error), true)),
            }
        }
        body(&self.buffer).map_err(Loss::wrong)?;
        self.buffer.clear();
        Ok(true)
    }

    /// Reads the size of the next chunk; `None` after the last one, with its trailer read.
    async fn chunk_size(&mut self) -> Result<Option<u64>, Loss> {
        let line = self.line().await?;
        let digits = line.split(';').next().unwrap_or_default().trim();
        let size = u64::from_str_radix(digits, 16)
            .map_err(|_error| Loss::wrong(format!("{line:?} is not the size of a chunk")))?;
        if size > 0 {
            return Ok(Some(size));
        }
        while !self.line().await?.is_empty() {}
        Ok(None)
    }

    /// Reads a line within a body, without its end.
    async fn line(&mut self) -> Result<String, Loss> {
        loop {
            if let Some(end) = find(&self.buffer, b"\r\n") {
                let line = self.buffer.split_to(end + 2);
                return Ok(String::from_utf8_lossy(&line[..end]).into_owned());
            }
            if self.buffer.len() > CHUNK_LINE_LIMIT {
                return Err(Loss::wrong("a chunk without its frame"));
            }
            self.fill(READ, true).await?;
        }
    }
}

async fn sleep_if(pause: Duration) {
    if pause > Duration::ZERO {
        sleep(pause).await;
    }
}

fn find(bytes: &[u8], what: &[u8]) -> Option<usize> {
    bytes.windows(what.len()).position(|window| window == what)
}

fn read_head(head: &[u8]) -> Result<(Answer, Length), String> {
    let head = String::from_utf8_lossy(head);
    let mut lines = head.split("\r\n");
    let first = lines.next().unwrap_or_default();
    let mut words = first.split(' ');
    let (Some(version @ ("HTTP/1.1" | "HTTP/1.0")), Some(status)) = (words.next(), words.next()) else {
        return Err(format!("{first:?} is not the begin of an answer"));
    };
    let status: u16 = status.parse().map_err(|_error| format!("{first:?} has no status"))?;
    let mut answer = Answer { status, closes: version == "HTTP/1.0" };
    let mut length = if matches!(status, 100..200 | 204 | 304) { Length::Bytes(0) } else { Length::UntilEnd };
    for line in lines {
        let (name, value) = line.split_once(':').ok_or_else(|| format!("{line:?} is not a header"))?;
        let value = value.trim();
        if name.eq_ignore_ascii_case("content-length") {
            let count = value.parse().map_err(|_error| format!("{line:?} is not a length"))?;
            length = Length::Bytes(count);
        } else if name.eq_ignore_ascii_case("transfer-encoding") && value.eq_ignore_ascii_case("chunked") {
            length = Length::Chunked;
        } else if name.eq_ignore_ascii_case("connection") {
            answer.closes = value.split(',').any(|word| word.trim().eq_ignore_ascii_case("close"));
        }
    }
    answer.closes |= matches!(length, Length::UntilEnd);
    Ok((answer, length))
}

#[cfg(test)]
mod tests;
