//! Ports for programs that have to be told one.

use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher, Hasher};
use std::net::{Ipv4Addr, Ipv6Addr, TcpListener, UdpSocket};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener};
use std::sync::{Mutex, PoisonError};

/// Below what the kernel gives to clients, or to whoever asks for any port.
const FIRST: u16 = 10_000;
const COUNT: u16 = 22_000;

/// What other tests see of the ports that this process was given: names of which each is somebody's or nobody's.
static RESERVED: Mutex<Vec<UnixListener>> = Mutex::new(Vec::new());

/// Returns a port that nobody has, for a program that cannot be told to take any.
///
/// The kernel gives it to nobody by chance, and no other test is given it while this process runs.
#[must_use]
pub fn free_port() -> u16 {
    free_ports(1)
}

/// Returns the first of so many ports in a row, each as [`free_port`] returns one.
#[must_use]
pub fn free_ports(count: u16) -> u16 {
    loop {
        let chance = RandomState::new().build_hasher().finish();
        let first = FIRST + (chance % u64::from(COUNT - count)) as u16;
        let ports: Option<Vec<UnixListener>> = (first..first + count).map(reserve).collect();
        if let Some(ports) = ports {
            RESERVED.lock().unwrap_or_else(PoisonError::into_inner).extend(ports);
            return first;
        }
    }
}

/// Reserves a port among tests; `None` when one of them has it, or somebody else.
fn reserve(port: u16) -> Option<UnixListener> {
    let name = SocketAddr::from_abstract_name(format!("worksong-test-port-{port}")).expect("a short name");
    let reserved = UnixListener::bind_addr(&name).ok()?;
    let is_free = TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)).is_ok()
        && TcpListener::bind((Ipv6Addr::UNSPECIFIED, port)).is_ok()
        && UdpSocket::bind((Ipv4Addr::UNSPECIFIED, port)).is_ok();
    is_free.then_some(reserved)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_is_given_once() {
        let first = free_ports(3);
        for port in first..first + 3 {
            assert!(reserve(port).is_none(), "{port} is given");
            TcpListener::bind((Ipv4Addr::LOCALHOST, port)).expect("nobody has it");
        }
    }

    #[test]
    fn a_port_that_somebody_has_is_not_given() {
        let holder = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("any port");
        assert!(reserve(holder.local_addr().unwrap().port()).is_none());
        let holder = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).expect("any port");
        assert!(reserve(holder.local_addr().unwrap().port()).is_none());
    }
}
