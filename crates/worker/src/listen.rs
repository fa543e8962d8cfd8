//! Asking for sockets: the primary, or the kernel when there is no primary.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;

use rustix::io::Errno;
use tokio::net;
use tokio::sync::oneshot;
use worksong_channel::message::{AddressType, ServerQuery, SockName};

use crate::address::{Address, Kind};
use crate::error::{Drained, ListenError};
use crate::link::Link;
use crate::listener::{Claim, Listener, Source, UdpSocket, UnixListener};
use crate::session::{Granted, Phase};
use crate::worker::Primary;

/// The length of the listen queue, Node's default.
const BACKLOG: i32 = 511;

pub(crate) async fn tcp(primary: &Primary, address: Address) -> Result<Listener, ListenError> {
    let name = address.to_string();
    let address = Target::find(address).await?;
    let link = match primary {
        Primary::Linked(link) => link,
        Primary::Absent(_) => {
            let listener = match address {
                Target::Socket(address) => net::TcpListener::bind(address).await,
                Target::AllInterfaces(port) => match net::TcpListener::bind(v6(port)).await {
                    Err(error) if lacks_v6(&error) => net::TcpListener::bind(v4(port)).await,
                    result => result,
                },
            };
            let (listener, local) = listener
                .and_then(|listener| listener.local_addr().map(|local| (listener, local)))
                .map_err(|source| ListenError::Bind { address: name, source })?;
            return Ok(Listener::new(Source::Own { listener, phase: primary.phase() }, local));
        }
    };
    let mut query = address.tcp_query();
    let grant = ask(link, &mut query, &name).await?;
    let (source, local) = if let Some(socket) = grant.socket {
        let listener = shared(socket, |socket| net::TcpListener::from_std(socket.into()))
            .and_then(|listener| listener.local_addr().map(|local| (listener, local)));
        let (listener, local) = listener.map_err(|source| ListenError::Shared { address: name, source })?;
        (Source::Shared { listener, claim: grant.claim }, local)
    } else {
        let local = grant.sockname.as_ref().and_then(socket_address).or(address.socket());
        let local = local.ok_or(ListenError::Answer { address: name })?;
        (Source::HandedOver { claim: grant.claim }, local)
    };
    query.port = Some(local.port().into());
    link.step(|session| session.listening(&query));
    Ok(Listener::new(source, local))
}

pub(crate) async fn unix(primary: &Primary, path: &Path) -> Result<UnixListener, ListenError> {
    let name = path.display().to_string();
    let bind = |source: io::Error| ListenError::Bind { address: name.clone(), source };
    let link = match primary {
        Primary::Linked(link) => link,
        Primary::Absent(_) => {
            let listener = net::UnixListener::bind(path).map_err(bind)?;
            return Ok(UnixListener::new(Source::Own { listener, phase: primary.phase() }, path.to_owned()));
        }
    };
    let path = std::path::absolute(path).map_err(bind)?;
    let text = path.to_str().ok_or_else(|| bind(io::ErrorKind::InvalidFilename.into()))?;
    let mut query = ServerQuery {
        address: Some(text.to_owned()),
        port: Some(-1),
        address_type: AddressType::Path,
        ..ServerQuery::default()
    };
    let grant = ask(link, &mut query, &name).await?;
    let source = match grant.socket {
        Some(socket) => {
            let listener = shared(socket, |socket| net::UnixListener::from_std(socket.into()))
                .map_err(|source| ListenError::Shared { address: name, source })?;
            Source::Shared { listener, claim: grant.claim }
        }
        None => Source::HandedOver { claim: grant.claim },
    };
    link.step(|session| session.listening(&query));
    Ok(UnixListener::new(source, path))
}

pub(crate) async fn udp(primary: &Primary, address: Address) -> Result<UdpSocket, ListenError> {
    let name = address.to_string();
    match Target::find(address).await? {
        Target::Socket(address) => bind_udp(primary, address, &name).await,
        Target::AllInterfaces(port) => match bind_udp(primary, v6(port), &name).await {
            Err(ListenError::Bind { source, .. }) if lacks_v6(&source) => {
                bind_udp(primary, v4(port), &name).await
            }
            result => result,
        },
    }
}

async fn bind_udp(primary: &Primary, address: SocketAddr, name: &str) -> Result<UdpSocket, ListenError> {
    let link = match primary {
        Primary::Linked(link) => link,
        Primary::Absent(_) => {
            let socket = net::UdpSocket::bind(address).await;
            let socket = socket.map_err(|source| ListenError::Bind { address: name.to_owned(), source })?;
            return Ok(UdpSocket::new(socket, None));
        }
    };
    let mut query = ServerQuery {
        address: Some(address.ip().to_string()),
        port: Some(address.port().into()),
        address_type: if address.is_ipv4() { AddressType::Udp4 } else { AddressType::Udp6 },
        fd: Some(-1),
        flags: Some(0),
        ..ServerQuery::default()
    };
    let grant = ask(link, &mut query, name).await?;
    let socket = grant.socket.ok_or_else(|| ListenError::Answer { address: name.to_owned() })?;
    let opened = non_blocking(socket)
        .and_then(|socket| net::UdpSocket::from_std(socket.into()))
        .and_then(|socket| socket.local_addr().map(|local| (socket, local)));
    let (socket, local) =
        opened.map_err(|source| ListenError::Shared { address: name.to_owned(), source })?;
    query.port = Some(local.port().into());
    link.step(|session| session.listening(&query));
    Ok(UdpSocket::new(socket, Some(grant.claim)))
}

/// A server that the primary granted; dropping it gives it back.
struct Grant {
    claim: Claim,
    sockname: Option<SockName>,
    socket: Option<OwnedFd>,
}

async fn ask(link: &Arc<Link>, query: &mut ServerQuery, name: &str) -> Result<Grant, ListenError> {
    let address = || name.to_owned();
    link.ensure_task().map_err(|source| ListenError::Channel { source })?;
    let (seq, answer) = link
        .step(|session| session.ask_server(query))
        .ok_or_else(|| ListenError::Draining { address: address(), source: Drained })?;
    let mut asked = Asked { link, seq, answer };
    let Ok(Granted { reply, socket, bell }) = (&mut asked.answer).await else {
        return Err(match *link.phase().borrow() {
            Phase::Serving => ListenError::Answer { address: address() },
            Phase::Draining | Phase::Parting | Phase::Closed | Phase::Lost => {
                ListenError::Draining { address: address(), source: Drained }
            }
        });
    };
    if reply.errno != 0 {
        let errno = i32::try_from(-reply.errno).unwrap_or(0);
        return Err(ListenError::Bind { address: address(), source: io::Error::from_raw_os_error(errno) });
    }
    Ok(Grant { claim: Claim::new(Arc::clone(link), reply.key, bell), sockname: reply.sockname, socket })
}

/// A query on its way; dropping it takes the query back.
struct Asked<'a> {
    link: &'a Arc<Link>,
    seq: u64,
    answer: oneshot::Receiver<Granted>,
}

impl Drop for Asked<'_> {
    fn drop(&mut self) {
        self.link.step(|session| session.cancel(self.seq));
        self.answer.close();
        if let Ok(Granted { reply, bell, .. }) = self.answer.try_recv() {
            self.link.step(|session| session.release(&reply.key, &bell));
        }
    }
}

/// A TCP or UDP address without names.
#[derive(Clone, Copy)]
enum Target {
    AllInterfaces(u16),
    Socket(SocketAddr),
}

impl Target {
    async fn find(address: Address) -> Result<Self, ListenError> {
        let (host, port) = match address.0 {
            Kind::AllInterfaces(port) => return Ok(Self::AllInterfaces(port)),
            Kind::Socket(address) => return Ok(Self::Socket(address)),
            Kind::Name { host, port } => (host, port),
        };
        let found = match net::lookup_host((host.as_str(), port)).await {
            Ok(mut addresses) => addresses.next().ok_or_else(|| io::ErrorKind::NotFound.into()),
            Err(error) => Err(error),
        };
        found.map(Self::Socket).map_err(|source| ListenError::Resolve { host, source })
    }

    fn tcp_query(self) -> ServerQuery {
        match self {
            Self::AllInterfaces(port) => {
                ServerQuery { port: Some(port.into()), flags: Some(0), ..ServerQuery::default() }
            }
            Self::Socket(address) => ServerQuery {
                address: Some(address.ip().to_string()),
                port: Some(address.port().into()),
                address_type: if address.is_ipv4() { AddressType::V4 } else { AddressType::V6 },
                flags: Some(0),
                ..ServerQuery::default()
            },
        }
    }

    fn socket(self) -> Option<SocketAddr> {
        match self {
            Self::AllInterfaces(_) => None,
            Self::Socket(address) => Some(address),
        }
    }
}

/// Opens a socket that the primary bound and all workers accept from; the primary leaves `listen(2)` to them.
fn shared<L>(socket: OwnedFd, open: impl FnOnce(OwnedFd) -> io::Result<L>) -> io::Result<L> {
    rustix::net::listen(&socket, BACKLOG)?;
    non_blocking(socket).and_then(open)
}

fn non_blocking(socket: OwnedFd) -> io::Result<OwnedFd> {
    rustix::io::ioctl_fionbio(&socket, true)?;
    Ok(socket)
}

fn socket_address(name: &SockName) -> Option<SocketAddr> {
    // A link-local address is followed by its interface.
    let host = name.address.split('%').next().unwrap_or_default();
    host.parse::<IpAddr>().ok().map(|host| SocketAddr::new(host, name.port))
}

fn v6(port: u16) -> SocketAddr {
    SocketAddr::from((std::net::Ipv6Addr::UNSPECIFIED, port))
}

fn v4(port: u16) -> SocketAddr {
    SocketAddr::from((std::net::Ipv4Addr::UNSPECIFIED, port))
}

/// Returns true for the errors of a machine without IPv6.
fn lacks_v6(error: &io::Error) -> bool {
    [Errno::AFNOSUPPORT, Errno::ADDRNOTAVAIL]
        .map(|errno| Some(errno.raw_os_error()))
        .contains(&error.raw_os_error())
}
