//! What there is at local TCP ports, by the kernel's own table (`sock_diag`): who listens, and how many connections are open.

use std::collections::BTreeMap;

use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, netlink, recv, send, socket_with,
};

/// `SOCK_DIAG_BY_FAMILY`: the question, and the kind of its answers.
const BY_FAMILY: u16 = 20;
/// `NLMSG_ERROR`: the kernel does not answer.
const ERROR: u16 = 2;
/// `NLM_F_REQUEST | NLM_F_DUMP`: everything that fits the question.
const DUMP: u16 = 0x301;
const TCP: u8 = 6;
/// The states of the kernel's `enum` that are asked about.
const ESTABLISHED: u8 = 1;
const LISTEN: u8 = 10;
/// `INET_DIAG_REQ_BYTECODE`: the attribute with the condition.
const CONDITION: u16 = 1;
/// `INET_DIAG_BC_S_GE`, `INET_DIAG_BC_S_LE`: the local port is at least, at most what the next entry says.
const AT_LEAST: u8 = 2;
const AT_MOST: u8 = 3;
/// Of `struct nlmsghdr`, which precedes each message.
const HEADER: usize = 16;
/// Of `struct inet_diag_req_v2`.
const QUESTION: usize = 56;
/// Of the state and the local port in an answer (`struct inet_diag_msg`).
const STATE: usize = HEADER + 1;
const PORT: usize = HEADER + 4;
/// As much as the kernel writes at a time.
const BUFFER: usize = 32 * 1024;

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
/// It takes a moment for each hundred thousand connections of the machine: not for a thread that others wait for.
pub(crate) fn count(ports: &[u16]) -> Result<BTreeMap<u16, Found>, Errno> {
    let mut counts: BTreeMap<u16, Found> = BTreeMap::new();
    let Some((first, last)) = ports.iter().min().zip(ports.iter().max()) else { return Ok(counts) };
    for family in [AddressFamily::INET, AddressFamily::INET6] {
        let protocol = Some(netlink::SOCK_DIAG);
        let kernel = socket_with(AddressFamily::NETLINK, SocketType::DGRAM, SocketFlags::CLOEXEC, protocol)?;
        send(&kernel, &question(family, *first, *last), SendFlags::empty())?;
        read(&kernel, |state, port| {
            if ports.contains(&port) {
                let found = counts.entry(port).or_default();
                match state {
                    LISTEN => found.listens = true,
                    _ => found.connections += 1,
                }
            }
        })?;
    }
    Ok(counts)
}

/// Reads all answers, and tells the state and the local port of each.
fn read(kernel: &impl std::os::fd::AsFd, mut tell: impl FnMut(u8, u16)) -> Result<(), Errno> {
    let mut buffer = vec![0; BUFFER];
    loop {
        let (count, _) = recv(kernel, &mut buffer[..], RecvFlags::empty())?;
        let mut rest = buffer.get(..count).unwrap_or_default();
        if rest.is_empty() {
            return Ok(());
        }
        while let Some((length, kind)) = header(rest) {
            match kind {
                BY_FAMILY => {}
                ERROR => return Err(Errno::OPNOTSUPP),
                // `NLMSG_DONE`.
                _ => return Ok(()),
            }
            let port = rest.get(PORT..PORT + 2).and_then(|port| port.try_into().ok());
            if let (Some(state), Some(port)) = (rest.get(STATE), port) {
                tell(*state, u16::from_be_bytes(port));
            }
            rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
        }
    }
}

/// Asks for listening sockets and established connections whose local port is one from `first` to `last`.
fn question(family: AddressFamily, first: u16, last: u16) -> Vec<u8> {
    // Each entry: what it is, how far the next one is when it holds, and how far when not; one past the end refuses.
    let entry = |code: u8, yes: u8, no: u16| [&[code, yes][..], &no.to_ne_bytes()].concat();
    let condition =
        [entry(AT_LEAST, 8, 20), entry(0, 0, first), entry(AT_MOST, 8, 12), entry(0, 0, last)].concat();
    let attribute_length = 4 + condition.len();
    let length = HEADER + QUESTION + attribute_length;
    let mut bytes = Vec::with_capacity(length);
    bytes.extend((length as u32).to_ne_bytes());
    bytes.extend(BY_FAMILY.to_ne_bytes());
    bytes.extend(DUMP.to_ne_bytes());
    // The number of the question, and who asks: the kernel fills it in.
    bytes.extend([0; 8]);
    bytes.extend([family.as_raw() as u8, TCP, 0, 0]);
    bytes.extend((1_u32 << ESTABLISHED | 1 << LISTEN).to_ne_bytes());
    // Any address.
    bytes.resize(HEADER + QUESTION, 0);
    bytes.extend((attribute_length as u16).to_ne_bytes());
    bytes.extend(CONDITION.to_ne_bytes());
    bytes.extend(condition);
    bytes
}

/// Returns the length and the kind of the message that the bytes begin with.
fn header(bytes: &[u8]) -> Option<(usize, u16)> {
    let length = u32::from_ne_bytes(bytes.get(..4)?.try_into().ok()?) as usize;
    let kind = u16::from_ne_bytes(bytes.get(4..6)?.try_into().ok()?);
    (length >= HEADER).then_some((length, kind))
}

#[cfg(test)]
mod tests {
    use std::net::{SocketAddr, TcpListener, TcpStream};

    use super::*;

    #[test]
    fn connections_are_counted_at_the_port_that_took_them() {
        let listeners = ["127.0.0.1:0", "[::1]:0", "127.0.0.1:0"].map(|address| {
            let address: SocketAddr = address.parse().expect("an address");
            TcpListener::bind(address).expect("a free port")
        });
        let addresses = listeners.each_ref().map(|listener| listener.local_addr().expect("an address"));
        let ports = addresses.map(|address| address.port());
        // More than one buffer of answers.
        let mut held: Vec<_> =
            (0..120).map(|_| TcpStream::connect(addresses[0]).expect("it listens")).collect();
        held.extend((0..3).map(|_| TcpStream::connect(addresses[1]).expect("it listens")));
        let found = |connections| Found { listens: true, connections };
        assert_eq!(
            count(&ports).expect("the kernel tells"),
            BTreeMap::from([(ports[0], found(120)), (ports[1], found(3)), (ports[2], found(0))]),
            "taken or not, and not their clients"
        );
        let [first, second, third] = listeners;
        // What was not taken ends with its listener.
        let _taken: Vec<_> = (0..3).map(|_| second.accept().expect("a connection")).collect();
        drop((first, second, third));
        assert_eq!(
            count(&ports[1..]).expect("the kernel tells"),
            BTreeMap::from([(ports[1], Found { listens: false, connections: 3 })])
        );
        assert_eq!(count(&[]), Ok(BTreeMap::new()));
    }
}
