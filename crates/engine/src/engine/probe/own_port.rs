//! A worker that is asked on a port which its predecessor has, too (`SO_REUSEPORT`), and nobody in its place.
//!
//! The kernel chooses who gets a connection. So who has accepted one is looked up, and another one is made until it is the
//! worker.

use std::collections::HashSet;
use std::future::pending;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::sync::Arc;
use std::time::Duration;

use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::task::spawn_blocking;
use tokio::time::{sleep, timeout};

use super::Failure;
use crate::holder::{self, Held, Holder};
use crate::process::mark::Mark;
use crate::process::tree;

/// How soon it is looked again whether somebody has accepted a connection.
const LOOK_EVERY: Duration = Duration::from_millis(10);
/// How long a connection may wait for that before it is asked something: some servers accept only what says something
/// (`TCP_DEFER_ACCEPT`).
const WITHOUT_DATA: Duration = Duration::from_millis(300);

/// A worker, and the port that is its own.
#[derive(Debug)]
pub(super) struct OwnPort {
    pub(super) port: u16,
    pub(super) leader: u32,
    pub(super) mark: Mark,
}

impl OwnPort {
    /// Returns a connection that the worker has accepted, on which the request is sent.
    ///
    /// The end of the request is sent when it is known who has accepted the connection: who has answered may close it, and then
    /// nobody has it.
    pub(super) async fn reach(self, request: &str) -> Result<TcpStream, Failure> {
        let port = self.port;
        let own = Arc::new(self);
        loop {
            // Each time: some servers start the processes that accept after they have begun to listen.
            let processes = who_listens(&own).await?;
            let mut stream = connect(port).await?;
            let (mut head, end) = request.split_at(request.len().saturating_sub("\r\n".len()));
            let early = timeout(WITHOUT_DATA, is_accepted(&processes, port, &stream)).await;
            let is_its_own = match early {
                Ok(is_its_own) => is_its_own?,
                Err(_silent) => {
                    stream.write_all(head.as_bytes()).await.map_err(Failure::Broken)?;
                    head = "";
                    is_accepted(&processes, port, &stream).await?
                }
            };
            if is_its_own {
                stream.write_all([head, end].concat().as_bytes()).await.map_err(Failure::Broken)?;
                return Ok(stream);
            }
            sleep(LOOK_EVERY).await;
        }
    }
}

/// Returns the worker's processes, if one of them listens on its port.
async fn who_listens(own: &Arc<OwnPort>) -> Result<Arc<HashSet<u32>>, Failure> {
    let (port, own) = (own.port, Arc::clone(own));
    let looked = spawn_blocking(move || {
        let processes = tree::members(own.leader, &own.mark);
        if holder::listens(&processes, port) { Ok(processes) } else { Err(holder::find(Held::Tcp(port))) }
    });
    match looked.await {
        Ok(Ok(processes)) => Ok(Arc::new(processes)),
        Ok(Err(holder)) => Err(not_its_own(port, holder)),
        Err(_ended) => Err(Failure::Closed),
    }
}

fn not_its_own(port: u16, holder: Option<Holder>) -> Failure {
    match holder {
        Some(holder) => Failure::OfAnother { port, holder },
        None => Failure::NotListening { port },
    }
}

/// Waits until somebody has accepted a connection. Returns whether that is one of these processes, as far as it can be seen:
/// it has to have it still.
async fn is_accepted(
    processes: &Arc<HashSet<u32>>,
    server: u16,
    stream: &TcpStream,
) -> Result<bool, Failure> {
    let client = stream.local_addr().map_err(Failure::NoConnection)?.port();
    let accepted = async {
        loop {
            let processes = Arc::clone(processes);
            let looked = spawn_blocking(move || holder::has_accepted(&processes, server, client));
            match looked.await {
                Ok(Some(is_it)) => return is_it,
                Ok(None) => sleep(LOOK_EVERY).await,
                Err(_ended) => return false,
            }
        }
    };
    tokio::select! {
        is_it = accepted => Ok(is_it),
        () = closed(stream) => Ok(false),
    }
}

/// Waits until the other end has closed a connection without a word.
async fn closed(stream: &TcpStream) {
    if let Ok(1..) = stream.peek(&mut [0]).await {
        pending::<()>().await;
    }
}

/// Connects to a port of this machine, wherever on it the worker listens.
async fn connect(port: u16) -> Result<TcpStream, Failure> {
    match TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await {
        Ok(stream) => Ok(stream),
        Err(source) => TcpStream::connect((Ipv6Addr::LOCALHOST, port))
            .await
            .map_err(|_neither: io::Error| Failure::NotConnected { port, source }),
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncReadExt;
    use tokio::net::TcpListener;

    use super::*;
    use crate::ids::{AppId, WorkerId};
    use crate::process::mark::Stamp;

    #[tokio::test]
    async fn who_accepts_late_answers_at_once_and_closes_is_known_all_the_same() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let port = listener.local_addr().expect("an address").port();
        tokio::spawn(async move {
            sleep(WITHOUT_DATA * 2).await;
            let (mut stream, _) = listener.accept().await.expect("a connection");
            let mut request = Vec::new();
            while !request.ends_with(b"\r\n\r\n") {
                stream.read_buf(&mut request).await.expect("a request");
            }
            stream.write_all(&request).await.expect("somebody reads");
        });
        let mark = Stamp::new().mark(WorkerId { app: AppId(1), number: 1 });
        let own = OwnPort { port, leader: std::process::id(), mark };
        let request = "GET / HTTP/1.1\r\nhost: a\r\n\r\n";
        let reached = timeout(Duration::from_secs(20), own.reach(request)).await.expect("it is seen");
        let mut answer = String::new();
        reached.expect("it listens").read_to_string(&mut answer).await.expect("an answer");
        assert_eq!(answer, request);
    }
}
