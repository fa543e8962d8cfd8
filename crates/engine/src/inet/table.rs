//! The kernel's tables in `/proc/net`, as text.

use std::fs;
use std::io;
use std::ops::RangeInclusive;

use super::{InetSocket, Protocol, State, states};

/// Reads the tables of IPv4 and IPv6; a machine may have none of the latter.
pub(super) fn read(
    protocol: Protocol,
    ports: &RangeInclusive<u16>,
    states: &[State],
) -> io::Result<Vec<InetSocket>> {
    let tables = match protocol {
        Protocol::Tcp => ["tcp", "tcp6"],
        Protocol::Udp => ["udp", "udp6"],
    };
    let texts = tables.map(|table| fs::read_to_string(format!("/proc/self/net/{table}")));
    if let [Err(_), Err(_)] = texts {
        let [error, _] = texts;
        return error.map(|_| Vec::new());
    }
    let texts = texts.into_iter().flatten();
    Ok(texts.flat_map(|text| rows(&text, ports, states)).collect())
}

/// Returns the rows that are wanted, and can be read.
fn rows(text: &str, ports: &RangeInclusive<u16>, states: &[State]) -> Vec<InetSocket> {
    // Tens of thousands of rows may be of others; where one port is asked for, only those with it in them are worth a look.
    let one_port = (ports.start() == ports.end()).then(|| format!(":{:04X} ", ports.start()));
    let is_worth_a_look = |row: &&str| one_port.as_ref().is_none_or(|port| row.contains(port));
    let is_wanted =
        |socket: &InetSocket| ports.contains(&socket.local_port) && states.contains(&socket.state);
    text.lines().skip(1).filter(is_worth_a_look).filter_map(row).filter(is_wanted).collect()
}

/// Rows look like `0: 0100007F:1F90 00000000:0000 0A … … … uid timeout inode …`.
fn row(text: &str) -> Option<InetSocket> {
    let mut fields = text.split_whitespace().skip(1);
    let mut port = || u16::from_str_radix(fields.next()?.rsplit_once(':')?.1, 16).ok();
    let (local_port, remote_port) = (port()?, port()?);
    let number = u8::from_str_radix(fields.next()?, 16).ok()?;
    let is_of_processes = 1_u32.checked_shl(number.into()).is_some_and(|bit| bit & states::OF_PROCESSES != 0);
    let inode = fields.nth(5)?.parse().ok()?;
    is_of_processes.then_some(InetSocket { state: State::of_number(number), local_port, remote_port, inode })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn odd_rows_are_passed_over() {
        let table = "head\n\n0:\n1: no port 0A\n2: 0:ZZZZ 0:0 0A 0 0 0 0 0 1\n3: 0:1F90 0:0 0A 0 0 0 0 0 -4\n\
                     4: 0:1F90 0:0 FF 0 0 0 0 0 7\n5: 0:1F90 0:0 06 0 0 0 0 0 0\n6: 0:1F90 0:0 0A 0 0 0 0 0 4242\n\
                     7: 0:1F91 0:1F90 01 0 0 0 0 0 4243\n";
        let found = rows(table, &(8080..=8080), &[State::Listens, State::Established, State::Other]);
        let expected = InetSocket { state: State::Listens, local_port: 8080, remote_port: 0, inode: 4242 };
        assert_eq!(found, [expected]);
        assert_eq!(rows(table, &(8080..=8081), &[State::Established]).len(), 1);
    }
}
