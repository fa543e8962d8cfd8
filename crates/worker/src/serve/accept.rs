//! The listeners that can be served.

use std::future::Future;
use std::io;
use std::os::fd::AsFd;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{self, TcpStream, UnixStream};

use super::service::PeerAddress;
use crate::listener::{Listener, Source, UnixListener};

/// A listener that [`serve`](crate::serve) can serve: a [`Listener`] or a [`UnixListener`].
#[derive(Debug)]
pub struct AnyListener(pub(super) Kind);

#[derive(Debug)]
pub(super) enum Kind {
    Tcp(Listener),
    Unix(UnixListener),
}

impl From<Listener> for AnyListener {
    fn from(listener: Listener) -> Self {
        Self(Kind::Tcp(listener))
    }
}

impl From<UnixListener> for AnyListener {
    fn from(listener: UnixListener) -> Self {
        Self(Kind::Unix(listener))
    }
}

/// What both kinds have in common.
pub(super) trait Accept {
    type Socket;
    type Stream: Stream;

    fn source(&self) -> &Source<Self::Socket>;

    fn accept(&self) -> impl Future<Output = io::Result<(Self::Stream, Option<PeerAddress>)>> + Send;
}

/// A connection's socket.
pub(super) trait Stream: AsyncRead + AsyncWrite + AsFd + Unpin + Send + 'static {}

impl Stream for TcpStream {}
impl Stream for UnixStream {}

impl Accept for Listener {
    type Socket = net::TcpListener;
    type Stream = TcpStream;

    fn source(&self) -> &Source<net::TcpListener> {
        self.source()
    }

    async fn accept(&self) -> io::Result<(TcpStream, Option<PeerAddress>)> {
        let (stream, peer) = self.accept().await?;
        Ok((stream, Some(PeerAddress(peer))))
    }
}

impl Accept for UnixListener {
    type Socket = net::UnixListener;
    type Stream = UnixStream;

    fn source(&self) -> &Source<net::UnixListener> {
        self.source()
    }

    async fn accept(&self) -> io::Result<(UnixStream, Option<PeerAddress>)> {
        let (stream, _unnamed) = self.accept().await?;
        Ok((stream, None))
    }
}
