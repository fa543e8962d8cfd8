use std::fs;
use std::path::Path;

use proptest::prelude::*;

use super::*;

/// What the fuzz target does with its input.
#[path = "../../../../fuzz/bodies/sticky.rs"]
mod fuzzed;

const CLIENT: &str = "198.51.100.9";

fn client() -> IpAddr {
    address(CLIENT)
}

#[track_caller]
fn address(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

#[track_caller]
fn seen(by: &StickyBy, bytes: &[u8]) -> Look {
    look(by, Some(client()), bytes)
}

fn key(value: &str) -> Look {
    Look::Key(Key::of(value.as_bytes()))
}

fn key_of(text: &str) -> Look {
    Look::Key(Key::of_address(address(text)))
}

fn trusting(networks: &[&str]) -> StickyBy {
    StickyBy::ForwardedFor(networks.iter().map(|network| network.parse().expect("a network")).collect())
}

/// A `ClientHello` of a real client (such as openssl's, TLS 1.3) would be long; this one has what is looked at.
fn hello(name: &str) -> Vec<u8> {
    let vector = |length: usize, bytes: &[u8]| {
        let number = bytes.len().to_be_bytes();
        [&number[number.len() - length..], bytes].concat()
    };
    let name = vector(2, &[&[0][..], &vector(2, name.as_bytes())].concat());
    let extensions = [&[0, 43][..], &vector(2, &[2, 3, 4]), &[0, 0], &vector(2, &name)].concat();
    let body =
        [&[3, 3][..], &[7; 32], &vector(1, &[9; 32]), &vector(2, &[0x13, 1]), &vector(1, &[0])].concat();
    let body = [body, vector(2, &extensions)].concat();
    [&[22, 3, 1][..], &vector(2, &[&[1][..], &vector(3, &body)].concat())].concat()
}

#[test]
fn a_cookie_is_found_wherever_it_stands() {
    let by = StickyBy::Cookie("session".to_owned());
    assert_eq!(seen(&by, b"GET / HTTP/1.1\r\nHost: a\r\nCookie: session=42\r\n\r\n"), key("42"));
    assert_eq!(seen(&by, b"GET / HTTP/1.1\r\ncookie: a=b;  session=42; c=d\r\n\r\n"), key("42"));
    assert_eq!(seen(&by, b"GET / HTTP/1.1\r\nCookie: a=b\r\nCookie: session=42\r\n\r\nbody"), key("42"));
    assert_eq!(
        seen(&by, b"GET / HTTP/1.1\r\nCookie: xsession=1; sessions=2; session=\r\n\r\n"),
        Look::Nothing
    );
    assert_eq!(seen(&by, b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"), Look::Nothing);
    assert_eq!(seen(&by, b"GET / HTTP/1.1\r\nCookie: session=42\r\n"), Look::More);
}

#[test]
fn a_header_is_found_by_any_case() {
    let by = StickyBy::Header("X-User".to_owned());
    assert_eq!(seen(&by, b"POST /a HTTP/1.1\r\nx-user: bob \r\nX-User: eve\r\n\r\n"), key("bob"));
    assert_eq!(seen(&by, b"POST /a HTTP/1.1\r\nX-Users: bob\r\n\r\n"), Look::Nothing);
}

#[test]
fn a_query_parameter_needs_only_the_first_line() {
    let by = StickyBy::Query("sid".to_owned());
    assert_eq!(
        seen(&by, b"GET /socket.io/?EIO=4&transport=polling&sid=Zx_1-A HTTP/1.1\r\nHos"),
        key("Zx_1-A")
    );
    assert_eq!(seen(&by, b"GET http://host/socket.io/?sid=Zx_1-A HTTP/1.1\r\n"), key("Zx_1-A"));
    assert_eq!(seen(&by, b"GET /?sid=Zx_1"), Look::More);
    assert_eq!(seen(&by, b"GET /?xsid=1&sid= HTTP/1.1\r\n"), Look::Nothing);
    assert_eq!(seen(&by, b"GET /sid=1 HTTP/1.1\r\n"), Look::Nothing);
}

#[test]
fn a_session_of_socket_io_is_found_or_begins() {
    let request = |query: &str, headers: &str| {
        seen(
            &StickyBy::SocketIo,
            format!("GET /socket.io/?EIO=4{query} HTTP/1.1\r\n{headers}\r\n").as_bytes(),
        )
    };
    let proxied = "X-Forwarded-For: 192.0.2.7\r\n";
    assert_eq!(request("&transport=polling&sid=4fBx.slot2", proxied), key("4fBx.slot2"));
    assert_eq!(request("&transport=websocket&sid=4fBx.slot2", ""), key("4fBx.slot2"));
    assert_eq!(request("&transport=polling", "Host: a\r\n"), Look::Nothing, "one of a browser's connections");
    assert_eq!(request("&transport=polling", proxied), Look::Anyone);
    assert_eq!(request("&transport=polling", "forwarded: for=192.0.2.7\r\n"), Look::Anyone);
    assert_eq!(request("&transport=websocket", ""), Look::Anyone);
    let unfinished = b"GET /socket.io/?EIO=4&transport=polling HTTP/1.1\r\nHost: a\r\n";
    assert_eq!(seen(&StickyBy::SocketIo, unfinished), Look::More, "a proxy may say yet that it is one");
    assert_eq!(seen(&StickyBy::SocketIo, b"\x16\x03\x01\0\x05"), Look::Nothing);
}

#[test]
fn a_path_counts_by_its_first_segments() {
    let of = |segments, line: &str| seen(&StickyBy::Path(segments), line.as_bytes());
    assert_eq!(of(1, "GET /tenant/page?x=/y HTTP/1.1\r\n"), key("/tenant"));
    assert_eq!(of(1, "GET /tenant?x=/y HTTP/1.1\r\n"), key("/tenant"));
    assert_eq!(of(2, "GET /a/b/c HTTP/1.1\r\n"), key("/a/b"));
    assert_eq!(of(2, "GET / HTTP/1.1\r\n"), key("/"));
    assert_eq!(of(1, "GET http://host/tenant/page HTTP/1.1\r\n"), key("/tenant"));
    for pathless in
        ["OPTIONS * HTTP/1.1\r\n", "CONNECT host:443 HTTP/1.1\r\n", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"]
    {
        assert_eq!(of(1, pathless), Look::Nothing, "{pathless}");
    }
}

#[test]
fn what_is_not_http_goes_by_its_address() {
    let by = StickyBy::Cookie("session".to_owned());
    for other in
        [&b"\x16\x03\x01\0\x05"[..], b"\0\0\0\0", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", b"SSH-2.0-x\r\n"]
    {
        assert_eq!(seen(&by, other), Look::Nothing, "{other:?}");
        assert_eq!(fallback(&by, Some(client()), other).map(Look::Key), Some(key_of(CLIENT)));
    }
}

#[test]
fn a_head_that_does_not_end_is_looked_at_for_so_long() {
    let by = StickyBy::Cookie("session".to_owned());
    let mut long = b"GET / HTTP/1.1\r\nX: ".to_vec();
    long.resize(LONGEST_LOOK - 1, b'x');
    assert_eq!(seen(&by, &long), Look::More);
    long.push(b'x');
    assert_eq!(seen(&by, &long), Look::Nothing);
}

#[test]
fn a_server_name_is_found_in_a_client_hello() {
    let hello = hello("tenant.example");
    assert_eq!(seen(&StickyBy::ServerName, &hello), key("tenant.example"));
    for length in 1..hello.len() {
        assert_eq!(seen(&StickyBy::ServerName, &hello[..length]), Look::More, "{length} bytes");
    }
    assert_eq!(seen(&StickyBy::ServerName, b"GET / HTTP/1.1\r\n"), Look::Nothing);
}

#[test]
fn a_proxy_says_whose_connection_it_is() {
    let v1 = b"PROXY TCP4 192.0.2.7 192.0.2.1 4711 80\r\nGET / HTTP/1.1\r\nCookie: session=42\r\n\r\n";
    assert_eq!(seen(&StickyBy::Proxy, v1), key_of("192.0.2.7"));
    assert_eq!(seen(&StickyBy::Proxy, &v1[..30]), Look::More);
    // Another key stands behind it, and the address that others fall back on is the client's.
    assert_eq!(seen(&StickyBy::Cookie("session".to_owned()), v1), key("42"));
    assert_eq!(fallback(&StickyBy::ServerName, Some(client()), v1).map(Look::Key), Some(key_of("192.0.2.7")));
    assert_eq!(fallback(&StickyBy::Address, Some(client()), v1).map(Look::Key), Some(key_of(CLIENT)));
    let v2 = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c\xc0\0\x02\x07\xc0\0\x02\x01\x12\x67\0\x50";
    assert_eq!(seen(&StickyBy::Proxy, v2), key_of("192.0.2.7"));
    // A connection of its own, to see whether we are well.
    assert_eq!(seen(&StickyBy::Proxy, b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0"), key_of(CLIENT));
    assert_eq!(seen(&StickyBy::Proxy, b"GET / HTTP/1.1\r\n"), key_of(CLIENT));
    assert_eq!(seen(&StickyBy::Proxy, b"P"), Look::More);
    assert_eq!(seen(&StickyBy::Proxy, b"POST"), key_of(CLIENT));
    let too_long = [&b"PROXY UNKNOWN"[..], &[b' '; 100], b"\r\nGET /a HTTP/1.1\r\n\r\n"].concat();
    for length in [107, too_long.len()] {
        assert_eq!(seen(&StickyBy::Path(1), &too_long[..length]), Look::Nothing, "{length} bytes");
    }
}

#[test]
fn proxies_are_believed_as_far_as_they_are_trusted() {
    let request = |headers: &str| format!("GET / HTTP/1.1\r\n{headers}\r\n\r\n").into_bytes();
    let by = trusting(&["198.51.100.0/24", "10.0.0.0/8"]);
    let seen = |headers: &str| seen(&by, &request(headers));
    assert_eq!(seen("X-Forwarded-For: 192.0.2.7"), key_of("192.0.2.7"));
    assert_eq!(seen("X-Forwarded-For: 203.0.113.1, 192.0.2.7, 10.1.1.1"), key_of("192.0.2.7"));
    assert_eq!(seen("X-Forwarded-For: 203.0.113.1\r\nX-Forwarded-For: 192.0.2.7:4711"), key_of("192.0.2.7"));
    assert_eq!(seen("X-Forwarded-For: unknown, 10.1.1.1"), key_of("10.1.1.1"));
    assert_eq!(seen("X-Forwarded-For: garbage"), key_of(CLIENT));
    assert_eq!(seen("Forwarded: for=192.0.2.7;proto=http, For=\"[2001:db8::1]:80\""), key_of("2001:db8::1"));
    assert_eq!(seen("Host: a"), key_of(CLIENT));
    let stranger = trusting(&["10.0.0.0/8"]);
    assert_eq!(
        super::look(&stranger, Some(client()), &request("X-Forwarded-For: 192.0.2.7")),
        key_of(CLIENT)
    );
    assert_eq!(super::look(&stranger, None, &request("X-Forwarded-For: 192.0.2.7")), key_of("192.0.2.7"));
    // What a stranger says in another way is believed no more.
    let v1 = |address: &str| {
        [
            format!("PROXY TCP4 {address} 192.0.2.1 4711 80\r\n").into_bytes(),
            request("X-Forwarded-For: 192.0.2.7"),
        ]
        .concat()
    };
    assert_eq!(super::look(&stranger, Some(client()), &v1("10.0.0.1")), key_of(CLIENT));
    assert_eq!(super::look(&by, Some(client()), &v1("10.0.0.1")), key_of("192.0.2.7"));
    assert_eq!(super::look(&by, Some(client()), &v1("203.0.113.1")), key_of("203.0.113.1"));
}

fn any_way() -> impl Strategy<Value = StickyBy> {
    prop_oneof![
        Just(StickyBy::Cookie("a".to_owned())),
        Just(StickyBy::Header("b".to_owned())),
        Just(StickyBy::Query("c".to_owned())),
        Just(StickyBy::SocketIo),
        Just(StickyBy::Path(1)),
        Just(StickyBy::ServerName),
        Just(StickyBy::Proxy),
        Just(trusting(&["198.51.100.0/24"])),
    ]
}

fn any_beginning() -> impl Strategy<Value = Vec<u8>> {
    let piece = prop_oneof![
        Just(&b"GET /x/y?c=1&a=2 HTTP/1.1\r\n"[..]),
        Just(&b"GET /?transport=websocket HTTP/1.1\r\n"[..]),
        Just(&b"GET /?sid=1 HTTP/1.1\r\n"[..]),
        Just(&b"Cookie: a=1; b=2\r\n"[..]),
        Just(&b"b: 3\r\n"[..]),
        Just(&b"X-Forwarded-For: 192.0.2.7\r\n"[..]),
        Just(&b"\r\n"[..]),
        Just(&b"PROXY TCP4 192.0.2.7 192.0.2.1 1 2\r\n"[..]),
        Just(&b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c"[..]),
        Just(&b"\x16\x03\x01\0\x20\x01\0\0\x1c"[..]),
    ];
    let pieces = prop::collection::vec(piece, 0..6).prop_map(|pieces| pieces.concat());
    let noise = prop::collection::vec(any::<u8>(), 0..60);
    (pieces, noise).prop_map(|(pieces, noise)| [pieces, noise].concat())
}

proptest! {
    #[test]
    fn more_bytes_change_no_answer(by in any_way(), bytes in any_beginning()) {
        let mut answer = Look::More;
        for length in 0..=bytes.len() {
            let next = seen(&by, &bytes[..length]);
            prop_assert!(answer == Look::More || next == answer, "{answer:?} became {next:?} at {length}");
            answer = next;
        }
    }
}

#[test]
fn the_fuzz_target_over_its_corpus() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus/sticky");
    let mut count = 0;
    for entry in fs::read_dir(&folder).expect("the corpus is in the repository") {
        let path = entry.expect("a readable folder").path();
        let data = fs::read(&path).expect("a readable file");
        let passed = std::panic::catch_unwind(|| fuzzed::run(&data)).is_ok();
        assert!(passed, "{}", path.display());
        count += 1;
    }
    assert!(count >= 20, "{} has only {count} files", folder.display());
}
