//! What helps when an address cannot be had.

use std::io;

use crate::holder::Holder;

/// Ports from here on are for everybody.
const FIRST_FREE_PORT: u16 = 1024;

/// Returns what to do where the primary itself could not listen.
pub(super) fn hint(address: &str, source: &io::Error, holder: Option<&Holder>) -> String {
    match (source.kind(), holder) {
        (io::ErrorKind::AddrInUse, Some(holder)) => {
            format!("; {holder} holds it: stop that process or listen on another address")
        }
        (io::ErrorKind::AddrInUse, None) => format!("; find its holder with: {}", who_holds(address)),
        _ => what_helps(address, source).to_owned(),
    }
}

/// Returns what to do where a worker could not listen; the holder of its address may be the primary.
pub(super) fn hint_for_worker(address: &str, source: &io::Error, holder: Option<&Holder>) -> String {
    match holder {
        Some(holder) => format!("; {holder} holds it"),
        None => what_helps(address, source).to_owned(),
    }
}

/// Returns the command that shows the sockets of this kind, with their processes.
fn who_holds(address: &str) -> &'static str {
    match address {
        path if path.contains('/') || path.starts_with('@') => "ss -lxp",
        datagrams if datagrams.starts_with("udp ") => "ss -lunp",
        _ => "ss -ltnp",
    }
}

fn what_helps(address: &str, source: &io::Error) -> &'static str {
    let is_path = address.contains('/');
    match source.kind() {
        io::ErrorKind::PermissionDenied if is_path => {
            "; this user may not create it there: use another folder, or let this user write to it"
        }
        io::ErrorKind::PermissionDenied if port(address).is_some_and(|port| port < FIRST_FREE_PORT) => {
            "; ports below 1024 need the capability CAP_NET_BIND_SERVICE: use a higher port, or grant it"
        }
        io::ErrorKind::AddrNotAvailable => "; no interface of this machine has this address: see ip addr",
        io::ErrorKind::NotFound if is_path => "; its folder is not there: create it first",
        _ => "",
    }
}

/// Returns the port of an address as people are told it: `127.0.0.1:80`, `port 80`.
fn port(address: &str) -> Option<u16> {
    address.rsplit([':', ' ']).next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_helps_depends_on_the_address() {
        let hint = |address, code| hint(address, &io::Error::from_raw_os_error(code), None);
        for address in ["port 80", "127.0.0.1:80", "[::]:443", "udp port 53", "udp 127.0.0.1:53"] {
            assert!(hint(address, libc::EACCES).contains("CAP_NET_BIND_SERVICE"), "{address}");
        }
        assert_eq!(hint("port 8080", libc::EACCES), "", "it is something else");
        for (address, command) in
            [("port 80", "ss -ltnp"), ("udp port 53", "ss -lunp"), ("/run/x.sock", "ss -lxp")]
        {
            assert_eq!(hint(address, libc::EADDRINUSE), format!("; find its holder with: {command}"));
        }
        assert!(hint("/root/x.sock", libc::EACCES).contains("use another folder"));
        assert!(hint("/run/none/x.sock", libc::ENOENT).contains("create it first"));
        assert!(hint("192.0.2.1:80", libc::EADDRNOTAVAIL).contains("see ip addr"));
        assert!(hint("port 80", libc::EADDRINUSE).contains("ss -ltnp"));
        let of_worker = hint_for_worker("*:80", &io::Error::from_raw_os_error(libc::EADDRINUSE), None);
        assert_eq!(of_worker, "", "it may be its own");
    }
}
