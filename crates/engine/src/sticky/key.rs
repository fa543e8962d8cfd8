//! What connections that belong together share, as a number.

use std::net::IpAddr;

/// What stands before the number of the slot in a value that names one.
const NAMES_SLOT: &[u8] = b".slot";

/// Whom a connection belongs to. It is the same in every primary, on every machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Key {
    hash: u64,
    /// The slot that the value names: its worker has made the value.
    home: Option<u32>,
}

impl Key {
    /// Returns the key of a text, such as a cookie's value. One that ends in `.slot3` belongs to slot 3.
    pub(crate) fn of(value: &[u8]) -> Self {
        Self { hash: hash(value), home: named_slot(value) }
    }

    /// Returns the key of an address; an IPv4 address is the same one when it came over an IPv6 socket.
    pub(crate) fn of_address(address: IpAddr) -> Self {
        let hash = match address.to_canonical() {
            IpAddr::V4(address) => hash(&address.octets()),
            IpAddr::V6(address) => hash(&address.octets()),
        };
        Self { hash, home: None }
    }

    /// Returns how much this key wants to be at the slot (rendezvous hashing): it goes to the slot that it wants most of those
    /// that there are, so a slot more or less moves only the keys that come to it or leave it. A slot that the value names is
    /// wanted most of all.
    pub(crate) fn weight(self, slot: u32) -> u64 {
        if self.home == Some(slot) { u64::MAX } else { mix(self.hash ^ mix(u64::from(slot) + 1)) }
    }
}

/// Finds the slot that a value names at its end.
fn named_slot(value: &[u8]) -> Option<u32> {
    let digits = value.iter().rev().take_while(|byte| byte.is_ascii_digit()).count();
    let (before, number) = value.split_at(value.len() - digits);
    before.ends_with(NAMES_SLOT).then(|| str::from_utf8(number).ok()?.parse().ok())?
}

/// FNV-1a: short texts, once per connection, and no promise but an even spread.
fn hash(value: &[u8]) -> u64 {
    mix(value.iter().fold(0xcbf2_9ce4_8422_2325, |hash: u64, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3)
    }))
}

/// Spreads a number over all bits (the finalizer of `SplitMix64`).
fn mix(mut number: u64) -> u64 {
    number = (number ^ (number >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    number = (number ^ (number >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    number ^ (number >> 31)
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, Ipv6Addr};

    use super::*;

    fn choose(key: Key, slots: u32) -> u32 {
        (0..slots).max_by_key(|slot| key.weight(*slot)).unwrap_or_default()
    }

    fn keys() -> impl Iterator<Item = Key> {
        (0..100_000_u32).map(|user| Key::of(format!("user-{user}").as_bytes()))
    }

    #[test]
    fn slots_get_even_shares() {
        let mut shares = [0_u32; 8];
        for key in keys() {
            shares[choose(key, 8) as usize] += 1;
        }
        let (least, most) = (shares.iter().min().copied(), shares.iter().max().copied());
        assert!(least > Some(12_000) && most < Some(13_000), "{shares:?}");
    }

    #[test]
    fn a_slot_more_moves_only_what_comes_to_it() {
        let moved: Vec<_> =
            keys().map(|key| (choose(key, 4), choose(key, 5))).filter(|(a, b)| a != b).collect();
        assert!(moved.iter().all(|(_, now)| *now == 4));
        assert!((19_000..21_000).contains(&moved.len()), "{} of 100000 moved", moved.len());
    }

    #[test]
    fn a_key_is_the_same_everywhere() {
        // A primary of another version must not send everybody to another worker.
        assert_eq!(Key::of(b"user-1"), Key { hash: 0xc499_b5f8_a721_df58, home: None });
    }

    #[test]
    fn a_value_belongs_to_the_slot_that_it_names() {
        for slot in 0..4 {
            assert_eq!(choose(Key::of(format!("4fBx.slot{slot}").as_bytes()), 4), slot);
        }
        let gone = Key::of(b"4fBx.slot4");
        assert_eq!(gone.home, Some(4));
        assert!(choose(gone, 4) < 4, "while the slot is not there, another one is wanted most");
        for other in ["slot3", "x.slot", "x.slot-1", "x.slot3 ", "x.slot99999999999", ".slot3.sig", ""] {
            assert_eq!(Key::of(other.as_bytes()).home, None, "{other}");
        }
    }

    #[test]
    fn an_address_is_one_over_both_families() {
        let v4 = Ipv4Addr::new(192, 0, 2, 7);
        let mapped: Ipv6Addr = v4.to_ipv6_mapped();
        assert_eq!(Key::of_address(v4.into()), Key::of_address(mapped.into()));
    }
}
