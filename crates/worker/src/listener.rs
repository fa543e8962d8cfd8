//! The sockets of a worker, in the shape of Tokio's.

use std::net::SocketAddr;
use std::ops::Deref;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::sync::Arc;
use std::{future, io};

use tokio::net::{self, TcpStream, UnixStream, unix};
use tokio::sync::{Notify, watch};
use tokio::time::Instant;

use crate::error::Drained;
use crate::link::Link;
use crate::session::{Phase, Taken};

/// A TCP listener whose connections this worker shares with the other workers of its app.
///
/// Dropping it closes the worker's server: connections that wait for it go to other workers.
#[derive(Debug)]
pub struct Listener {
    source: Source<net::TcpListener>,
    local: SocketAddr,
}

/// A Unix stream listener whose connections this worker shares with the other workers of its app.
///
/// Dropping it closes the worker's server: connections that wait for it go to other workers.
#[derive(Debug)]
pub struct UnixListener {
    source: Source<net::UnixListener>,
    path: PathBuf,
}

/// A UDP socket at an address that all workers of the app share; use it as Tokio's.
///
/// Dropping it tells the primary that this worker does not read it any more.
#[derive(Debug)]
pub struct UdpSocket {
    socket: net::UdpSocket,
    _claim: Option<Claim>,
}

/// Where connections come from.
#[derive(Debug)]
pub(crate) enum Source<L> {
    /// The primary accepts them and hands them over.
    HandedOver { claim: Claim },
    /// The primary shares its socket; all workers accept.
    Shared { listener: L, claim: Claim },
    /// There is no primary.
    Own { listener: L, phase: watch::Receiver<Phase> },
}

/// A connection, by the way that it came.
enum Connection<T> {
    HandedOver(OwnedFd),
    Accepted(T),
}

/// This worker's part in a server of the primary; dropping it closes that part.
#[derive(Debug)]
pub(crate) struct Claim {
    link: Arc<Link>,
    key: String,
    bell: Arc<Notify>,
}

impl Listener {
    pub(crate) fn new(source: Source<net::TcpListener>, local: SocketAddr) -> Self {
        Self { source, local }
    }

    /// Accepts the next connection.
    ///
    /// # Errors
    /// With [`Drained`] inside when the worker drains: no further connection comes. Others are those of Tokio's
    /// `TcpListener::accept`.
    ///
    /// # Cancel safety
    /// No connection is lost when the future is dropped.
    pub async fn accept(&self) -> io::Result<(TcpStream, SocketAddr)> {
        loop {
            let connection = match self.source.next(net::TcpListener::accept).await? {
                Connection::HandedOver(connection) => connection,
                Connection::Accepted(accepted) => return Ok(accepted),
            };
            let stream = std::net::TcpStream::from(connection);
            stream.set_nonblocking(true)?;
            // A client that is gone already has no address any more: there is nobody to serve.
            if let Ok(peer) = stream.peer_addr() {
                return Ok((TcpStream::from_std(stream)?, peer));
            }
        }
    }

    #[cfg(feature = "serve")]
    pub(crate) fn source(&self) -> &Source<net::TcpListener> {
        &self.source
    }

    /// Returns the address that the app listens on, with the port that the kernel chose for port 0.
    #[expect(clippy::unnecessary_wraps, reason = "the shape of Tokio's, so that either fits")]
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        Ok(self.local)
    }
}

impl UnixListener {
    pub(crate) fn new(source: Source<net::UnixListener>, path: PathBuf) -> Self {
        Self { source, path }
    }

    /// Accepts the next connection.
    ///
    /// # Errors
    /// With [`Drained`] inside when the worker drains: no further connection comes. Others are those of Tokio's
    /// `UnixListener::accept`.
    ///
    /// # Cancel safety
    /// No connection is lost when the future is dropped.
    pub async fn accept(&self) -> io::Result<(UnixStream, unix::SocketAddr)> {
        let connection = match self.source.next(net::UnixListener::accept).await? {
            Connection::HandedOver(connection) => connection,
            Connection::Accepted(accepted) => return Ok(accepted),
        };
        let stream = std::os::unix::net::UnixStream::from(connection);
        stream.set_nonblocking(true)?;
        let stream = UnixStream::from_std(stream)?;
        let peer = stream.peer_addr()?;
        Ok((stream, peer))
    }

    #[cfg(feature = "serve")]
    pub(crate) fn source(&self) -> &Source<net::UnixListener> {
        &self.source
    }

    /// Returns the path that the app listens on.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl UdpSocket {
    pub(crate) fn new(socket: net::UdpSocket, claim: Option<Claim>) -> Self {
        Self { socket, _claim: claim }
    }
}

impl Deref for UdpSocket {
    type Target = net::UdpSocket;

    fn deref(&self) -> &net::UdpSocket {
        &self.socket
    }
}

impl<L> Source<L> {
    /// Waits for the next connection.
    async fn next<T>(&self, accept: impl AsyncFn(&L) -> io::Result<T>) -> io::Result<Connection<T>> {
        match self {
            Self::HandedOver { claim } => Ok(Connection::HandedOver(claim.next().await?)),
            Self::Shared { listener, claim } => tokio::select! {
                biased;
                given = claim.next() => Ok(Connection::HandedOver(given?)),
                accepted = claim.accept(accept(listener)) => Ok(Connection::Accepted(accepted?)),
            },
            Self::Own { listener, phase } => {
                unless_drained(phase.clone(), accept(listener)).await.map(Connection::Accepted)
            }
        }
    }
}

#[cfg(feature = "serve")]
impl<L> Source<L> {
    /// Returns the link to the primary, if there is one.
    pub(crate) fn link(&self) -> Option<&Arc<Link>> {
        self.server().map(|(link, _key)| link)
    }

    /// Returns the link to the primary, if there is one, and what the server is called there.
    pub(crate) fn server(&self) -> Option<(&Arc<Link>, &str)> {
        match self {
            Self::HandedOver { claim } | Self::Shared { claim, .. } => Some((&claim.link, &claim.key)),
            Self::Own { .. } => None,
        }
    }

    /// Waits until open connections are to end.
    pub(crate) async fn parting(&self) {
        let (mut phase, parts) = match self {
            Self::HandedOver { claim } | Self::Shared { claim, .. } => (claim.link.phase(), Phase::Parting),
            Self::Own { phase, .. } => (phase.clone(), Phase::Draining),
        };
        // Fails only when the worker is gone.
        drop(phase.wait_for(|phase| *phase >= parts).await);
        if let Some(link) = self.link() {
            link.first_requests().await;
        }
    }
}

impl Claim {
    pub(crate) fn new(link: Arc<Link>, key: String, bell: Arc<Notify>) -> Self {
        Self { link, key, bell }
    }

    /// Takes the next connection that the primary handed over.
    async fn next(&self) -> Result<OwnedFd, Drained> {
        loop {
            let mut rung = pin!(self.bell.notified());
            // Before the look, so that none comes between it and the registration.
            rung.as_mut().enable();
            match self.take() {
                Taken::Connection(connection) => return Ok(connection),
                Taken::NoneWaits => rung.await,
                Taken::ServerClosed => {
                    self.link.first_requests().await;
                    return Err(Drained);
                }
            }
        }
    }

    /// Accepts from a socket that all workers share; never, once the worker drains.
    ///
    /// What another worker gave back comes by [`next`](Self::next), and so does the end.
    async fn accept<T>(&self, accept: impl Future<Output = io::Result<T>>) -> io::Result<T> {
        let accepted = unless_drained(self.link.phase(), accept).await;
        match &accepted {
            Ok(_) => self.link.step(|session| {
                session.note_counted(&self.key);
                session.note_taken(Instant::now());
            }),
            Err(error) if Drained::caused(error) => future::pending().await,
            Err(_) => {}
        }
        accepted
    }

    fn take(&self) -> Taken {
        self.link.step(|session| session.take_connection(&self.key, &self.bell, Instant::now()))
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        self.link.step(|session| session.release(&self.key, &self.bell));
    }
}

/// Accepts from a socket of this process until the worker drains.
async fn unless_drained<T>(
    mut phase: watch::Receiver<Phase>,
    accept: impl Future<Output = io::Result<T>>,
) -> io::Result<T> {
    tokio::select! {
        biased;
        _ = phase.wait_for(|phase| *phase >= Phase::Draining) => Err(Drained.into()),
        accepted = accept => accepted,
    }
}

/// Waits before the next `accept()`: an error such as "too many open files" stays for a while.
#[cfg(any(feature = "axum", feature = "serve"))]
pub(crate) async fn pause(error: &io::Error) {
    /// As long as axum waits.
    const PAUSE: std::time::Duration = std::time::Duration::from_secs(1);
    if !matches!(error.kind(), io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset) {
        tokio::time::sleep(PAUSE).await;
    }
}

#[cfg(feature = "axum")]
mod axum {
    use std::io;
    use std::net::SocketAddr;

    use ::axum::serve;
    use tokio::net::{TcpStream, UnixStream, unix};

    use super::{Listener, UnixListener, pause};
    use crate::error::Drained;

    impl serve::Listener for Listener {
        type Io = TcpStream;
        type Addr = SocketAddr;

        async fn accept(&mut self) -> (TcpStream, SocketAddr) {
            loop {
                match Self::accept(self).await {
                    Ok(accepted) => return accepted,
                    Err(error) => retry(&error).await,
                }
            }
        }

        fn local_addr(&self) -> io::Result<SocketAddr> {
            Self::local_addr(self)
        }
    }

    impl serve::Listener for UnixListener {
        type Io = UnixStream;
        type Addr = unix::SocketAddr;

        async fn accept(&mut self) -> (UnixStream, unix::SocketAddr) {
            loop {
                match Self::accept(self).await {
                    Ok(accepted) => return accepted,
                    Err(error) => retry(&error).await,
                }
            }
        }

        fn local_addr(&self) -> io::Result<unix::SocketAddr> {
            std::os::unix::net::SocketAddr::from_pathname(self.path()).map(Into::into)
        }
    }

    /// Waits before the next try; for ever on a worker that drains, where axum ends by its shutdown signal.
    async fn retry(error: &io::Error) {
        if Drained::caused(error) {
            std::future::pending::<()>().await;
        }
        pause(error).await;
    }
}
