//! Which connections belong together: the pure core of the sticky policies.
//!
//! The data plane looks at the first bytes of a connection without taking them (`MSG_PEEK`) and asks
//! `look` for the `Key` in them. Connections with one key go to one slot, the one that the key wants most (`Key::weight`)
//! of those that there are. A connection that says too little in time, or speaks something else, goes by the address of its
//! client (`fallback`).
//!
//! The limit of it: a key is that of a connection, taken from its first request. Behind a proxy that sends the
//! requests of many users over one connection, they all follow the first one.

mod forwarded;
mod hello;
mod key;
mod network;
mod request;
mod session;
mod text;

use std::net::IpAddr;

use proxy_header::{ParseConfig, ProxyHeader};

pub(crate) use self::key::Key;
pub use self::network::{Network, NetworkError};
use self::request::{Found, Room};
use self::session::Session;
pub use self::text::StickyError;

/// How many bytes of a connection are looked at: as many as Node takes for the head of a request.
pub(crate) const LONGEST_LOOK: usize = 16 * 1024;

/// Of a PROXY header, version 1, with its line end.
const LONGEST_PROXY_LINE: usize = 107;

/// What the connections of one user have in common.
///
/// As text: `ip`, `cookie:NAME`, `header:NAME`, `query:NAME`, `path` or `path:SEGMENTS`, `sni`, `proxy`, `socket.io`,
/// `forwarded-for:10.0.0.0/8,192.0.2.1`.
///
/// The value of a cookie, header or query parameter that ends in `.slotN` belongs to slot N, whose worker has made it
/// (`WORKSONG_SLOT`); any other value to the slot that its hash chooses.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum StickyBy {
    /// The address of the client.
    Address,
    /// The value of a cookie.
    Cookie(String),
    /// The value of a request header.
    Header(String),
    /// The value of a query parameter.
    Query(String),
    /// The session of Socket.IO (`sid`), whose id names the slot. What has none yet goes by the client's address, so that all
    /// connections of a browser come to one worker; in turn goes what is no client's pool of connections: a WebSocket, and
    /// what a proxy sends that says so (`X-Forwarded-For`, `Forwarded`).
    SocketIo,
    /// The first segments of the path, so many.
    Path(u8),
    /// The host name that a TLS client asks for.
    ServerName,
    /// The address that a PROXY protocol header (version 1 or 2) names as the source.
    Proxy,
    /// The client's address as proxies tell it in `X-Forwarded-For` or `Forwarded`, which is believed of these proxies
    /// only.
    ForwardedFor(Vec<Network>),
}

/// What the first bytes of a connection say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Look {
    /// Whom the connection belongs to.
    Key(Key),
    /// Nothing yet: the bytes that come next may.
    More,
    /// Nothing, whatever comes next.
    Nothing,
    /// That any worker will do.
    Anyone,
}

impl StickyBy {
    /// Returns true when the first bytes of a connection have to be known.
    pub(crate) fn needs_bytes(&self) -> bool {
        match self {
            Self::Address => false,
            Self::Cookie(_)
            | Self::Header(_)
            | Self::Query(_)
            | Self::SocketIo
            | Self::Path(_)
            | Self::ServerName
            | Self::Proxy
            | Self::ForwardedFor(_) => true,
        }
    }

    /// Returns true when the address of the client has to be known.
    pub(crate) fn needs_address(&self) -> bool {
        match self {
            Self::Address | Self::Proxy | Self::ForwardedFor(_) => true,
            Self::Cookie(_)
            | Self::Header(_)
            | Self::Query(_)
            | Self::SocketIo
            | Self::Path(_)
            | Self::ServerName => false,
        }
    }

    /// Returns true when workers can make the values by which connections are told apart, and name their slots in them.
    pub(crate) fn is_by_made_value(&self) -> bool {
        match self {
            Self::Cookie(_) | Self::Header(_) | Self::Query(_) | Self::SocketIo => true,
            Self::Address | Self::Path(_) | Self::ServerName | Self::Proxy | Self::ForwardedFor(_) => false,
        }
    }
}

/// Looks for the key of a connection in its first bytes, those that have come so far; `client` is its other end, where
/// that [has to be known](StickyBy::needs_address).
///
/// More bytes never change an answer other than [`Look::More`].
pub(crate) fn look(by: &StickyBy, client: Option<IpAddr>, bytes: &[u8]) -> Look {
    let by_address = |address: Option<IpAddr>| {
        address.map_or(Look::Nothing, |address| Look::Key(Key::of_address(address)))
    };
    if !by.needs_bytes() {
        return by_address(client);
    }
    if bytes.is_empty() {
        return Look::More;
    }
    let is_all = bytes.len() >= LONGEST_LOOK;
    let (told, bytes) = match proxied(bytes) {
        Proxied::By { source, rest } => (source, rest),
        Proxied::Unfinished => return if is_all { Look::Nothing } else { Look::More },
        Proxied::Not => (None, bytes),
    };
    let found = match by {
        StickyBy::Address | StickyBy::Proxy => return by_address(told.or(client)),
        StickyBy::Cookie(name) => request::cookie(name, bytes),
        StickyBy::Header(name) => request::header(name, bytes),
        StickyBy::Query(name) => request::query(name, bytes),
        StickyBy::SocketIo => match session::find(bytes) {
            Session::Is(id) => Found::Value(id),
            Session::Begins => return Look::Anyone,
            Session::None => Found::Absent,
            Session::Unfinished => Found::Unfinished,
        },
        StickyBy::Path(segments) => request::path(*segments, bytes),
        StickyBy::ServerName => hello::server_name(bytes),
        StickyBy::ForwardedFor(trusted) => {
            let is_trusted = |address: IpAddr| trusted.iter().any(|network| network.contains(address));
            // Who may connect to a Unix socket is a matter of its folder.
            if !client.is_none_or(is_trusted) {
                return by_address(client);
            }
            if !told.is_none_or(is_trusted) {
                return by_address(told);
            }
            match request::head(bytes, &mut Room::new()) {
                Ok(head) => {
                    return by_address(forwarded::origin(&head, is_trusted).or(told).or(client));
                }
                Err(found) => found,
            }
        }
    };
    match found {
        Found::Value(value) => Look::Key(Key::of(value)),
        Found::Unfinished if !is_all => Look::More,
        Found::Unfinished | Found::Absent => Look::Nothing,
    }
}

/// Returns the key of a connection whose first bytes did not tell one: that of its client's address, if it has one.
pub(crate) fn fallback(by: &StickyBy, client: Option<IpAddr>, bytes: &[u8]) -> Option<Key> {
    let told = match proxied(bytes) {
        // Whether they are there yet is chance where nobody waits for them.
        Proxied::By { source, .. } if by.needs_bytes() => source,
        Proxied::By { .. } | Proxied::Unfinished | Proxied::Not => None,
    };
    told.or(client).map(Key::of_address)
}

/// Who is behind a connection of a proxy.
enum Proxied<'a> {
    /// The proxy says whose connection it is, unless it is its own, and what comes after that.
    By { source: Option<IpAddr>, rest: &'a [u8] },
    /// There is the beginning of what a proxy says.
    Unfinished,
    /// It begins with something else.
    Not,
}

fn proxied(bytes: &[u8]) -> Proxied<'_> {
    /// Version 2 has a signature, version 1 a word.
    const BEGINNINGS: [&[u8]; 2] = [b"\r\n\r\n\0\r\nQUIT\n", b"PROXY "];
    let begins = |with: &[u8]| bytes.iter().zip(with).all(|(is, should)| is == should);
    if !BEGINNINGS.into_iter().any(begins) {
        return Proxied::Not;
    }
    // A line that ends only after that is none, also when its end is there by the time it is looked at.
    let header = if bytes.starts_with(b"P") { &bytes[..bytes.len().min(LONGEST_PROXY_LINE)] } else { bytes };
    match ProxyHeader::parse(header, ParseConfig::default()) {
        Ok((header, length)) => {
            let source = header.proxied_address().map(|address| address.source.ip());
            Proxied::By { source, rest: bytes.get(length..).unwrap_or_default() }
        }
        Err(proxy_header::Error::BufferTooShort) => Proxied::Unfinished,
        Err(_malformed) => Proxied::Not,
    }
}

#[cfg(test)]
mod tests;
