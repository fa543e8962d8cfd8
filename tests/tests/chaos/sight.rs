//! What connections a process has, seen from outside: for workers that keep no record themselves.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::net::Ipv4Addr;

use worksong_testkit::{Signal, eventually, process};

use crate::client::ConnectionId;

/// Stops a process and returns the connections that it had then: it can accept no other one before it is killed.
pub(crate) fn stop_and_look(pid: u32) -> Vec<ConnectionId> {
    process::kill(pid, Signal::STOP);
    eventually("all threads to stand still", || {
        let mut threads = fs::read_dir(format!("/proc/{pid}/task")).ok()?.flatten();
        let stopped = |thread: fs::DirEntry| process::state(thread.file_name().to_str()?.parse().ok()?);
        threads.all(|thread| stopped(thread) == Some('T')).then_some(())
    });
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
    ["/proc/net/tcp", "/proc/net/tcp6"]
        .iter()
        .flat_map(|table| {
            // A system without IPv6 has only one table.
            let table = fs::read_to_string(table).unwrap_or_default();
            table.lines().skip(1).filter_map(read_row).collect::<Vec<_>>()
        })
        .collect()
}

fn read_row(row: &str) -> Option<(u64, ConnectionId)> {
    let mut fields = row.split_whitespace();
    let (local, _port) = fields.nth(1)?.split_once(':')?;
    let inode = fields.nth(7)?.parse().ok()?;
    // The last word of an address is the whole of an IPv4 one, mapped or not; words are printed in host order.
    let word = u32::from_str_radix(local.get(local.len().checked_sub(8)?..)?, 16).ok()?;
    Some((inode, ConnectionId::of(Ipv4Addr::from(word.to_ne_bytes()))?))
}
