//! Any first bytes of a connection, seen in any parts: once they have told whom it belongs to, more of them change nothing.
//!
//! The first byte says what is looked for, the second one who the client is, the third one how the rest is cut.

use std::net::IpAddr;

use crate::sticky::{LONGEST_LOOK, Look, StickyBy, fallback, look};

/// What may be looked for.
const WAYS: [&str; 11] = [
    "ip",
    "cookie:sid",
    "header:X-User",
    "query:sid",
    "path",
    "path:3",
    "sni",
    "proxy",
    "socket.io",
    "forwarded-for:10.0.0.0/8,2001:db8::/32",
    "forwarded-for:0.0.0.0/0,::/0",
];

const CLIENTS: [Option<&str>; 4] = [None, Some("10.1.2.3"), Some("192.0.2.7"), Some("2001:db8::7")];

/// Shorter beginnings are cut at every byte.
const SHORT: usize = 400;

pub(crate) fn run(data: &[u8]) {
    let [way, client, cut, bytes @ ..] = data else { return };
    let way = WAYS[usize::from(*way) % WAYS.len()];
    let by: StickyBy = way.parse().expect("what people may write");
    let client = CLIENTS[usize::from(*client) % CLIENTS.len()];
    let client: Option<IpAddr> = client.map(|client| client.parse().expect("an address"));
    let bytes = &bytes[..bytes.len().min(LONGEST_LOOK)];
    let part = if bytes.len() <= SHORT { 1 } else { usize::from(*cut) * 16 + 1 };
    let answer = look_in_parts(&by, client, bytes, part);
    if bytes.len() == LONGEST_LOOK {
        assert_ne!(answer, Look::More, "no more is looked at");
    }
    if let Look::Key(key) = answer {
        let _any_slot_can_be_asked = (0..4).map(|slot| key.weight(slot)).max();
    }
    hide_behind_a_proxy(&by, client, bytes);
}

/// Looks at ever more of the bytes, and returns what is seen in all of them.
fn look_in_parts(by: &StickyBy, client: Option<IpAddr>, bytes: &[u8], part: usize) -> Look {
    let lengths = (0..bytes.len()).step_by(part).chain([bytes.len()]);
    let mut answer = Look::More;
    let mut goes_to = None;
    for seen in lengths.map(|length| &bytes[..length]) {
        let next = look(by, client, seen);
        assert!(answer == Look::More || next == answer, "{answer:?} became {next:?} at {}", seen.len());
        answer = next;
        if next == Look::Nothing {
            let address = fallback(by, client, seen);
            assert_eq!(*goes_to.get_or_insert(address), address, "at {}", seen.len());
        }
    }
    answer
}

/// What a proxy says before the first bytes changes nothing where they alone count.
fn hide_behind_a_proxy(by: &StickyBy, client: Option<IpAddr>, bytes: &[u8]) {
    const HEADER: &[u8] = b"PROXY TCP4 192.0.2.9 192.0.2.1 4711 80\r\n";
    let begins = |with: &[u8]| bytes.iter().zip(with).all(|(is, should)| is == should);
    let is_proxied = begins(b"PROXY ") || begins(b"\r\n\r\n\0\r\nQUIT\n");
    if by.needs_address() || is_proxied || bytes.len() + HEADER.len() >= LONGEST_LOOK {
        return;
    }
    assert_eq!(look(by, client, &[HEADER, bytes].concat()), look(by, client, bytes));
}
