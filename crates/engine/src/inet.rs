//! TCP and UDP sockets of this machine, by their ports: whose they are, and what they do.
//!
//! The kernel is asked by `sock_diag`; where that is forbidden, as in some containers, its tables in `/proc/net` are read. Both
//! tell of the network namespace that this process is in.

mod diag;
mod table;

use std::io;
use std::ops::RangeInclusive;

/// Over what a socket talks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// TCP over IPv4 and IPv6.
    Tcp,
    /// UDP over IPv4 and IPv6.
    Udp,
}

/// What a socket does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// It listens.
    Listens,
    /// It has a peer, and both ends may send.
    Established,
    /// It is beginning or ending, or a datagram socket without a peer.
    Other,
}

/// A socket as the kernel tells of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InetSocket {
    /// What it does.
    pub state: State,
    /// The port at this end.
    pub local_port: u16,
    /// The port at the other end; 0 when there is none.
    pub remote_port: u16,
    /// The number by which `/proc/PID/fd` names it; 0 while no process has it: nobody has accepted it, or all have closed it.
    pub inode: u64,
}

/// The numbers of the kernel's states (`tcp_states.h`).
mod states {
    pub(super) const ESTABLISHED: u8 = 1;
    pub(super) const LISTEN: u8 = 10;
    /// All but those that no process can have: `TCP_TIME_WAIT` and `TCP_NEW_SYN_RECV`.
    pub(super) const OF_PROCESSES: u32 = 0xffe & !(1 << 6);
}

impl State {
    fn of_number(number: u8) -> Self {
        match number {
            states::ESTABLISHED => Self::Established,
            states::LISTEN => Self::Listens,
            _ => Self::Other,
        }
    }

    /// Returns the bits of the kernel's states that this one stands for.
    fn bits(self) -> u32 {
        const ESTABLISHED: u32 = 1 << states::ESTABLISHED;
        const LISTEN: u32 = 1 << states::LISTEN;
        match self {
            Self::Listens => LISTEN,
            Self::Established => ESTABLISHED,
            Self::Other => states::OF_PROCESSES & !(ESTABLISHED | LISTEN),
        }
    }
}

/// Returns the sockets in one of these states whose local port is one of these.
///
/// It takes a moment for each hundred thousand sockets of the machine: not for a thread that others wait for.
///
/// # Errors
///
/// When the kernel tells neither way.
pub fn sockets_at(
    protocol: Protocol,
    ports: RangeInclusive<u16>,
    states: &[State],
) -> io::Result<Vec<InetSocket>> {
    diag::ask(protocol, &ports, states).or_else(|_forbidden| table::read(protocol, &ports, states))
}

#[cfg(test)]
mod tests {
    use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
    use std::os::fd::AsFd;
    use std::time::{Duration, Instant};

    use rustix::fs::fstat;

    use super::*;
    use crate::listen::tcp_info;

    type Ask = fn(Protocol, &RangeInclusive<u16>, &[State]) -> io::Result<Vec<InetSocket>>;

    const WAYS: [Ask; 2] = [diag::ask, table::read];
    const ALL: [State; 3] = [State::Listens, State::Established, State::Other];

    fn inode(socket: impl AsFd) -> u64 {
        fstat(socket).expect("an inode").st_ino
    }

    #[test]
    fn both_ways_tell_the_same_of_tcp() {
        for address in ["127.0.0.1:0", "[::1]:0"] {
            let address: SocketAddr = address.parse().expect("an address");
            let listener = TcpListener::bind(address).expect("a port");
            let address = listener.local_addr().expect("an address");
            // More than one buffer of answers.
            let clients: Vec<TcpStream> =
                (0..120).map(|_| TcpStream::connect(address).expect("it listens")).collect();
            // A client's end is open a moment before the other one is.
            let by = Instant::now() + Duration::from_secs(10);
            while tcp_info(&listener).expect("it listens").tcpi_unacked < 120 {
                assert!(Instant::now() < by, "not all are in the queue");
                std::thread::yield_now();
            }
            let (accepted, from) = listener.accept().expect("a connection");
            for ask in WAYS {
                let ask = |states: &[State]| {
                    ask(Protocol::Tcp, &(address.port()..=address.port()), states).expect("the kernel tells")
                };
                let listening = ask(&[State::Listens]);
                let expected = InetSocket {
                    state: State::Listens,
                    local_port: address.port(),
                    remote_port: 0,
                    inode: inode(&listener),
                };
                assert_eq!(listening, [expected]);
                let connections = ask(&[State::Established]);
                assert_eq!(connections.len(), clients.len(), "taken or not, and not their clients");
                let taken: Vec<_> = connections.iter().filter(|socket| socket.inode != 0).collect();
                let expected = InetSocket {
                    state: State::Established,
                    remote_port: from.port(),
                    inode: inode(&accepted),
                    ..expected
                };
                assert_eq!(taken, [&expected]);
                assert_eq!(ask(&ALL).len(), connections.len() + 1);
            }
        }
    }

    #[test]
    fn both_ways_tell_the_same_of_udp() {
        let socket = UdpSocket::bind("127.0.0.1:0").expect("a port");
        let port = socket.local_addr().expect("an address").port();
        for ask in WAYS {
            let found = ask(Protocol::Udp, &(port..=port), &ALL).expect("the kernel tells");
            let inodes: Vec<u64> = found.iter().map(|found| found.inode).collect();
            assert_eq!(inodes, [inode(&socket)]);
        }
    }

    #[test]
    fn only_the_ports_that_are_asked_for_are_told() {
        let listeners = [(); 8].map(|()| TcpListener::bind("127.0.0.1:0").expect("a port"));
        let mut ports =
            listeners.map(|listener| (listener.local_addr().expect("an address").port(), listener));
        ports.sort_unstable_by_key(|(port, _)| *port);
        let wanted = ports[2].0..=ports[5].0;
        for ask in WAYS {
            let found = ask(Protocol::Tcp, &wanted, &[State::Listens]).expect("the kernel tells");
            let own = |socket: &&InetSocket| ports.iter().any(|(port, _)| *port == socket.local_port);
            assert!(found.iter().all(|socket| wanted.contains(&socket.local_port)), "{found:?}");
            assert_eq!(found.iter().filter(own).count(), 4, "{found:?}");
        }
    }
}
