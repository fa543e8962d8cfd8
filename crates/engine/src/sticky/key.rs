//! What connections that belong together share, as a number.

use std::net::IpAddr;

/// Whom a connection belongs to. It is the same in every primary, on every machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Key(u64);

impl Key {
    /// Returns the key of a text, such as a cookie's value.
    pub(crate) fn of(value: &[u8]) -> Self {
        // FNV-1a: short texts, once per connection, and no promise but an even spread.
        let hash = value.iter().fold(0xcbf2_9ce4_8422_2325, |hash: u64, byte| {
            (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3)
        });
        Self(mix(hash))
    }

    /// Returns the key of an address; an IPv4 address is the same one when it came over an IPv6 socket.
    pub(crate) fn of_address(address: IpAddr) -> Self {
        match address.to_canonical() {
            IpAddr::V4(address) => Self::of(&address.octets()),
            IpAddr::V6(address) => Self::of(&address.octets()),
        }
    }

    /// Returns how much this key wants to be at the slot (rendezvous hashing): it goes to the slot that it wants most of those
    /// that there are, so a slot more or less moves only the keys that come to it or leave it.
    pub(crate) fn weight(self, slot: u32) -> u64 {
        mix(self.0 ^ mix(u64::from(slot) + 1))
    }
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
        assert_eq!(Key::of(b"user-1"), Key(0xc499_b5f8_a721_df58));
    }

    #[test]
    fn an_address_is_one_over_both_families() {
        let v4 = Ipv4Addr::new(192, 0, 2, 7);
        let mapped: Ipv6Addr = v4.to_ipv6_mapped();
        assert_eq!(Key::of_address(v4.into()), Key::of_address(mapped.into()));
    }
}
