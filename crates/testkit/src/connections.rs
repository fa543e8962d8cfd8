//! Who has a connection, as the kernel has it: what a server does not tell by itself.

use std::fs;
use std::net::{IpAddr, SocketAddr};

use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, netlink, recv, send, socket_with,
};

use crate::backlog::{BY_FAMILY, HEADER, QUESTION, TCP, header, number};

/// `NLM_F_REQUEST`: about one socket.
const ONE: u16 = 1;
/// Of `struct inet_diag_msg`.
const INODE: usize = HEADER + 68;

/// Returns the number of the socket at the server's end of a TCP connection, once a process has accepted it.
///
/// # Panics
///
/// When the kernel does not tell.
#[must_use]
#[track_caller]
pub fn accepted_socket(server: SocketAddr, client: SocketAddr) -> Option<u32> {
    inode(server, client).expect("the kernel tells about sockets").filter(|inode| *inode != 0)
}

/// Returns whether a process has a socket with this number.
#[must_use]
pub fn has_socket(pid: u32, inode: u32) -> bool {
    let link = format!("socket:[{inode}]");
    let descriptors = fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
    descriptors
        .filter_map(|descriptor| fs::read_link(descriptor.path()).ok())
        .any(|target| target.as_os_str() == link.as_str())
}

fn inode(server: SocketAddr, client: SocketAddr) -> Result<Option<u32>, Errno> {
    let protocol = Some(netlink::SOCK_DIAG);
    let kernel = socket_with(AddressFamily::NETLINK, SocketType::DGRAM, SocketFlags::CLOEXEC, protocol)?;
    send(&kernel, &question(server, client), SendFlags::empty())?;
    let mut buffer = vec![0; 4096];
    let (count, _) = recv(&kernel, &mut buffer[..], RecvFlags::empty())?;
    let answer = &buffer[..count];
    // Everything else says that there is no such socket.
    let is_found = header(answer).is_some_and(|(_, kind)| kind == BY_FAMILY);
    Ok(is_found.then(|| number(answer, INODE)).flatten())
}

fn question(server: SocketAddr, client: SocketAddr) -> Vec<u8> {
    let length = u32::try_from(HEADER + QUESTION).expect("it is short");
    let family = if server.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let mut bytes = Vec::new();
    bytes.extend(length.to_ne_bytes());
    bytes.extend(BY_FAMILY.to_ne_bytes());
    bytes.extend(ONE.to_ne_bytes());
    bytes.extend([0; 8]);
    bytes.extend([u8::try_from(family.as_raw()).expect("families are small"), TCP, 0, 0]);
    // In any state.
    bytes.extend(u32::MAX.to_ne_bytes());
    bytes.extend(server.port().to_be_bytes());
    bytes.extend(client.port().to_be_bytes());
    bytes.extend(octets(server.ip()));
    bytes.extend(octets(client.ip()));
    // On any interface; without a cookie.
    bytes.extend(0_u32.to_ne_bytes());
    bytes.extend([0xff; 8]);
    bytes
}

fn octets(address: IpAddr) -> [u8; 16] {
    match address {
        IpAddr::V4(address) => {
            let mut octets = [0; 16];
            octets[..4].copy_from_slice(&address.octets());
            octets
        }
        IpAddr::V6(address) => address.octets(),
    }
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};

    use super::*;

    #[test]
    fn a_connection_has_a_socket_once_it_is_accepted() {
        for address in ["127.0.0.1:0", "[::1]:0"] {
            let listener = TcpListener::bind(address).unwrap();
            let server = listener.local_addr().unwrap();
            let client = TcpStream::connect(server).unwrap();
            let end = client.local_addr().unwrap();
            assert_eq!(accepted_socket(server, end), None, "it waits in the queue");
            let accepted = listener.accept().unwrap();
            let inode = accepted_socket(server, end).expect("it is accepted");
            assert!(has_socket(std::process::id(), inode));
            drop((accepted, client));
            assert!(!has_socket(std::process::id(), inode));
        }
    }
}
