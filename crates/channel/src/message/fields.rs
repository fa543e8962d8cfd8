//! Fields of cluster messages that are not plain JSON types.

use std::fmt;
use std::net::SocketAddr;

use serde::de::{self, Deserializer, Visitor};
use serde::{Deserialize, Serialize, Serializer};

/// Which kind of address a server query is about (Node's `addressType`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum AddressType {
    /// TCP over IPv4, sent as `4`; also "all interfaces" when there is no address.
    #[default]
    V4,
    /// TCP over IPv6, sent as `6`.
    V6,
    /// A Unix stream socket, sent as `-1`.
    Path,
    /// UDP over IPv4, sent as `"udp4"`.
    Udp4,
    /// UDP over IPv6, sent as `"udp6"`.
    Udp6,
    /// A descriptor of the primary, sent as `null` or not at all.
    Descriptor,
}

impl AddressType {
    /// Returns true for the datagram kinds, which are always shared.
    #[must_use]
    pub fn is_datagram(self) -> bool {
        matches!(self, Self::Udp4 | Self::Udp6)
    }
}

impl Serialize for AddressType {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::V4 => serializer.serialize_i64(4),
            Self::V6 => serializer.serialize_i64(6),
            Self::Path => serializer.serialize_i64(-1),
            Self::Udp4 => serializer.serialize_str("udp4"),
            Self::Udp6 => serializer.serialize_str("udp6"),
            Self::Descriptor => serializer.serialize_none(),
        }
    }
}

impl<'de> Deserialize<'de> for AddressType {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(AddressTypeVisitor)
    }
}

struct AddressTypeVisitor;

impl Visitor<'_> for AddressTypeVisitor {
    type Value = AddressType;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("4, 6, -1, \"udp4\", \"udp6\" or null")
    }

    fn visit_u64<E: de::Error>(self, value: u64) -> Result<AddressType, E> {
        match value {
            4 => Ok(AddressType::V4),
            6 => Ok(AddressType::V6),
            other => Err(E::invalid_value(de::Unexpected::Unsigned(other), &self)),
        }
    }

    fn visit_i64<E: de::Error>(self, value: i64) -> Result<AddressType, E> {
        match value {
            -1 => Ok(AddressType::Path),
            other => Err(E::invalid_value(de::Unexpected::Signed(other), &self)),
        }
    }

    fn visit_str<E: de::Error>(self, value: &str) -> Result<AddressType, E> {
        match value {
            "udp4" => Ok(AddressType::Udp4),
            "udp6" => Ok(AddressType::Udp6),
            other => Err(E::invalid_value(de::Unexpected::Str(other), &self)),
        }
    }

    fn visit_unit<E: de::Error>(self) -> Result<AddressType, E> {
        Ok(AddressType::Descriptor)
    }
}

/// Where a socket is bound, in the shape of Node's `server.address()`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SockName {
    /// The host address.
    pub address: String,
    /// `IPv4` or `IPv6`.
    pub family: String,
    /// The port.
    pub port: u16,
}

impl From<SocketAddr> for SockName {
    fn from(address: SocketAddr) -> Self {
        let family = if address.is_ipv4() { "IPv4" } else { "IPv6" };
        Self { address: address.ip().to_string(), family: family.to_owned(), port: address.port() }
    }
}

/// Reads a `backlog`: a number, `false`, `null` or nothing; falsy means the default.
pub(super) fn backlog<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<u32>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Backlog {
        Number(f64),
        Other(serde::de::IgnoredAny),
    }
    Ok(match Backlog::deserialize(deserializer)? {
        #[expect(clippy::cast_sign_loss, reason = "the value was checked to be at least 1")]
        Backlog::Number(number) if number >= 1.0 => Some(number.min(f64::from(u32::MAX)) as u32),
        Backlog::Number(_) | Backlog::Other(_) => None,
    })
}

/// Reads a `port`: a number, nothing, or (UDP, where Node passes on what the program gave) a string of digits.
pub(super) fn port<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<i64>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged, expecting = "a port is a number or a string of digits")]
    enum Port {
        Number(i64),
        Text(String),
    }
    match Option::<Port>::deserialize(deserializer)? {
        None => Ok(None),
        Some(Port::Number(number)) => Ok(Some(number)),
        Some(Port::Text(text)) => match text.trim().parse() {
            Ok(number) => Ok(Some(number)),
            Err(_) => Err(de::Error::invalid_value(de::Unexpected::Str(&text), &"a port number")),
        },
    }
}
