//! Sockets that the primary binds and keeps, by the rules of Node's own primary.

mod arrivals;
mod flows;
mod group;
mod kept;
#[cfg(test)]
mod own_network;
mod path;
mod queue;
mod raw;
mod spread;

use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use socket2::{Domain, Protocol, SockAddr, SockFilter, SockRef, Socket, Type};
use worksong_channel::message::{AddressType, ServerQuery, SockName};

use crate::process::spawn::duplicate_number;
use crate::spec::ListenAddress;

pub(crate) use self::arrivals::Arrivals;
pub(crate) use self::flows::{Flows, LeftBehind};
pub(crate) use self::group::{At, Group, full};
pub(crate) use self::kept::{KeptPath, Place};
pub(crate) use self::path::BoundPath;
pub(crate) use self::queue::{Change, Fullness, QueueLength, queue_length, queued};
pub(crate) use self::raw::tcp_info;
pub use self::spread::Spread;
pub(crate) use self::spread::Target;

/// Node's default length of a listen queue.
const BACKLOG: u32 = 511;
/// What the primary asks for when it accepts by itself: with no ready worker, connections wait in this queue
/// (the kernel caps it at `net.core.somaxconn`).
pub(crate) const HOLDING_BACKLOG: u32 = 4096;

/// TCP and UDP: `IPV6_V6ONLY`.
const FLAG_V6ONLY: i64 = 1;
/// UDP: `SO_REUSEADDR`.
const FLAG_REUSEADDR: i64 = 4;
/// UDP: `SO_REUSEPORT`.
const FLAG_REUSEPORT: i64 = 8;

/// What comes to a socket: connections, or datagrams.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Transport {
    Tcp,
    Udp,
}

/// A socket that is bound and, unless it is a datagram socket, listens.
///
/// Dropping it closes this copy and removes the path of a Unix socket.
#[derive(Debug)]
pub(crate) struct Listener {
    sockets: Sockets,
    pub(crate) address: Address,
    origin: Origin,
}

/// What a listener listens with.
#[derive(Debug)]
enum Sockets {
    One(OwnedFd),
    /// One for each worker; the kernel chooses.
    Many(Group),
    /// One for each worker, for datagrams; the kernel chooses.
    Flows(Flows),
}

/// Whose socket a listener is.
#[derive(Debug)]
enum Origin {
    /// Ours alone: we bound it.
    Bound,
    /// Ours alone, with a path that is removed when it is closed.
    BoundPath { _path: BoundPath },
    /// A copy of a socket that others go on using.
    Adopted,
}

/// Where a listener is bound, as the kernel says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Address {
    Tcp(SocketAddr),
    Udp(SocketAddr),
    /// A path, or a name in the abstract namespace, which starts with a NUL byte.
    Unix(PathBuf),
}

impl Address {
    /// Returns whether connections come in there.
    pub(crate) fn takes_connections(&self) -> bool {
        match self {
            Self::Tcp(_) | Self::Unix(_) => true,
            Self::Udp(_) => false,
        }
    }

    /// Returns the address in the shape of Node's `server.address()`; Unix sockets have none.
    pub(crate) fn sock_name(&self) -> Option<SockName> {
        match self {
            Self::Tcp(address) | Self::Udp(address) => Some(SockName::from(*address)),
            Self::Unix(_) => None,
        }
    }

    /// Returns how well this explains the local address of a connection; `None` when it cannot have come this way.
    pub(crate) fn fits(&self, local: &SockAddr) -> Option<Fit> {
        match self {
            Self::Tcp(address) => {
                let local = local.as_socket()?;
                let is_same = local.ip().to_canonical() == address.ip().to_canonical();
                let fit = if is_same { Fit::Exact } else { Fit::AnyInterface };
                (local.port() == address.port() && (is_same || address.ip().is_unspecified())).then_some(fit)
            }
            Self::Udp(_) => None,
            Self::Unix(path) => {
                let is_called = |name: &[u8]| path.as_os_str().as_bytes().strip_prefix(b"\0") == Some(name);
                let has_path = local.as_pathname() == Some(path);
                (has_path || local.as_abstract_namespace().is_some_and(is_called)).then_some(Fit::Exact)
            }
        }
    }
}

/// How well a listener's address explains that of a connection; the better one is greater.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Fit {
    /// It listens on all interfaces.
    AnyInterface,
    /// It listens just there.
    Exact,
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(f),
            Self::Udp(address) => write!(f, "udp {address}"),
            Self::Unix(path) => path.to_string_lossy().replace('\0', "@").fmt(f),
        }
    }
}

/// An address that could not be bound.
#[derive(Debug)]
pub(crate) struct BindError {
    /// The address as it was asked for.
    pub(crate) address: String,
    pub(crate) source: io::Error,
}

impl BindError {
    fn new(address: impl Into<String>, source: io::Error) -> Self {
        Self { address: address.into(), source }
    }

    /// Returns the negative errno that a Node worker expects, with what libuv makes of a missing folder and of a
    /// descriptor that is none.
    pub(crate) fn errno(&self) -> i64 {
        let errno = match self.source.raw_os_error() {
            Some(libc::ENOENT) => libc::EACCES,
            Some(libc::EBADF) | None => libc::EINVAL,
            Some(errno) => errno,
        };
        -i64::from(errno)
    }
}

/// Binds what a worker asked for. `inherited` are the app's own `--listen` sockets, found by `{fd: 3}` and up, and by
/// their addresses. With a `spread`, a TCP address that is bound now may have more sockets, and so may any of UDP.
pub(crate) fn for_query(
    query: &ServerQuery,
    inherited: &[OwnedFd],
    spread: Option<Spread>,
) -> Result<Listener, BindError> {
    if let Some(own) = own_socket(query, inherited) {
        let name = || match (query.fd, &query.address) {
            (Some(number), _) => format!("descriptor {number}"),
            (None, Some(address)) => address.clone(),
            (None, None) => format!("port {}", query.port.unwrap_or(0)),
        };
        let spread = spread.filter(|_| !shares_with_others(query));
        let adopted = own.try_clone().and_then(|own| adopt_own(own, spread));
        return adopted.map_err(|error| BindError::new(name(), error));
    }
    match query.address_type {
        AddressType::Descriptor => from_descriptor(query.fd),
        AddressType::Udp4 | AddressType::Udp6 if query.fd.is_some() => from_descriptor(query.fd),
        AddressType::Udp4 | AddressType::Udp6 => udp(query, spread),
        AddressType::V4 | AddressType::V6 => tcp(query, spread),
        AddressType::Path => unix(query),
    }
}

/// Returns the address that a worker asks for, as people write it; nothing for what cannot be written.
pub(crate) fn asked_for(query: &ServerQuery, inherited: &[OwnedFd]) -> Option<ListenAddress> {
    let port = || query.port.and_then(|port| u16::try_from(port).ok());
    match (query.fd, query.address_type) {
        (Some(_), _) => {
            let own = SockRef::from(own_socket(query, inherited)?);
            let local = own.local_addr().ok()?;
            let path = || local.as_pathname().map(|path| ListenAddress::Unix(path.to_owned()));
            let is_datagram = own.r#type().is_ok_and(|kind| kind == Type::DGRAM);
            let transport = if is_datagram { Transport::Udp } else { Transport::Tcp };
            local.as_socket().map(|local| ListenAddress::of(transport, local)).or_else(path)
        }
        (None, AddressType::Path) => query.address.as_deref().map(|path| ListenAddress::Unix(path.into())),
        (None, AddressType::V4 | AddressType::V6 | AddressType::Udp4 | AddressType::Udp6) => {
            let host = query.address.as_deref().and_then(|host| host.parse::<IpAddr>().ok());
            let transport = if query.address_type.is_datagram() { Transport::Udp } else { Transport::Tcp };
            let host = host.unwrap_or(Ipv6Addr::UNSPECIFIED.into());
            Some(ListenAddress::of(transport, (host, port()?).into()))
        }
        (None, AddressType::Descriptor) => None,
    }
}

/// Finds the app's own `--listen` socket that a worker asks for, by its number or its address: binding that again would
/// fail.
pub(crate) fn own_socket<'own>(query: &ServerQuery, inherited: &'own [OwnedFd]) -> Option<&'own OwnedFd> {
    if let Some(number) = query.fd {
        let index = number.checked_sub(3).and_then(|index| usize::try_from(index).ok())?;
        return inherited.get(index);
    }
    let has_port_and_host = |local: SocketAddr| {
        let host = query.address.as_deref().map(str::parse::<IpAddr>);
        query.port == Some(local.port().into())
            && host.map_or(local.ip().is_unspecified(), |host| host == Ok(local.ip()))
    };
    let is_asked_for = |local: Address| match (query.address_type, local) {
        (AddressType::V4 | AddressType::V6, Address::Tcp(local)) => has_port_and_host(local),
        (AddressType::Udp4, Address::Udp(local)) => local.is_ipv4() && has_port_and_host(local),
        (AddressType::Udp6, Address::Udp(local)) => local.is_ipv6() && has_port_and_host(local),
        (AddressType::Path, Address::Unix(path)) => {
            let absolute = std::path::absolute(path).ok();
            absolute.is_some_and(|path| query.address.as_deref().map(Path::new) == Some(&path))
        }
        _ => false,
    };
    inherited.iter().find(|socket| address_of(socket).is_ok_and(is_asked_for))
}

/// Binds an address of `--listen`.
pub(crate) fn for_address(address: &ListenAddress) -> Result<Listener, BindError> {
    let named = |error: io::Error| BindError::new(address.to_string(), error);
    match address {
        ListenAddress::Tcp(address) => tcp_at(*address, true, HOLDING_BACKLOG, None).map_err(named),
        ListenAddress::AnyInterface(port) => {
            any_interface(*port, false, HOLDING_BACKLOG, None).map_err(named)
        }
        ListenAddress::Udp(address) => udp_at(*address, true).map_err(named),
        ListenAddress::AnyInterfaceUdp(port) => udp_at((Ipv6Addr::UNSPECIFIED, *port).into(), false)
            .or_else(|_no_ipv6| udp_at((Ipv4Addr::UNSPECIFIED, *port).into(), false))
            .map_err(named),
        ListenAddress::Unix(path) => unix_at(path, HOLDING_BACKLOG, None).map_err(named),
    }
}

/// Binds a TCP address of `--listen` with a group of sockets that workers are to inherit.
pub(crate) fn group_for_address(address: &ListenAddress, spread: Spread) -> Result<Group, BindError> {
    let transport = Transport::Tcp;
    let bind = |address, v6only| Group::bind(At { transport, address, v6only }, HOLDING_BACKLOG, spread);
    each_for_address(address, bind)
}

/// Binds a UDP address of `--listen` with sockets that workers are to inherit.
pub(crate) fn flows_for_address(address: &ListenAddress, spread: Spread) -> Result<Flows, BindError> {
    let transport = Transport::Udp;
    let bind = |address, v6only| Flows::open(At { transport, address, v6only }, Some(spread), &|_| {});
    each_for_address(address, bind)
}

fn each_for_address<T>(
    address: &ListenAddress,
    bind: impl Fn(SocketAddr, bool) -> io::Result<T>,
) -> Result<T, BindError> {
    let bound = match address {
        ListenAddress::Tcp(address) | ListenAddress::Udp(address) => bind(*address, true),
        ListenAddress::AnyInterface(port) | ListenAddress::AnyInterfaceUdp(port) => {
            bind((Ipv6Addr::UNSPECIFIED, *port).into(), false)
                .or_else(|_no_ipv6| bind((Ipv4Addr::UNSPECIFIED, *port).into(), false))
        }
        ListenAddress::Unix(_) => Err(io::Error::from_raw_os_error(libc::EAFNOSUPPORT)),
    };
    bound.map_err(|error| BindError::new(address.to_string(), error))
}

/// A queue shorter than Node's default was asked for on purpose.
fn backlog(query: &ServerQuery) -> u32 {
    match query.backlog {
        Some(short @ 1..BACKLOG) => short,
        Some(asked) => asked.max(HOLDING_BACKLOG),
        None => HOLDING_BACKLOG,
    }
}

fn tcp(query: &ServerQuery, spread: Option<Spread>) -> Result<Listener, BindError> {
    let port = port(query)?;
    let v6only = query.flags.unwrap_or(0) & FLAG_V6ONLY != 0;
    let backlog = backlog(query);
    match &query.address {
        None => any_interface(port, v6only, backlog, spread)
            .map_err(|error| BindError::new(format!("port {port}"), error)),
        Some(host) => {
            let address = SocketAddr::new(ip(host)?, port);
            tcp_at(address, v6only, backlog, spread)
                .map_err(|error| BindError::new(address.to_string(), error))
        }
    }
}

/// Binds `::` for both families; where that cannot be had, for whatever reason, `0.0.0.0`, as Node does.
fn any_interface(port: u16, v6only: bool, backlog: u32, spread: Option<Spread>) -> io::Result<Listener> {
    tcp_at(SocketAddr::new(Ipv6Addr::UNSPECIFIED.into(), port), v6only, backlog, spread).or_else(|_no_ipv6| {
        tcp_at(SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), port), false, backlog, spread)
    })
}

fn tcp_at(address: SocketAddr, v6only: bool, backlog: u32, spread: Option<Spread>) -> io::Result<Listener> {
    let (sockets, bound) = if let Some(spread) = spread {
        let group = Group::bind(At { transport: Transport::Tcp, address, v6only }, backlog, spread)?;
        let bound = group.at().address;
        (Sockets::Many(group), bound)
    } else {
        let socket = tcp_socket(address, v6only)?;
        socket.bind(&address.into())?;
        socket.listen(i32::try_from(backlog).unwrap_or(i32::MAX))?;
        let bound = inet_address(&socket)?;
        (Sockets::One(socket.into()), bound)
    };
    Ok(Listener { sockets, address: Address::Tcp(bound), origin: Origin::Bound })
}

/// Makes a socket that can be bound to the address although connections of it linger.
fn tcp_socket(address: SocketAddr, v6only: bool) -> io::Result<Socket> {
    let kind = Type::STREAM.nonblocking().cloexec();
    let socket = Socket::new(Domain::for_address(address), kind, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    if address.is_ipv6() {
        socket.set_only_v6(v6only)?;
    }
    Ok(socket)
}

/// Makes a socket for datagrams.
fn udp_socket(address: SocketAddr, v6only: bool) -> io::Result<Socket> {
    let kind = Type::DGRAM.nonblocking().cloexec();
    let socket = Socket::new(Domain::for_address(address), kind, Some(Protocol::UDP))?;
    if address.is_ipv6() {
        socket.set_only_v6(v6only)?;
    }
    Ok(socket)
}

fn udp_at(address: SocketAddr, v6only: bool) -> io::Result<Listener> {
    let socket = udp_socket(address, v6only)?;
    socket.bind(&address.into())?;
    let bound = inet_address(&socket)?;
    Ok(Listener { sockets: Sockets::One(socket.into()), address: Address::Udp(bound), origin: Origin::Bound })
}

/// Who asks for `SO_REUSEADDR` for UDP wants to share the address with other programs, as for multicast: that is one socket,
/// with every policy.
fn shares_with_others(query: &ServerQuery) -> bool {
    query.address_type.is_datagram() && query.flags.unwrap_or(0) & FLAG_REUSEADDR != 0
}

fn udp(query: &ServerQuery, spread: Option<Spread>) -> Result<Listener, BindError> {
    let port = port(query)?;
    let flags = query.flags.unwrap_or(0);
    let any: IpAddr = match query.address_type {
        AddressType::Udp6 => Ipv6Addr::UNSPECIFIED.into(),
        _ => Ipv4Addr::UNSPECIFIED.into(),
    };
    let host = query.address.as_deref().map_or(Ok(any), ip)?;
    let address = SocketAddr::new(host, port);
    let (v6only, shares_with_others) = (flags & FLAG_V6ONLY != 0, shares_with_others(query));
    let bind = || {
        if let Some(spread) = spread.filter(|_| !shares_with_others) {
            let at = At { transport: Transport::Udp, address, v6only };
            let flows = Flows::open(at, Some(spread), &|_| {})?;
            let address = flows.at().told();
            return Ok(Listener { sockets: Sockets::Flows(flows), address, origin: Origin::Bound });
        }
        let socket = udp_socket(address, v6only)?;
        socket.set_reuse_address(shares_with_others)?;
        socket.set_reuse_port(flags & FLAG_REUSEPORT != 0)?;
        socket.bind(&address.into())?;
        let bound = inet_address(&socket)?;
        let sockets = Sockets::One(socket.into());
        Ok(Listener { sockets, address: Address::Udp(bound), origin: Origin::Bound })
    };
    bind().map_err(|error| BindError::new(format!("udp {address}"), error))
}

fn unix(query: &ServerQuery) -> Result<Listener, BindError> {
    let Some(asked) = &query.address else {
        return Err(BindError::new("a path", io::Error::from_raw_os_error(libc::EINVAL)));
    };
    // Node resolves "\0name" against its working directory; the name proper starts at the NUL byte.
    let name = asked.find('\0').map_or(asked.as_str(), |at| &asked[at..]);
    let mode = match (query.readable_all, query.writable_all) {
        (false, false) => None,
        (true, false) => Some(0o444),
        (false, true) => Some(0o222),
        (true, true) => Some(0o666),
    };
    unix_at(Path::new(name), backlog(query), mode)
        .map_err(|error| BindError::new(name.replace('\0', "@"), error))
}

/// Binds a path or an abstract name; a path gets the mode, if there is one.
fn unix_at(path: &Path, backlog: u32, mode: Option<u32>) -> io::Result<Listener> {
    let socket = Socket::new(Domain::UNIX, Type::STREAM.nonblocking().cloexec(), None)?;
    let origin = if path.as_os_str().as_encoded_bytes().starts_with(b"\0") {
        socket.bind(&SockAddr::unix(path)?)?;
        Origin::Bound
    } else {
        Origin::BoundPath { _path: BoundPath::bind(&socket, path, mode)? }
    };
    socket.listen(i32::try_from(backlog).unwrap_or(i32::MAX))?;
    Ok(Listener { sockets: Sockets::One(socket.into()), address: Address::Unix(path.to_owned()), origin })
}

/// Takes a socket by its number, which is that of a descriptor of this process, as for a Node primary.
fn from_descriptor(number: Option<i64>) -> Result<Listener, BindError> {
    let named = |error: io::Error| {
        let name = number.map_or_else(|| "a descriptor".to_owned(), |number| format!("descriptor {number}"));
        BindError::new(name, error)
    };
    let number = number
        .and_then(|number| RawFd::try_from(number).ok())
        .ok_or_else(|| named(io::Error::from_raw_os_error(libc::EINVAL)))?;
    duplicate_number(number).and_then(adopt).map_err(named)
}

/// Takes a copy of one of the app's own `--listen` sockets, of datagrams as the first of several.
fn adopt_own(socket: OwnedFd, spread: Option<Spread>) -> io::Result<Listener> {
    match (address_of(&socket)?, spread) {
        (Address::Udp(address), Some(spread)) => {
            let v6only = address.is_ipv6() && SockRef::from(&socket).only_v6()?;
            let flows = Flows::adopt(At { transport: Transport::Udp, address, v6only }, spread, socket)?;
            let address = flows.at().told();
            Ok(Listener { sockets: Sockets::Flows(flows), address, origin: Origin::Adopted })
        }
        (Address::Tcp(_) | Address::Udp(_) | Address::Unix(_), _) => adopt(socket),
    }
}

fn adopt(descriptor: OwnedFd) -> io::Result<Listener> {
    let socket = Socket::from(descriptor);
    let kind = socket.r#type()?;
    let address = address_of(&socket)?;
    socket.set_nonblocking(true)?;
    if kind == Type::STREAM {
        socket.listen(i32::try_from(HOLDING_BACKLOG).unwrap_or(i32::MAX))?;
    }
    Ok(Listener { sockets: Sockets::One(socket.into()), address, origin: Origin::Adopted })
}

/// Returns where a socket is bound.
pub(crate) fn address_of(socket: impl AsFd) -> io::Result<Address> {
    let socket = SockRef::from(&socket);
    let local = socket.local_addr()?;
    match (socket.r#type()?, local.as_socket()) {
        (Type::DGRAM, Some(address)) => Ok(Address::Udp(address)),
        (Type::STREAM, Some(address)) => Ok(Address::Tcp(address)),
        (Type::STREAM, None) => {
            Ok(Address::Unix(local.as_pathname().map(Path::to_owned).unwrap_or_default()))
        }
        _ => Err(io::Error::from_raw_os_error(libc::EINVAL)),
    }
}

fn port(query: &ServerQuery) -> Result<u16, BindError> {
    let asked = query.port.unwrap_or(0);
    u16::try_from(asked).map_err(|_out_of_range| {
        BindError::new(format!("port {asked}"), io::Error::from_raw_os_error(libc::EINVAL))
    })
}

/// Parses a host that the worker has resolved; a scope (`fe80::1%eth0`) is beyond what Node's primary takes.
fn ip(host: &str) -> Result<IpAddr, BindError> {
    host.parse().map_err(|_no_address| BindError::new(host, io::Error::from_raw_os_error(libc::EINVAL)))
}

fn inet_address(socket: &Socket) -> io::Result<SocketAddr> {
    socket.local_addr()?.as_socket().ok_or_else(|| io::Error::from_raw_os_error(libc::EAFNOSUPPORT))
}

/// Makes a TCP socket ignore requests for new connections: a client that asks now sees no answer until the socket is
/// closed, instead of a connection that is reset by the closing.
///
/// Closing a listening socket resets what its queue holds, and there is always a moment between the last `accept`
/// and the close. Connections that were established before inherit the filter, which never matches their packets.
pub(crate) fn refuse_new_connections(socket: impl AsFd) {
    /// Offset of the flags in the TCP header, where the kernel starts the filter.
    const FLAGS: u32 = 13;
    const SYN: u32 = 0x02;
    const ACK: u32 = 0x10;
    let statement = |code: u32, k: u32| SockFilter::new(code as u16, 0, 0, k);
    let only_syn = [
        statement(libc::BPF_LD | libc::BPF_B | libc::BPF_ABS, FLAGS),
        statement(libc::BPF_ALU | libc::BPF_AND | libc::BPF_K, SYN | ACK),
        SockFilter::new((libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16, 0, 1, SYN),
        statement(libc::BPF_RET | libc::BPF_K, 0),
        statement(libc::BPF_RET | libc::BPF_K, u32::MAX),
    ];
    let socket = SockRef::from(&socket);
    let is_tcp = socket.local_addr().is_ok_and(|address| address.as_socket().is_some())
        && socket.r#type().is_ok_and(|kind| kind == Type::STREAM);
    if is_tcp {
        // Without the filter the moment is short, not closed.
        let _refused = socket.attach_filter(&only_syn);
    }
}

impl Listener {
    /// Returns the first of its sockets.
    pub(crate) fn socket(&self) -> BorrowedFd<'_> {
        match &self.sockets {
            Sockets::One(socket) => socket.as_fd(),
            Sockets::Many(_) | Sockets::Flows(_) => {
                self.sockets().first().expect("invariant: a group has a socket").as_fd()
            }
        }
    }

    /// Returns all of its sockets.
    pub(crate) fn sockets(&self) -> &[OwnedFd] {
        match &self.sockets {
            Sockets::One(socket) => std::slice::from_ref(socket),
            Sockets::Many(group) => group.members(),
            Sockets::Flows(flows) => flows.sockets(),
        }
    }

    /// Returns the sockets between which the kernel can be made to choose, if there may be several.
    pub(crate) fn group_mut(&mut self) -> Option<&mut Group> {
        match &mut self.sockets {
            Sockets::One(_) | Sockets::Flows(_) => None,
            Sockets::Many(group) => Some(group),
        }
    }

    /// Returns the sockets by which flows find their workers, where each worker has one.
    pub(crate) fn flows(&self) -> Option<&Flows> {
        match &self.sockets {
            Sockets::One(_) | Sockets::Many(_) => None,
            Sockets::Flows(flows) => Some(flows),
        }
    }

    /// As [`flows`](Self::flows), to change who has which.
    pub(crate) fn flows_mut(&mut self) -> Option<&mut Flows> {
        match &mut self.sockets {
            Sockets::One(_) | Sockets::Many(_) => None,
            Sockets::Flows(flows) => Some(flows),
        }
    }

    /// Lets nobody new in, while connections that are established or on their way can still be accepted.
    ///
    /// An adopted socket stays as it is: it goes on without us. Nobody can be kept from an abstract name.
    pub(crate) fn refuse_new(&mut self) {
        match self.origin {
            Origin::Adopted => {}
            Origin::Bound | Origin::BoundPath { .. } => {
                self.sockets().iter().for_each(refuse_new_connections);
                self.origin = Origin::Bound;
            }
        }
    }
}

#[cfg(test)]
mod tests;
