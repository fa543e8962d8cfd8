//! Whose request a proxy passes on: `X-Forwarded-For`, or `Forwarded` (RFC 7239).

use std::net::{IpAddr, SocketAddr};

use super::request::Head;

/// Finds the client's address: the last one that is told by proxies that are trusted.
///
/// Each proxy adds whom it heard from at the end. So the list is believed from its end, as long as those are trusted
/// who told it; what stands further in front is anybody's claim.
pub(super) fn origin(head: &Head<'_, '_>, is_trusted: impl Fn(IpAddr) -> bool) -> Option<IpAddr> {
    last_told(head.values("x-forwarded-for"), Some, &is_trusted)
        .or_else(|| last_told(head.values("forwarded"), for_of, &is_trusted))
}

fn last_told<'a>(
    values: impl DoubleEndedIterator<Item = &'a [u8]>,
    node_of: impl Fn(&'a [u8]) -> Option<&'a [u8]>,
    is_trusted: impl Fn(IpAddr) -> bool,
) -> Option<IpAddr> {
    let mut told = None;
    for element in values.rev().flat_map(|value| value.rsplit(|byte| *byte == b',')) {
        let Some(address) = node_of(element.trim_ascii()).and_then(address_of) else { break };
        told = Some(address);
        if !is_trusted(address) {
            break;
        }
    }
    told
}

/// Finds the `for` of an element such as `for="[2001:db8::1]:4711";proto=https`.
fn for_of(element: &[u8]) -> Option<&[u8]> {
    let pairs = element.split(|byte| *byte == b';').map(<[u8]>::trim_ascii);
    pairs.filter_map(|pair| Some((pair.get(..4)?, pair.get(4..)?))).find_map(|(name, value)| {
        let value = value.strip_prefix(b"\"").and_then(|value| value.strip_suffix(b"\"")).unwrap_or(value);
        name.eq_ignore_ascii_case(b"for=").then_some(value)
    })
}

/// Reads an address that may have a port: `192.0.2.7`, `192.0.2.7:4711`, `2001:db8::1`, `[2001:db8::1]`, `[2001:db8::1]:4711`.
fn address_of(node: &[u8]) -> Option<IpAddr> {
    let text = str::from_utf8(node).ok()?;
    let bare = text.strip_prefix('[').and_then(|text| text.strip_suffix(']')).unwrap_or(text);
    bare.parse().or_else(|_with_port| text.parse().map(|address: SocketAddr| address.ip())).ok()
}
