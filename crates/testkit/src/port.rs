//! Ports for programs that have to be told one.

use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher, Hasher};
use std::net::{Ipv4Addr, Ipv6Addr, TcpListener};

/// Below what the kernel gives to clients, or to whoever asks for any port.
const FIRST: u16 = 10_000;
const COUNT: u16 = 22_000;

/// Returns a TCP port that nobody listens on, for a program that cannot be told to take any.
///
/// It is chosen by chance where the kernel chooses none, so that it is most probably still free when it is bound.
#[must_use]
pub fn free_port() -> u16 {
    loop {
        let chance = RandomState::new().build_hasher().finish();
        let port = FIRST + (chance % u64::from(COUNT)) as u16;
        let is_free = TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)).is_ok()
            && TcpListener::bind((Ipv6Addr::UNSPECIFIED, port)).is_ok();
        if is_free {
            return port;
        }
    }
}
