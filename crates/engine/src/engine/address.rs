//! The addresses of `--listen`: binding, names, and who holds one that is taken.

use std::io;
use std::os::fd::BorrowedFd;
use std::path::Path;
use std::time::Duration;

use tokio::time::timeout;

use super::AddError;
use crate::holder::{self, Held, Holder};
use crate::ids::WorkerId;
use crate::listen::{self, Address, BindError, Listener};
use crate::process::launch::Inherited;
use crate::slots::Slots;
use crate::spec::{AppSpec, Dialect, ListenAddress};

/// How long the process that holds an address is looked for.
const HOLDER_SEARCH: Duration = Duration::from_secs(5);

/// An address of `--listen` that is open.
pub(super) enum Opened {
    /// One socket for all workers.
    One(Box<Listener>),
    /// One for each worker, among the app's [`Slots`].
    Each(Address),
}

impl Opened {
    pub(super) fn address(&self) -> &Address {
        match self {
            Self::One(listener) => &listener.address,
            Self::Each(address) => address,
        }
    }

    /// Returns the socket that all share.
    pub(super) fn shared(&self) -> Option<BorrowedFd<'_>> {
        match self {
            Self::One(listener) => Some(listener.socket()),
            Self::Each(_) => None,
        }
    }

    /// Returns a copy of the socket that a worker inherits.
    pub(super) fn inherit(&self, worker: WorkerId, slots: Option<&Slots>) -> io::Result<Inherited> {
        let socket = match (self, slots) {
            (Self::One(listener), _) => listener.socket().try_clone_to_owned()?,
            (Self::Each(address), Some(slots)) => slots.give(worker, address)?,
            (Self::Each(_), None) => return Err(io::Error::from_raw_os_error(libc::EBADF)),
        };
        Ok(Inherited { socket, name: socket_name(self.address()) })
    }
}

/// Opens an address for the workers of an app. The error does not name the holder of one that is taken.
pub(super) fn open(
    address: &ListenAddress,
    spec: &AppSpec,
    slots: Option<&Slots>,
) -> Result<Opened, AddError> {
    let failed =
        |error: BindError| AddError::Listen { address: error.address, source: error.source, holder: None };
    if let Some((spread, slots)) = spec.spread_at(address).zip(slots) {
        return slots.open(address, spread).map(Opened::Each).map_err(failed);
    }
    let listener = listen::for_address(address).map_err(failed)?;
    if spec.dialect == Dialect::Activation {
        // As systemd passes them: a program that wants it non-blocking says so itself.
        rustix::io::ioctl_fionbio(listener.socket(), false)
            .map_err(|error| failed(BindError { address: address.to_string(), source: error.into() }))?;
    }
    Ok(Opened::One(Box::new(listener)))
}

/// Returns an address as it is told, with its port: that of a worker's `listening` on it is the same.
pub(super) fn told(asked: &ListenAddress, bound: &Address) -> (String, Option<u16>) {
    let port = match bound {
        Address::Tcp(address) | Address::Udp(address) => Some(address.port()),
        Address::Unix(_) => None,
    };
    match (asked, port) {
        (ListenAddress::AnyInterface(_), Some(port)) => (format!("*:{port}"), Some(port)),
        (ListenAddress::AnyInterfaceUdp(_), Some(port)) => (format!("udp *:{port}"), Some(port)),
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
fn socket_name(address: &Address) -> String {
    match address {
        Address::Tcp(address) | Address::Udp(address) => address.port().to_string(),
        Address::Unix(path) => {
            let name = path.file_name().unwrap_or(path.as_os_str());
            name.to_string_lossy().replace([':', '\0'], "_")
        }
    }
}
