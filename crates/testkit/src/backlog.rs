//! How long the queue of a listening socket is, as the kernel has it.

use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, netlink, recv, send, socket_with,
};

/// `SOCK_DIAG_BY_FAMILY`: the question, and the kind of its answers.
pub(crate) const BY_FAMILY: u16 = 20;
/// `NLM_F_REQUEST | NLM_F_DUMP`: everything that fits the question.
const DUMP: u16 = 0x301;
pub(crate) const TCP: u8 = 6;
const LISTENING: u32 = 1 << 10;
/// Of `struct nlmsghdr`, which precedes each message.
pub(crate) const HEADER: usize = 16;
/// Of `struct inet_diag_req_v2` and, in `struct inet_diag_msg`, of the port and of the queue's limit.
pub(crate) const QUESTION: usize = 56;
const PORT: usize = HEADER + 4;
const LIMIT: usize = HEADER + 60;

/// Returns the limit of the queue of the TCP socket that listens on this port; what `ss -ltn` calls Send-Q.
///
/// # Panics
///
/// When the kernel does not tell.
#[must_use]
#[track_caller]
pub fn backlog(port: u16) -> Option<u32> {
    [AddressFamily::INET6, AddressFamily::INET]
        .into_iter()
        .find_map(|family| backlog_of(family, port).expect("the kernel tells about sockets"))
}

fn backlog_of(family: AddressFamily, port: u16) -> Result<Option<u32>, Errno> {
    let protocol = Some(netlink::SOCK_DIAG);
    let kernel = socket_with(AddressFamily::NETLINK, SocketType::DGRAM, SocketFlags::CLOEXEC, protocol)?;
    send(&kernel, &question(family), SendFlags::empty())?;
    let mut found = None;
    let mut buffer = vec![0; 32 * 1024];
    loop {
        let (count, _) = recv(&kernel, &mut buffer[..], RecvFlags::empty())?;
        let mut rest = &buffer[..count];
        while let Some((length, kind)) = header(rest) {
            if kind != BY_FAMILY {
                return Ok(found);
            }
            let Some(answer) = rest.get(..length) else { break };
            if answer.get(PORT..PORT + 2) == Some(&port.to_be_bytes()) {
                found = found.or_else(|| number(answer, LIMIT));
            }
            rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
        }
    }
}

fn question(family: AddressFamily) -> Vec<u8> {
    let length = u32::try_from(HEADER + QUESTION).expect("it is short");
    let mut bytes = Vec::new();
    bytes.extend(length.to_ne_bytes());
    bytes.extend(BY_FAMILY.to_ne_bytes());
    bytes.extend(DUMP.to_ne_bytes());
    // The number of the question, and who asks: the kernel fills it in.
    bytes.extend([0; 8]);
    bytes.extend([u8::try_from(family.as_raw()).expect("families are small"), TCP, 0, 0]);
    bytes.extend(LISTENING.to_ne_bytes());
    // Any address, any port.
    bytes.resize(HEADER + QUESTION, 0);
    bytes
}

/// Returns the length and the kind of the message that the bytes begin with.
pub(crate) fn header(bytes: &[u8]) -> Option<(usize, u16)> {
    let length = usize::try_from(number(bytes, 0)?).ok()?;
    let kind = u16::from_ne_bytes(bytes.get(4..6)?.try_into().ok()?);
    (length >= HEADER).then_some((length, kind))
}

pub(crate) fn number(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use rustix::net::{bind, ipproto, listen};
    use std::net::{SocketAddr, TcpListener};

    use super::*;

    #[test]
    fn the_kernel_tells_what_was_asked_for() {
        for (address, length) in [("127.0.0.1:0", 7), ("[::1]:0", 33)] {
            let address: SocketAddr = address.parse().unwrap();
            let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
            let flags = SocketFlags::CLOEXEC;
            let socket = socket_with(family, SocketType::STREAM, flags, Some(ipproto::TCP)).unwrap();
            bind(&socket, &address).unwrap();
            listen(&socket, length).unwrap();
            let listener = TcpListener::from(socket);
            let port = listener.local_addr().unwrap().port();
            assert_eq!(backlog(port), u32::try_from(length).ok());
            drop(listener);
            assert_eq!(backlog(port), None);
        }
    }
}
