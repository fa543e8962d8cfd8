//! `sock_diag`: the kernel's own table, asked over netlink.

use std::io;
use std::ops::RangeInclusive;
use std::os::fd::AsFd;

use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, netlink, recv, send, socket_with,
};

use super::{InetSocket, Protocol, State};

/// `SOCK_DIAG_BY_FAMILY`: the question, and the kind of its answers.
const BY_FAMILY: u16 = 20;
/// `NLMSG_ERROR`: the kernel does not answer.
const ERROR: u16 = 2;
/// `NLMSG_DONE`: that was all, or why there was no more.
const DONE: u16 = 3;
/// `NLM_F_REQUEST | NLM_F_DUMP`: everything that fits the question.
const DUMP: u16 = 0x301;
/// `IPPROTO_TCP`, `IPPROTO_UDP`.
const TCP: u8 = 6;
const UDP: u8 = 17;
/// `INET_DIAG_REQ_BYTECODE`: the attribute with the condition.
const CONDITION: u16 = 1;
/// `INET_DIAG_BC_S_GE`, `INET_DIAG_BC_S_LE`: the local port is at least, at most what the next entry says.
const AT_LEAST: u8 = 2;
const AT_MOST: u8 = 3;
/// Of `struct nlmsghdr`, which precedes each message.
const HEADER: usize = 16;
/// Of `struct inet_diag_req_v2`.
const QUESTION: usize = 56;
/// Where things stand in an answer (`struct inet_diag_msg`).
const STATE: usize = HEADER + 1;
const LOCAL_PORT: usize = HEADER + 4;
const REMOTE_PORT: usize = HEADER + 6;
const INODE: usize = HEADER + 68;
/// As much as the kernel writes at a time.
const BUFFER: usize = 32 * 1024;

/// Asks the kernel.
pub(super) fn ask(
    protocol: Protocol,
    ports: &RangeInclusive<u16>,
    states: &[State],
) -> io::Result<Vec<InetSocket>> {
    let mut found = Vec::new();
    for family in [AddressFamily::INET, AddressFamily::INET6] {
        let diag = Some(netlink::SOCK_DIAG);
        let kernel = socket_with(AddressFamily::NETLINK, SocketType::DGRAM, SocketFlags::CLOEXEC, diag)?;
        send(&kernel, &question(family, protocol, ports, states), SendFlags::empty())?;
        read(&kernel, &mut found)?;
    }
    Ok(found)
}

/// Reads all answers.
fn read(kernel: &impl AsFd, found: &mut Vec<InetSocket>) -> Result<(), Errno> {
    let mut buffer = vec![0; BUFFER];
    loop {
        let (count, _) = recv(kernel, &mut buffer[..], RecvFlags::empty())?;
        let mut rest = buffer.get(..count).unwrap_or_default();
        if rest.is_empty() {
            return Ok(());
        }
        while let Some((length, kind)) = header(rest) {
            match kind {
                BY_FAMILY => found.extend(rest.get(..length).and_then(socket)),
                DONE => return end(rest),
                ERROR => return Err(Errno::OPNOTSUPP),
                // Nothing else is an answer.
                _ => {}
            }
            rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
        }
    }
}

/// Reads the end of the answers, which begins with the number of an error where there is one: the kernel may have no part for
/// such sockets (`CONFIG_INET_UDP_DIAG`).
fn end(message: &[u8]) -> Result<(), Errno> {
    let code = message.get(HEADER..HEADER + 4).and_then(|code| code.try_into().ok()).map(i32::from_ne_bytes);
    match code {
        Some(code @ ..0) => Err(Errno::from_raw_os_error(code.saturating_neg())),
        Some(0..) | None => Ok(()),
    }
}

/// Reads one answer.
fn socket(message: &[u8]) -> Option<InetSocket> {
    let port = |at: usize| Some(u16::from_be_bytes(message.get(at..at + 2)?.try_into().ok()?));
    Some(InetSocket {
        state: State::of_number(*message.get(STATE)?),
        local_port: port(LOCAL_PORT)?,
        remote_port: port(REMOTE_PORT)?,
        inode: u32::from_ne_bytes(message.get(INODE..INODE + 4)?.try_into().ok()?).into(),
    })
}

/// Asks for the sockets in these states whose local port is one of these.
fn question(
    family: AddressFamily,
    protocol: Protocol,
    ports: &RangeInclusive<u16>,
    states: &[State],
) -> Vec<u8> {
    let protocol = match protocol {
        Protocol::Tcp => TCP,
        Protocol::Udp => UDP,
    };
    let states = states.iter().fold(0, |bits, state| bits | state.bits());
    // Each entry: what it is, how far the next one is when it holds, and how far when not; one past the end refuses.
    let entry = |code: u8, yes: u8, no: u16| [&[code, yes][..], &no.to_ne_bytes()].concat();
    let (first, last) = (*ports.start(), *ports.end());
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
    bytes.extend([family.as_raw() as u8, protocol, 0, 0]);
    bytes.extend(states.to_ne_bytes());
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
    use super::*;

    #[test]
    fn an_end_may_be_an_error() {
        let with = |code: i32| [&[0; HEADER][..], &code.to_ne_bytes()].concat();
        assert_eq!(end(&with(0)), Ok(()));
        assert_eq!(end(&[0; HEADER]), Ok(()));
        assert_eq!(end(&with(-libc::ENOENT)), Err(Errno::NOENT));
    }
}
