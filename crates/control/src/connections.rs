//! What there is at local TCP ports: who listens, and how many connections are open.

use std::collections::BTreeMap;
use std::io;

use worksong_engine::inet::{Protocol, State, sockets_at};

/// What there is at a port.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Found {
    /// Somebody listens there.
    pub(crate) listens: bool,
    /// How many connections are established.
    pub(crate) connections: u64,
}

/// Tells of these ports what there is, over IPv4 and IPv6; a port with nothing at all is left out.
///
/// As [`sockets_at`] it is not for a thread that others wait for.
pub(crate) fn count(ports: &[u16]) -> io::Result<BTreeMap<u16, Found>> {
    let mut counts: BTreeMap<u16, Found> = BTreeMap::new();
    let Some((first, last)) = ports.iter().min().zip(ports.iter().max()) else { return Ok(counts) };
    for socket in sockets_at(Protocol::Tcp, *first..=*last, &[State::Listens, State::Established])? {
        if ports.contains(&socket.local_port) {
            let found = counts.entry(socket.local_port).or_default();
            match socket.state {
                State::Listens => found.listens = true,
                State::Established | State::Other => found.connections += 1,
            }
        }
    }
    Ok(counts)
}

#[cfg(test)]
mod tests {
    use std::net::{SocketAddr, TcpListener, TcpStream};
    use std::time::{Duration, Instant};

    use super::*;

    #[test]
    fn connections_are_counted_at_the_port_that_took_them() {
        let listeners = ["127.0.0.1:0", "[::1]:0", "127.0.0.1:0"].map(|address| {
            let address: SocketAddr = address.parse().expect("an address");
            TcpListener::bind(address).expect("a free port")
        });
        let addresses = listeners.each_ref().map(|listener| listener.local_addr().expect("an address"));
        let ports = addresses.map(|address| address.port());
        let mut held: Vec<_> =
            (0..20).map(|_| TcpStream::connect(addresses[0]).expect("it listens")).collect();
        held.extend((0..3).map(|_| TcpStream::connect(addresses[1]).expect("it listens")));
        let found = |connections| Found { listens: true, connections };
        // Taken or not, and not their clients.
        let all = BTreeMap::from([(ports[0], found(20)), (ports[1], found(3)), (ports[2], found(0))]);
        // A client's end is open a moment before the other one is.
        let by = Instant::now() + Duration::from_secs(10);
        loop {
            let counted = count(&ports).expect("the kernel tells");
            if counted == all {
                break;
            }
            assert!(Instant::now() < by, "{counted:?}");
        }
        let [first, second, third] = listeners;
        // What was not taken ends with its listener.
        let _taken: Vec<_> = (0..3).map(|_| second.accept().expect("a connection")).collect();
        drop((first, second, third));
        assert_eq!(
            count(&ports[1..]).expect("the kernel tells"),
            BTreeMap::from([(ports[1], Found { listens: false, connections: 3 })])
        );
        assert!(count(&[]).expect("nobody is asked").is_empty());
    }
}
