//! What a program may write where an address is asked for.

use std::convert::Infallible;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;

use thiserror::Error;

/// An address to listen on: `"0.0.0.0:8000"`, `"[::]:8000"`, `"localhost:8000"`, `":8000"` or just `8000`.
///
/// A port without a host means all interfaces, IPv6 and IPv4, as for a Node server. Port 0 lets the kernel
/// choose; all workers of an app get the same one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Address(pub(crate) Kind);

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    AllInterfaces(u16),
    Socket(SocketAddr),
    Name { host: String, port: u16 },
}

/// A text that is no address.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{text:?} is no address; write it as 127.0.0.1:8000, [::1]:8000, localhost:8000 or 8000")]
pub struct AddressError {
    text: String,
}

impl FromStr for Address {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, AddressError> {
        let error = || AddressError { text: text.to_owned() };
        if let Ok(address) = text.parse() {
            return Ok(Self(Kind::Socket(address)));
        }
        let (host, port) = text.rsplit_once(':').unwrap_or(("", text));
        let port = port.parse().map_err(|_| error())?;
        match host {
            "" => Ok(Self(Kind::AllInterfaces(port))),
            // A colon in a host is an IPv6 address without its brackets.
            host if host.contains([':', '[', ']', '/']) => Err(error()),
            host => Ok(Self(Kind::Name { host: host.to_owned(), port })),
        }
    }
}

impl TryFrom<&str> for Address {
    type Error = AddressError;

    fn try_from(text: &str) -> Result<Self, AddressError> {
        text.parse()
    }
}

impl TryFrom<String> for Address {
    type Error = AddressError;

    fn try_from(text: String) -> Result<Self, AddressError> {
        text.parse()
    }
}

impl TryFrom<&String> for Address {
    type Error = AddressError;

    fn try_from(text: &String) -> Result<Self, AddressError> {
        text.parse()
    }
}

impl From<u16> for Address {
    fn from(port: u16) -> Self {
        Self(Kind::AllInterfaces(port))
    }
}

impl From<SocketAddr> for Address {
    fn from(address: SocketAddr) -> Self {
        Self(Kind::Socket(address))
    }
}

impl<H: Into<IpAddr>> From<(H, u16)> for Address {
    fn from((host, port): (H, u16)) -> Self {
        Self(Kind::Socket(SocketAddr::new(host.into(), port)))
    }
}

impl From<Infallible> for AddressError {
    fn from(never: Infallible) -> Self {
        match never {}
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Kind::AllInterfaces(port) => write!(f, "port {port}"),
            Kind::Socket(address) => address.fmt(f),
            Kind::Name { host, port } => write!(f, "{host}:{port}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_spelling_is_understood() {
        let kind = |text: &str| text.parse::<Address>().expect("an address").0;
        assert_eq!(kind("8000"), Kind::AllInterfaces(8000));
        assert_eq!(kind(":8000"), Kind::AllInterfaces(8000));
        assert_eq!(kind("[::1]:0"), Kind::Socket(SocketAddr::from(([0, 0, 0, 0, 0, 0, 0, 1], 0))));
        assert_eq!(kind("localhost:80"), Kind::Name { host: "localhost".into(), port: 80 });
        assert_eq!(Address::from(([127, 0, 0, 1], 9)).to_string(), "127.0.0.1:9");
    }

    #[test]
    fn what_is_no_address_is_refused_with_its_spelling() {
        for text in ["", ":", "host", "host:", "host:65536", "::1:80", "[::1:80", "/run/a.sock", "a/b:1"] {
            let error = text.parse::<Address>().expect_err(text);
            assert!(error.to_string().contains(&format!("{text:?}")), "{error}");
        }
    }
}
