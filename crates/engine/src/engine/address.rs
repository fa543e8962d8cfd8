//! The addresses of `--listen`: binding, names, and who holds one that is taken.

use std::io;
use std::path::Path;

use super::AddError;
use crate::holder::{self, Held, Holder};
use crate::listen::{self, Address, BindError, Listener};
use crate::spec::{Dialect, ListenAddress};

/// Binds an address for the workers of a dialect.
pub(super) fn bind(address: &ListenAddress, dialect: Dialect) -> Result<Listener, AddError> {
    let failed = |error: BindError| {
        let in_use = error.source.kind() == io::ErrorKind::AddrInUse;
        let holder = if in_use { holder_of_listen(address) } else { None };
        AddError::Listen { address: error.address, source: error.source, holder }
    };
    let listener = listen::for_address(address).map_err(failed)?;
    if dialect == Dialect::Activation {
        // As systemd passes them: a program that wants it non-blocking says so itself.
        rustix::io::ioctl_fionbio(&listener.socket, false)
            .map_err(|error| failed(BindError { address: address.to_string(), source: error.into() }))?;
    }
    Ok(listener)
}

/// Returns an address as it is told, with its port: that of a worker's `listening` on it is the same.
pub(super) fn told(asked: &ListenAddress, bound: &Address) -> (String, Option<u16>) {
    let port = match bound {
        Address::Tcp(address) | Address::Udp(address) => Some(address.port()),
        Address::Unix(_) => None,
    };
    match (asked, port) {
        (ListenAddress::AnyInterface(_), Some(port)) => (format!("*:{port}"), Some(port)),
        _ => (bound.to_string(), port),
    }
}

fn holder_of_listen(address: &ListenAddress) -> Option<Holder> {
    match address {
        ListenAddress::Tcp(address) => holder::find(Held::Tcp(address.port())),
        ListenAddress::AnyInterface(port) => holder::find(Held::Tcp(*port)),
        ListenAddress::Unix(path) => holder::find(Held::Unix(path)),
    }
}

/// Finds the holder of an address as [`BindError`] writes it.
pub(super) fn holder_of(address: &str) -> Option<Holder> {
    if address.starts_with(['/', '@']) {
        return holder::find(Held::Unix(Path::new(address)));
    }
    let port = address.rsplit([':', ' ']).next()?.parse().ok()?;
    holder::find(if address.starts_with("udp ") { Held::Udp(port) } else { Held::Tcp(port) })
}

/// Returns the name of an inherited socket: `LISTEN_FDNAMES` separates names by colons.
pub(super) fn socket_name(address: &Address) -> String {
    match address {
        Address::Tcp(address) | Address::Udp(address) => address.port().to_string(),
        Address::Unix(path) => {
            let name = path.file_name().unwrap_or(path.as_os_str());
            name.to_string_lossy().replace([':', '\0'], "_")
        }
    }
}
