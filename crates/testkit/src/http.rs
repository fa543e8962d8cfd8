//! A small HTTP/1.1 client that is strict about what it gets, and says exactly how far a failed exchange came.

use std::fmt;
use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use crate::patience::patience;

mod read;

/// Where a server listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Address {
    /// A TCP address.
    Tcp(SocketAddr),
    /// The path of a Unix socket.
    Unix(PathBuf),
}

impl From<u16> for Address {
    /// The port on 127.0.0.1.
    fn from(port: u16) -> Self {
        Self::Tcp(SocketAddr::from(([127, 0, 0, 1], port)))
    }
}

impl From<SocketAddr> for Address {
    fn from(address: SocketAddr) -> Self {
        Self::Tcp(address)
    }
}

impl From<&Path> for Address {
    fn from(path: &Path) -> Self {
        Self::Unix(path.to_owned())
    }
}

/// How an exchange failed; what a client may conclude differs.
#[derive(Debug)]
pub enum Error {
    /// There is no connection: refused, or no such socket.
    Connect(io::Error),
    /// The connection ended, or the patience, before the first byte of an answer.
    NoAnswer(io::Error),
    /// The answer began and was cut.
    Cut {
        /// How many bytes of it arrived.
        received: usize,
        /// How it was cut; an end of file is `UnexpectedEof`.
        source: io::Error,
    },
    /// What came is not an answer, or more than one.
    Malformed(String),
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Connect(source) => write!(f, "could not connect: {source}"),
            Self::NoAnswer(source) => write!(f, "no byte of an answer: {source}"),
            Self::Cut { received, source } => {
                write!(f, "the answer was cut after {received} bytes: {source}")
            }
            Self::Malformed(what) => write!(f, "malformed answer: {what}"),
        }
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Connect(source) | Self::NoAnswer(source) | Self::Cut { source, .. } => Some(source),
            Self::Malformed(_) => None,
        }
    }
}

/// A complete answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Response {
    /// The status code.
    pub status: u16,
    /// Names, in lower case, and values, in their order.
    pub headers: Vec<(String, String)>,
    /// The body without its transfer encoding.
    pub body: Vec<u8>,
}

impl Response {
    /// Returns the first value of a header, by its name in lower case.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(present, _)| present == name).map(|(_, value)| value.as_str())
    }

    /// Returns the body as text.
    #[must_use]
    #[track_caller]
    pub fn text(&self) -> &str {
        std::str::from_utf8(&self.body).expect("the body is text")
    }

    /// Returns the body as JSON.
    #[must_use]
    #[track_caller]
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body)
            .unwrap_or_else(|error| panic!("{error} in {:?}", String::from_utf8_lossy(&self.body)))
    }

    /// Returns the pid in a JSON body, which the Node and Python fixtures answer with.
    #[must_use]
    #[track_caller]
    pub fn json_pid(&self) -> u32 {
        self.json()["pid"].as_u64().and_then(|pid| u32::try_from(pid).ok()).expect("the answer has a pid")
    }
}

/// Gets a path over a connection of its own, which is closed after it.
pub fn get(address: impl Into<Address>, path: &str) -> Result<Response, Error> {
    let mut connection = Connection::open(address)?;
    let response = connection.request("GET", path, &[("connection", "close")], b"")?;
    connection.expect_nothing_more()?;
    Ok(response)
}

/// A connection that is kept for several requests, one after the other.
#[derive(Debug)]
pub struct Connection {
    stream: Stream,
    /// Read, but not yet part of an answer that was returned.
    received: Vec<u8>,
}

#[derive(Debug)]
enum Stream {
    Tcp(TcpStream),
    Unix(UnixStream),
}

impl Connection {
    /// Connects, with the usual patience for each read and write.
    pub fn open(address: impl Into<Address>) -> Result<Self, Error> {
        let stream = Stream::connect(&address.into()).map_err(Error::Connect)?;
        Ok(Self { stream, received: Vec::new() })
    }

    /// Goes on with a connection that was made in another way, with the usual patience for each read and write.
    pub fn over(stream: TcpStream) -> Result<Self, Error> {
        let stream = Stream::of(stream).map_err(Error::Connect)?;
        Ok(Self { stream, received: Vec::new() })
    }

    /// Gets a path and keeps the connection.
    pub fn get(&mut self, path: &str) -> Result<Response, Error> {
        self.request("GET", path, &[], b"")
    }

    /// Sends a request and reads its answer.
    pub fn request(
        &mut self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> Result<Response, Error> {
        self.expect_nothing_more()?;
        let mut request = format!("{method} {path} HTTP/1.1\r\nhost: localhost\r\n");
        for (name, value) in headers {
            request.extend([name, ": ", value, "\r\n"]);
        }
        if !body.is_empty() {
            request.extend(["content-length: ", &body.len().to_string(), "\r\n"]);
        }
        request.push_str("\r\n");
        let mut request = request.into_bytes();
        request.extend_from_slice(body);
        self.send(&request)?;
        self.read_response(method == "HEAD")
    }

    /// Sends bytes as they are, such as half a request.
    pub fn send(&mut self, bytes: &[u8]) -> Result<(), Error> {
        self.stream.write_all(bytes).map_err(Error::NoAnswer)
    }

    /// Reads the next answer; one to a `HEAD` request has no body.
    pub fn read_response(&mut self, to_head: bool) -> Result<Response, Error> {
        read::response(&mut self.stream, &mut self.received, to_head)
    }

    /// Closes our half of the connection: the server sees the end of what we send.
    pub fn finish(&mut self) -> Result<(), Error> {
        let finished = match &self.stream {
            Stream::Tcp(stream) => stream.shutdown(Shutdown::Write),
            Stream::Unix(stream) => stream.shutdown(Shutdown::Write),
        };
        finished.map_err(Error::NoAnswer)
    }

    /// Reads until the server closes the connection, and returns what came before.
    pub fn read_to_end(&mut self) -> Result<Vec<u8>, Error> {
        let mut bytes = std::mem::take(&mut self.received);
        match self.stream.read_to_end(&mut bytes) {
            Ok(_) => Ok(bytes),
            Err(source) => Err(Error::Cut { received: bytes.len(), source }),
        }
    }

    /// Returns the local port of a TCP connection.
    #[must_use]
    pub fn local_port(&self) -> Option<u16> {
        match &self.stream {
            Stream::Tcp(stream) => stream.local_addr().ok().map(|address| address.port()),
            Stream::Unix(_) => None,
        }
    }

    fn expect_nothing_more(&self) -> Result<(), Error> {
        match self.received.len() {
            0 => Ok(()),
            count => Err(Error::Malformed(format!("{count} bytes after the end of the answer"))),
        }
    }
}

impl Stream {
    fn of(stream: TcpStream) -> io::Result<Self> {
        let patience = Some(patience());
        stream.set_nodelay(true)?;
        stream.set_read_timeout(patience)?;
        stream.set_write_timeout(patience)?;
        Ok(Self::Tcp(stream))
    }

    fn connect(address: &Address) -> io::Result<Self> {
        match address {
            Address::Tcp(address) => Self::of(TcpStream::connect(address)?),
            Address::Unix(path) => {
                let patience = Some(patience());
                let stream = UnixStream::connect(path)?;
                stream.set_read_timeout(patience)?;
                stream.set_write_timeout(patience)?;
                Ok(Self::Unix(stream))
            }
        }
    }
}

impl Read for Stream {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Tcp(stream) => stream.read(buffer),
            Self::Unix(stream) => stream.read(buffer),
        }
    }
}

impl Write for Stream {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Tcp(stream) => stream.write(bytes),
            Self::Unix(stream) => stream.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests;
