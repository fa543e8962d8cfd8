//! What connections a process has, seen from outside: for workers that keep no record themselves.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::net::Ipv4Addr;

use worksong_testkit::process;

use crate::client::ConnectionId;

/// Stops a process and returns the connections that it had then: it can accept no other one before it is killed.
pub(crate) fn stop_and_look(pid: u32) -> Vec<ConnectionId> {
    process::freeze(pid);
    let sockets = sockets_of(pid);
    let connections = connections();
    sockets.iter().filter_map(|inode| connections.get(inode).copied()).collect()
}

/// Returns the inodes of the sockets that a process has open.
fn sockets_of(pid: u32) -> HashSet<u64> {
    let descriptors = fs::read_dir(format!("/proc/{pid}/fd")).expect("a stopped process has descriptors");
    let inode = |entry: fs::DirEntry| {
        let target = fs::read_link(entry.path()).ok()?;
        target.to_str()?.strip_prefix("socket:[")?.strip_suffix(']')?.parse().ok()
    };
    descriptors.flatten().filter_map(inode).collect()
}

/// Returns the server's side of all connections of the client, by the inode of the socket.
fn connections() -> HashMap<u64, ConnectionId> {
    let table = fs::read_to_string("/proc/net/tcp").expect("tests run on Linux with /proc");
    table.split('\n').filter(|row| !is_over(row)).filter_map(read_row).collect()
}

/// Returns true for what the kernel only remembers: by far the most rows, which belong to no process.
fn is_over(row: &str) -> bool {
    const TIME_WAIT: &str = " 06 ";
    // After two addresses, whose place depends on the digits of the row's number.
    row.get(30..42).is_some_and(|state| state.contains(TIME_WAIT))
}

fn read_row(row: &str) -> Option<(u64, ConnectionId)> {
    let mut fields = row.split_whitespace();
    let (local, _port) = fields.nth(1)?.split_once(':')?;
    let inode = fields.nth(7)?.parse().ok()?;
    // The bytes of an address are in the order of the network, printed as one number.
    let address = u32::from_str_radix(local, 16).ok()?;
    Some((inode, ConnectionId::of(Ipv4Addr::from(address.to_ne_bytes()))?))
}
