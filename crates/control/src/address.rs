//! Where the control address is, as people write it.

use std::fmt;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::str::FromStr;

/// Where a primary answers.
///
/// As text: `9000` (on 127.0.0.1), `127.0.0.1:9000`, `[::1]:9000`, `/run/x.sock`, `unix:x.sock`. Whoever can reach a TCP
/// address may ask; a Unix socket is for its own user.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Address {
    /// A TCP address; port 0 lets the kernel choose.
    Tcp(SocketAddr),
    /// A Unix socket.
    Unix(PathBuf),
}

/// A text that is no control address.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no control address; write 9000 (on 127.0.0.1), 127.0.0.1:9000, [::1]:9000 or /run/x.sock")]
pub struct AddressError(String);

impl FromStr for Address {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, AddressError> {
        if let Some(path) = text.strip_prefix("unix:").filter(|path| !path.is_empty()) {
            return Ok(Self::Unix(path.into()));
        }
        if text.contains('/') {
            return Ok(Self::Unix(text.into()));
        }
        let tcp = match text.parse::<u16>() {
            Ok(port) => Ok(SocketAddr::from((Ipv4Addr::LOCALHOST, port))),
            Err(_other) => text.parse(),
        };
        tcp.map(Self::Tcp).map_err(|_wrong| AddressError(text.to_owned()))
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(f),
            Self::Unix(path) => path.display().fmt(f),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read_as_people_write_them() {
        for (text, told) in [
            ("9000", "127.0.0.1:9000"),
            ("0.0.0.0:9000", "0.0.0.0:9000"),
            ("[::1]:9000", "[::1]:9000"),
            ("/run/x.sock", "/run/x.sock"),
            ("./x.sock", "./x.sock"),
            ("unix:x.sock", "x.sock"),
        ] {
            assert_eq!(text.parse::<Address>().map(|address| address.to_string()).as_deref(), Ok(told));
        }
        for wrong in ["", "unix:", "localhost", "70000", "::1:9000", "x.sock"] {
            let error = wrong.parse::<Address>().expect_err(wrong).to_string();
            assert!(error.contains("write 9000"), "{error}");
        }
    }
}
