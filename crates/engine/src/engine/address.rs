//! The addresses of `--listen`: binding, names, and who holds one that is taken.

use std::path::Path;
use std::time::Duration;

use tokio::time::timeout;

use super::AddError;
use crate::holder::{self, Held, Holder};
use crate::listen::{self, Address, BindError, Listener};
use crate::spec::{Dialect, ListenAddress};

/// How long the process that holds an address is looked for.
const HOLDER_SEARCH: Duration = Duration::from_secs(5);

/// Binds an address for the workers of a dialect. The error does not name the holder of one that is taken.
pub(super) fn bind(address: &ListenAddress, dialect: Dialect) -> Result<Listener, AddError> {
    let failed =
        |error: BindError| AddError::Listen { address: error.address, source: error.source, holder: None };
    let listener = listen::for_address(address).map_err(failed)?;
    if dialect == Dialect::Activation {
        // As systemd passes them: a program that wants it non-blocking says so itself.
        rustix::io::ioctl_fionbio(listener.socket(), false)
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

/// Looks for the holder of an address as [`BindError`] writes it.
///
/// It reads the descriptors of every process, so it does that on another thread.
pub(super) async fn search_holder(address: String) -> Option<Holder> {
    let search = tokio::task::spawn_blocking(move || holder_of(&address));
    // A search that failed or took too long found nobody.
    timeout(HOLDER_SEARCH, search).await.ok().and_then(Result::ok).flatten()
}

fn holder_of(address: &str) -> Option<Holder> {
    let port = address.rsplit([':', ' ']).next().and_then(|port| port.parse().ok());
    let Some(port) = port.filter(|_| !address.starts_with(['/', '@'])) else {
        return holder::find(Held::Unix(Path::new(address)));
    };
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
