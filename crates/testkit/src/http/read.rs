//! Reading one answer off a stream.

use std::io::{self, Read};

use super::{Error, Response};

/// Reads one answer; what was read beyond it stays in `received`.
pub(super) fn response(
    source: &mut impl Read,
    received: &mut Vec<u8>,
    to_head: bool,
) -> Result<Response, Error> {
    let mut reader = Reader { source, received, taken: 0 };
    let (status, headers) = loop {
        let (status, headers) = reader.head()?;
        // 100 Continue and its like come before the answer.
        if status >= 200 || status == 101 {
            break (status, headers);
        }
    };
    let mut response = Response { status, headers, body: Vec::new() };
    response.body = match Length::of(&response, to_head)? {
        Length::None => Vec::new(),
        Length::Known(count) => reader.take(count)?,
        Length::Chunked => reader.chunks()?,
        Length::UntilEnd => reader.rest()?,
    };
    let taken = reader.taken;
    received.drain(..taken);
    Ok(response)
}

enum Length {
    None,
    Known(usize),
    Chunked,
    UntilEnd,
}

impl Length {
    fn of(response: &Response, to_head: bool) -> Result<Self, Error> {
        if to_head || matches!(response.status, 101 | 204 | 304) {
            return Ok(Self::None);
        }
        match (response.header("transfer-encoding"), response.header("content-length")) {
            (Some("chunked"), None) => Ok(Self::Chunked),
            (None, Some(count)) => {
                count.parse().map(Self::Known).map_err(|_| malformed("content-length", count))
            }
            (None, None) => Ok(Self::UntilEnd),
            (Some(encoding), _) => Err(malformed("transfer-encoding", encoding)),
        }
    }
}

struct Reader<'a, R> {
    source: &'a mut R,
    received: &'a mut Vec<u8>,
    /// How much of `received` belongs to the answer by now.
    taken: usize,
}

impl<R: Read> Reader<'_, R> {
    /// Reads some more; an end of file is an error.
    fn more(&mut self) -> Result<(), Error> {
        match self.read() {
            Ok(0) => Err(self.broken(io::ErrorKind::UnexpectedEof.into())),
            Ok(_) => Ok(()),
            Err(source) => Err(self.broken(source)),
        }
    }

    fn read(&mut self) -> io::Result<usize> {
        let mut buffer = [0; 16 * 1024];
        let count = loop {
            match self.source.read(&mut buffer) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                result => break result?,
            }
        };
        self.received.extend_from_slice(&buffer[..count]);
        Ok(count)
    }

    fn broken(&self, source: io::Error) -> Error {
        match self.received.len() {
            0 => Error::NoAnswer(source),
            received => Error::Cut { received, source },
        }
    }

    /// Takes a line without its end.
    fn line(&mut self) -> Result<String, Error> {
        let mut searched = self.taken;
        loop {
            if let Some(at) = self.received[searched..].windows(2).position(|pair| pair == b"\r\n") {
                let end = searched + at;
                let line = String::from_utf8_lossy(&self.received[self.taken..end]).into_owned();
                self.taken = end + 2;
                return Ok(line);
            }
            // The last byte may be half of the next end of line.
            searched = self.received.len().saturating_sub(1).max(self.taken);
            self.more()?;
        }
    }

    fn head(&mut self) -> Result<(u16, Vec<(String, String)>), Error> {
        let first = self.line()?;
        let code = first.strip_prefix("HTTP/1.1 ").or_else(|| first.strip_prefix("HTTP/1.0 "));
        let code = code.and_then(|rest| rest.get(..3)?.parse().ok());
        let status = code.ok_or_else(|| malformed("status line", &first))?;
        let mut headers = Vec::new();
        loop {
            let line = self.line()?;
            if line.is_empty() {
                return Ok((status, headers));
            }
            let (name, value) = line.split_once(':').ok_or_else(|| malformed("header", &line))?;
            headers.push((name.to_ascii_lowercase(), value.trim().to_owned()));
        }
    }

    fn take(&mut self, count: usize) -> Result<Vec<u8>, Error> {
        while self.received.len() - self.taken < count {
            self.more()?;
        }
        let bytes = self.received[self.taken..self.taken + count].to_vec();
        self.taken += count;
        Ok(bytes)
    }

    fn chunks(&mut self) -> Result<Vec<u8>, Error> {
        let mut body = Vec::new();
        loop {
            let line = self.line()?;
            let size = line.split(';').next().unwrap_or_default();
            let size = usize::from_str_radix(size, 16).map_err(|_| malformed("chunk size", &line))?;
            body.extend(self.take(size)?);
            // The end of the chunk; after the last one it ends the answer, because we accept no trailers.
            let end = self.line()?;
            if !end.is_empty() {
                return Err(malformed("end of a chunk", &end));
            }
            if size == 0 {
                return Ok(body);
            }
        }
    }

    fn rest(&mut self) -> Result<Vec<u8>, Error> {
        loop {
            match self.read() {
                Ok(0) => return self.take(self.received.len() - self.taken),
                Ok(_) => {}
                Err(source) => return Err(self.broken(source)),
            }
        }
    }
}

fn malformed(what: &str, text: &str) -> Error {
    Error::Malformed(format!("{what} {text:?}"))
}
