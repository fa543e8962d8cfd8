//! An address that is taken from programs, and how people write it.

use std::fmt;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::str::FromStr;

/// The longest path that fits into a socket's address.
const LONGEST_PATH: usize = 107;

/// An address that a program binds by itself and that its workers are to share.
///
/// A port means that port on whatever address the program binds. A whole address means just what the program binds:
/// `127.0.0.1:8080` is not `0.0.0.0:8080`. What is named nowhere is the program's own.
///
/// # Examples
/// ```
/// use worksong_engine::spec::CaptureAddress;
///
/// assert_eq!("8080".parse(), Ok(CaptureAddress::Port(8080)));
/// assert_eq!("udp:53".parse(), Ok(CaptureAddress::UdpPort(53)));
/// assert_eq!("[::1]:8080".parse::<CaptureAddress>()?.to_string(), "[::1]:8080");
/// # Ok::<(), worksong_engine::spec::CaptureAddressError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CaptureAddress {
    /// A TCP port.
    Port(u16),
    /// A TCP address.
    Tcp(SocketAddr),
    /// A UDP port.
    UdpPort(u16),
    /// A UDP address.
    Udp(SocketAddr),
    /// The path of a Unix stream socket, which leads there by whatever name the program calls it, or a name in the abstract
    /// namespace, which starts with a NUL byte and is written `@name`.
    Unix(PathBuf),
}

/// Why a text is no address to capture.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CaptureAddressError {
    /// It is of no known form.
    #[error(
        "{0:?} is no address that can be captured; write 8080, 127.0.0.1:8080, [::1]:8080, udp:53, \
         /run/x.sock or unix:x.sock"
    )]
    Unknown(String),
    /// No client could know the port.
    #[error("{0:?} has no port that could be captured; write one from 1 to 65535: 8080")]
    Port(String),
    /// It is the address of a host.
    #[error("the port is missing; write {host}:8080")]
    NoPort {
        /// As it stands before a port.
        host: String,
    },
    /// No socket has such a path.
    #[error(
        "the path has {length} bytes and a socket takes 1 to {LONGEST_PATH}; write one such as /run/x.sock"
    )]
    Path {
        /// How long it is.
        length: usize,
    },
    /// Names of hosts are not looked up.
    #[error("names are not looked up; write 127.0.0.1:{port}, [::1]:{port} or {port}")]
    Name {
        /// What was written behind the name.
        port: String,
    },
    /// It cannot be told where the address ends and the port begins.
    #[error("an IPv6 address stands in brackets and its port behind them; write [::1]:8080, not {0}")]
    NoBrackets(String),
}

impl CaptureAddress {
    /// Returns whether a program that binds this TCP address binds what is named here.
    pub(crate) fn is_tcp(&self, bound: SocketAddr) -> bool {
        match self {
            Self::Port(port) => bound.port() == *port,
            Self::Tcp(address) => is_same(*address, bound),
            Self::UdpPort(_) | Self::Udp(_) | Self::Unix(_) => false,
        }
    }

    /// Returns whether a program that binds this UDP address binds what is named here.
    pub(crate) fn is_udp(&self, bound: SocketAddr) -> bool {
        match self {
            Self::UdpPort(port) => bound.port() == *port,
            Self::Udp(address) => is_same(*address, bound),
            Self::Port(_) | Self::Tcp(_) | Self::Unix(_) => false,
        }
    }

    /// Returns the same address for who works elsewhere: a path is relative to this folder.
    #[must_use]
    pub(crate) fn seen_from(self, folder: &Path) -> Self {
        match self {
            Self::Unix(path) if !is_abstract(&path) => Self::Unix(folder.join(path)),
            other @ (Self::Port(_) | Self::Tcp(_) | Self::UdpPort(_) | Self::Udp(_) | Self::Unix(_)) => other,
        }
    }
}

/// Returns whether this is a name in the abstract namespace.
pub(crate) fn is_abstract(path: &Path) -> bool {
    path.as_os_str().as_encoded_bytes().starts_with(b"\0")
}

/// Returns whether an address that was named is the one that was bound. Java binds IPv4 addresses on IPv6 sockets.
pub(super) fn is_same(named: SocketAddr, bound: SocketAddr) -> bool {
    let scopes_fit = match (named, bound) {
        (SocketAddr::V6(named), SocketAddr::V6(bound)) => {
            named.scope_id() == 0 || named.scope_id() == bound.scope_id()
        }
        (SocketAddr::V4(_) | SocketAddr::V6(_), _) => true,
    };
    named.port() == bound.port() && named.ip().to_canonical() == bound.ip().to_canonical() && scopes_fit
}

/// What stands behind a transport's name.
enum Internet {
    Port(u16),
    Address(SocketAddr),
}

impl FromStr for CaptureAddress {
    type Err = CaptureAddressError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if let Some(path) =
            text.strip_prefix("unix:").or_else(|| Some(text).filter(|text| text.contains('/')))
        {
            return unix(path.to_owned());
        }
        if let Some(name) = text.strip_prefix('@') {
            return unix(format!("\0{name}"));
        }
        let (is_udp, rest) = match text.strip_prefix("udp:") {
            Some(rest) => (true, rest),
            None => (false, text),
        };
        Ok(match (internet(rest, text)?, is_udp) {
            (Internet::Port(port), false) => Self::Port(port),
            (Internet::Port(port), true) => Self::UdpPort(port),
            (Internet::Address(address), false) => Self::Tcp(address),
            (Internet::Address(address), true) => Self::Udp(address),
        })
    }
}

fn unix(path: String) -> Result<CaptureAddress, CaptureAddressError> {
    match path.len() {
        1..=LONGEST_PATH => Ok(CaptureAddress::Unix(path.into())),
        length => Err(CaptureAddressError::Path { length }),
    }
}

/// Reads a port, or a numeric host with a port; `whole` is what was typed.
fn internet(text: &str, whole: &str) -> Result<Internet, CaptureAddressError> {
    let no_port = || CaptureAddressError::Port(whole.to_owned());
    let digits = text.strip_prefix("*:").or_else(|| text.strip_prefix(':')).unwrap_or(text);
    if !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit()) {
        let port = digits.parse().ok().filter(|port| *port != 0);
        return port.map(Internet::Port).ok_or_else(no_port);
    }
    if let Ok(address) = text.parse::<SocketAddr>() {
        return if address.port() == 0 { Err(no_port()) } else { Ok(Internet::Address(address)) };
    }
    if let Ok(host) = text.parse::<Ipv4Addr>() {
        return Err(CaptureAddressError::NoPort { host: host.to_string() });
    }
    if text.parse::<Ipv6Addr>().is_ok() {
        return Err(CaptureAddressError::NoBrackets(text.to_owned()));
    }
    Err(match text.rsplit_once(':') {
        Some((host, port)) if is_name(host) && port.parse::<u16>().is_ok() => {
            CaptureAddressError::Name { port: port.to_owned() }
        }
        _ => CaptureAddressError::Unknown(whole.to_owned()),
    })
}

fn is_name(host: &str) -> bool {
    host.contains(|letter: char| letter.is_ascii_alphabetic())
        && host.chars().all(|letter| letter.is_ascii_alphanumeric() || "-._".contains(letter))
}

impl fmt::Display for CaptureAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Port(port) => port.fmt(f),
            Self::Tcp(address) => address.fmt(f),
            Self::UdpPort(port) => write!(f, "udp:{port}"),
            Self::Udp(address) => write!(f, "udp:{address}"),
            Self::Unix(path) if is_abstract(path) => path.to_string_lossy().replace('\0', "@").fmt(f),
            Self::Unix(path) if path.is_absolute() => path.display().fmt(f),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

/// A TCP port.
impl From<u16> for CaptureAddress {
    fn from(port: u16) -> Self {
        Self::Port(port)
    }
}

/// The path of a Unix socket.
impl From<PathBuf> for CaptureAddress {
    fn from(path: PathBuf) -> Self {
        Self::Unix(path)
    }
}

/// A TCP address.
impl From<SocketAddr> for CaptureAddress {
    fn from(address: SocketAddr) -> Self {
        Self::Tcp(address)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn internet(text: &str) -> SocketAddr {
        text.parse().expect("an address")
    }

    #[test]
    fn addresses_are_read_as_they_are_written() {
        for (text, address) in [
            ("8080", CaptureAddress::Port(8080)),
            ("127.0.0.1:8080", CaptureAddress::Tcp(internet("127.0.0.1:8080"))),
            ("[::]:8080", CaptureAddress::Tcp(internet("[::]:8080"))),
            ("[fe80::1%2]:80", CaptureAddress::Tcp(internet("[fe80::1%2]:80"))),
            ("udp:53", CaptureAddress::UdpPort(53)),
            ("/run/x.sock", CaptureAddress::Unix("/run/x.sock".into())),
            ("unix:x.sock", CaptureAddress::Unix("x.sock".into())),
            ("@name", CaptureAddress::Unix("\0name".into())),
            ("udp:[::1]:53", CaptureAddress::Udp(internet("[::1]:53"))),
        ] {
            assert_eq!(text.parse(), Ok(address.clone()), "{text}");
            assert_eq!(address.to_string(), text);
        }
        for text in [":8080", "*:8080"] {
            assert_eq!(text.parse(), Ok(CaptureAddress::Port(8080)), "{text}");
        }
    }

    #[test]
    fn other_texts_are_refused_with_the_fix() {
        let long = format!("/{}", "x".repeat(120));
        for (text, fix) in [
            (long.as_str(), "the path has 121 bytes"),
            ("unix:", "write one such as /run/x.sock"),
            ("", "write 8080,"),
            ("web", "write 8080,"),
            ("udp:", "\"udp:\" is no address"),
            ("a b:80", "write 8080,"),
            ("0", "write one from 1 to 65535"),
            ("70000", "write one from 1 to 65535"),
            ("udp:0", "\"udp:0\" has no port"),
            ("127.0.0.1:0", "write one from 1 to 65535"),
            ("localhost:80", "write 127.0.0.1:80, [::1]:80 or 80"),
            ("::1:80", "write [::1]:8080, not ::1:80"),
            ("::1", "write [::1]:8080, not ::1"),
            ("127.0.0.1", "write 127.0.0.1:8080"),
        ] {
            let error = text.parse::<CaptureAddress>().expect_err(text).to_string();
            assert!(error.contains(fix), "{text}: {error}");
        }
    }

    #[test]
    fn paths_are_relative_to_where_the_program_works() {
        for (named, seen) in
            [("unix:x.sock", "/srv/app/x.sock"), ("/run/x.sock", "/run/x.sock"), ("@x", "@x")]
        {
            let address: CaptureAddress = named.parse().expect("an address");
            assert_eq!(address.seen_from(Path::new("/srv/app")).to_string(), seen);
        }
    }

    #[test]
    fn a_port_is_captured_everywhere_and_an_address_as_it_is_bound() {
        let captures = |named: &str, bound: &str| {
            named.parse::<CaptureAddress>().expect("an address").is_tcp(internet(bound))
        };
        assert!(captures("80", "0.0.0.0:80") && captures("80", "[::1]:80") && !captures("80", "0.0.0.0:81"));
        assert!(captures("127.0.0.1:80", "127.0.0.1:80") && captures("[::]:80", "[::]:80"));
        assert!(!captures("127.0.0.1:80", "0.0.0.0:80") && !captures("0.0.0.0:80", "127.0.0.1:80"));
        assert!(!captures("0.0.0.0:80", "[::]:80"), "that serves IPv6 as well");
        assert!(captures("127.0.0.1:80", "[::ffff:127.0.0.1]:80"), "the same for every client");
        assert!(captures("[fe80::1]:80", "[fe80::1%2]:80") && !captures("[fe80::1%3]:80", "[fe80::1%2]:80"));
        assert!(!captures("udp:80", "0.0.0.0:80") && !captures("udp:127.0.0.1:80", "127.0.0.1:80"));
    }
}
