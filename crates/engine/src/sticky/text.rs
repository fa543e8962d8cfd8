//! What is kept together, as people write it.

use std::fmt;
use std::str::FromStr;

use super::{NetworkError, StickyBy};

/// A text that does not say what to keep together.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum StickyError {
    /// There is no such key.
    #[error(
        "{0:?} is nothing that connections have in common; write ip, cookie:NAME, header:NAME, query:NAME, path, path:SEGMENTS, sni, \
         proxy, socket.io or forwarded-for:ADDRESSES"
    )]
    Unknown(String),
    /// A key lacks its name.
    #[error("{0} of which name? write {0}:NAME")]
    NoName(&'static str),
    /// No client could send such a name.
    #[error("{name:?} is no name of a {kind}: {character:?} cannot stand in one")]
    Name {
        /// What would be named so.
        kind: &'static str,
        /// As it was written.
        name: String,
        /// What cannot stand in it.
        character: char,
    },
    /// A path has other segments.
    #[error("{0:?} is no number of path segments; write path:1 to path:255")]
    Segments(String),
    /// Nobody is trusted.
    #[error("whose word is to be believed? write forwarded-for:10.0.0.0/8 with the addresses of the proxies")]
    NoProxies,
    /// A proxy's address is none.
    #[error(transparent)]
    Network(#[from] NetworkError),
}

impl FromStr for StickyBy {
    type Err = StickyError;

    fn from_str(text: &str) -> Result<Self, StickyError> {
        let (kind, rest) = text.split_once(':').map_or((text, ""), |(kind, rest)| (kind, rest));
        let named = |kind, can_stand: fn(char) -> bool| {
            if rest.is_empty() {
                return Err(StickyError::NoName(kind));
            }
            match rest.chars().find(|character| !can_stand(*character)) {
                Some(character) => Err(StickyError::Name { kind, name: rest.to_owned(), character }),
                None => Ok(rest.to_owned()),
            }
        };
        match (kind, rest) {
            ("ip", "") => Ok(Self::Address),
            ("cookie", _) => named("cookie", stands_in_cookie).map(Self::Cookie),
            ("header", _) => named("header", is_token).map(Self::Header),
            ("query", _) => named("query", stands_in_query).map(Self::Query),
            ("path", "") => Ok(Self::Path(1)),
            ("path", segments) => match segments.parse() {
                Ok(0) | Err(_) => Err(StickyError::Segments(segments.to_owned())),
                Ok(segments) => Ok(Self::Path(segments)),
            },
            ("sni", "") => Ok(Self::ServerName),
            ("proxy", "") => Ok(Self::Proxy),
            ("socket.io", "") => Ok(Self::SocketIo),
            ("forwarded-for", "") => Err(StickyError::NoProxies),
            ("forwarded-for", networks) => {
                let networks = networks.split(',').map(|network| network.trim().parse());
                Ok(Self::ForwardedFor(networks.collect::<Result<_, _>>()?))
            }
            _ => Err(StickyError::Unknown(text.to_owned())),
        }
    }
}

/// Returns whether a character can stand in the name of a header (RFC 9110, 5.6.2).
fn is_token(character: char) -> bool {
    character.is_ascii_alphanumeric() || "!#$%&'*+-.^_`|~".contains(character)
}

/// Returns whether a character can stand in the name of a cookie, as browsers send back what a server has set (RFC 6265bis, 5.6).
fn stands_in_cookie(character: char) -> bool {
    character.is_ascii_graphic() && !";=".contains(character)
}

/// Returns whether a character can stand in the name of a query parameter, as it is sent.
fn stands_in_query(character: char) -> bool {
    character.is_ascii_graphic() && !"&=#".contains(character)
}

impl fmt::Display for StickyBy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address => f.write_str("ip"),
            Self::Cookie(name) => write!(f, "cookie:{name}"),
            Self::Header(name) => write!(f, "header:{name}"),
            Self::Query(name) => write!(f, "query:{name}"),
            Self::Path(segments) => write!(f, "path:{segments}"),
            Self::ServerName => f.write_str("sni"),
            Self::Proxy => f.write_str("proxy"),
            Self::SocketIo => f.write_str("socket.io"),
            Self::ForwardedFor(networks) => {
                let networks: Vec<_> = networks.iter().map(ToString::to_string).collect();
                write!(f, "forwarded-for:{}", networks.join(","))
            }
        }
    }
}
