//! A worker that is asked on a port which its predecessor has, too (`SO_REUSEPORT`), and nobody in its place.
//!
//! The kernel chooses who gets a connection. So who has accepted one is looked up, and another one is made until it is the
//! worker.

use std::collections::HashSet;
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
    pub(super) async fn reach(self, request: &str) -> Result<TcpStream, Failure> {
        let port = self.port;
        let looked = spawn_blocking(move || {
            let processes = tree::members(self.leader, &self.mark);
            if holder::listens(&processes, port) { Ok(processes) } else { Err(holder::find(Held::Tcp(port))) }
        });
        let processes = match looked.await {
            Ok(Ok(processes)) => Arc::new(processes),
            Ok(Err(holder)) => return Err(not_its_own(port, holder)),
            Err(_ended) => return Err(Failure::Closed),
        };
        loop {
            let mut stream = connect(port).await?;
            let client = stream.local_addr().map_err(Failure::NoConnection)?.port();
            // Before it is asked anything: it may close the connection as soon as it has answered.
            let early = timeout(WITHOUT_DATA, is_accepted(&processes, port, client)).await;
            if early == Ok(false) {
                continue;
            }
            stream.write_all(request.as_bytes()).await.map_err(Failure::Broken)?;
            if early == Ok(true) || is_accepted(&processes, port, client).await {
                return Ok(stream);
            }
        }
    }
}

fn not_its_own(port: u16, holder: Option<Holder>) -> Failure {
    match holder {
        Some(holder) => Failure::OfAnother { port, holder },
        None => Failure::NotListening { port },
    }
}

/// Waits until somebody has accepted a connection. Returns whether that is one of these processes.
async fn is_accepted(processes: &Arc<HashSet<u32>>, server: u16, client: u16) -> bool {
    loop {
        let processes = Arc::clone(processes);
        let looked = spawn_blocking(move || holder::has_accepted(&processes, server, client));
        match looked.await {
            Ok(Some(is_it)) => return is_it,
            Ok(None) => sleep(LOOK_EVERY).await,
            Err(_ended) => return false,
        }
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
