//! An HTTP client that says every byte by itself.

use std::net::SocketAddr;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// A connection of a client.
pub(crate) struct Client {
    stream: TcpStream,
    unread: Vec<u8>,
}

/// An answer, its head in lower case.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) head: String,
    pub(crate) body: Vec<u8>,
}

impl Client {
    pub(crate) fn new(stream: std::net::TcpStream) -> Self {
        stream.set_nonblocking(true).expect("a socket");
        Self { stream: TcpStream::from_std(stream).expect("a runtime"), unread: Vec::new() }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.stream.local_addr().expect("connected")
    }

    #[cfg(feature = "http2")]
    pub(crate) fn into_stream(self) -> TcpStream {
        self.stream
    }

    pub(crate) async fn send(&mut self, text: &str) {
        self.stream.write_all(text.as_bytes()).await.expect("open");
    }

    /// Returns what comes up to a mark, with it.
    pub(crate) async fn read_until(&mut self, mark: &str) -> String {
        loop {
            let found = self.unread.windows(mark.len()).position(|window| window == mark.as_bytes());
            if let Some(at) = found {
                let text = self.unread.drain(..at + mark.len()).collect();
                return String::from_utf8(text).expect("text");
            }
            self.more().await;
        }
    }

    /// Returns the next answer, whose length has to be known.
    pub(crate) async fn answer(&mut self) -> Answer {
        let head = self.read_until("\r\n\r\n").await.to_lowercase();
        let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
        let length: usize = length.expect("a length").parse().expect("a number");
        while self.unread.len() < length {
            self.more().await;
        }
        Answer { body: self.unread.drain(..length).collect(), head }
    }

    /// Asks, and returns the text of the answer.
    pub(crate) async fn get(&mut self, path: &str) -> String {
        self.send(&request(path)).await;
        String::from_utf8(self.answer().await.body).expect("text")
    }

    /// Waits for the end of the connection; nothing may come before it.
    pub(crate) async fn closed(mut self) {
        let mut rest = self.unread;
        self.stream.read_to_end(&mut rest).await.expect("no reset");
        assert!(rest.is_empty(), "{:?}", String::from_utf8_lossy(&rest));
    }

    pub(crate) async fn shutdown(&mut self) {
        self.stream.shutdown().await.expect("open");
    }

    async fn more(&mut self) {
        let count = self.stream.read_buf(&mut self.unread).await.expect("open");
        assert!(count > 0, "closed after {:?}", String::from_utf8_lossy(&self.unread));
    }
}

impl Answer {
    pub(crate) fn closes(&self) -> bool {
        self.head.contains("\r\nconnection: close\r\n")
    }
}

pub(crate) fn request(path: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nhost: x\r\n\r\n")
}
