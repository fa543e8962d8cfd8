use proptest::prelude::*;

use super::*;
use crate::message::HandleAnswer;
use crate::message::encode;

fn decoded(line: &str) -> Message {
    decode(line.as_bytes()).unwrap_or_else(|error| panic!("{line}: {error}"))
}

fn refused(line: &str) -> DecodeError {
    match decode(line.as_bytes()) {
        Ok(message) => panic!("{line}: {message:?}"),
        Err(error) => error,
    }
}

fn query(fields: &str) -> ServerQuery {
    let line = format!(r#"{{"cmd":"NODE_CLUSTER","act":"queryServer",{fields},"seq":3}}"#);
    match decoded(&line) {
        Message::Cluster(Cluster::QueryServer { seq: 3, query }) => *query,
        other => panic!("{line}: {other:?}"),
    }
}

fn user_text(line: &str) -> String {
    match decoded(line) {
        Message::User(value) => value.get().to_owned(),
        other => panic!("{line}: {other:?}"),
    }
}

/// What a query means: address, port, kind, descriptor, flags, backlog.
type Meaning<'a> = (Option<&'a str>, Option<i64>, AddressType, Option<i64>, Option<i64>, Option<u32>);

/// What Node sends for each form of `listen` and `bind`, and what it means.
#[rustfmt::skip]
const LISTEN_FORMS: &[(&str, Meaning<'_>)] = &[
    // listen(8101) in Node 18 and 20, then in 22 and 24; listen(8101, 55); listen(0)
    (r#""address":null,"port":8101,"addressType":4,"backlog":0"#,
        (None, Some(8101), AddressType::V4, None, None, None)),
    (r#""address":null,"port":8101,"addressType":4,"flags":0,"backlog":0"#,
        (None, Some(8101), AddressType::V4, None, Some(0), None)),
    (r#""address":null,"port":8101,"addressType":4,"backlog":55"#,
        (None, Some(8101), AddressType::V4, None, None, Some(55))),
    (r#""address":null,"port":0,"addressType":4,"backlog":0"#,
        (None, Some(0), AddressType::V4, None, None, None)),
    // listen(8101, '127.0.0.1') and '::1': the backlog is a boolean
    (r#""address":"127.0.0.1","port":8101,"addressType":4,"flags":0,"backlog":false"#,
        (Some("127.0.0.1"), Some(8101), AddressType::V4, None, Some(0), None)),
    (r#""address":"::1","port":8101,"addressType":6,"flags":0,"backlog":false"#,
        (Some("::1"), Some(8101), AddressType::V6, None, Some(0), None)),
    // listen({port, host: '::', ipv6Only: true}), and without a host
    (r#""address":"::","port":8101,"addressType":6,"flags":1,"backlog":0"#,
        (Some("::"), Some(8101), AddressType::V6, None, Some(1), None)),
    (r#""address":null,"port":8101,"addressType":4,"flags":1,"backlog":0"#,
        (None, Some(8101), AddressType::V4, None, Some(1), None)),
    // A backlog that is missing, null, negative, a text, or far too large
    (r#""address":null,"port":8101,"addressType":4"#,
        (None, Some(8101), AddressType::V4, None, None, None)),
    (r#""address":null,"port":8101,"addressType":4,"backlog":null"#,
        (None, Some(8101), AddressType::V4, None, None, None)),
    (r#""address":null,"port":8101,"addressType":4,"backlog":-1"#,
        (None, Some(8101), AddressType::V4, None, None, None)),
    (r#""address":null,"port":8101,"addressType":4,"backlog":"511""#,
        (None, Some(8101), AddressType::V4, None, None, None)),
    (r#""address":null,"port":8101,"addressType":4,"backlog":1e300"#,
        (None, Some(8101), AddressType::V4, None, None, Some(u32::MAX))),
    // Paths, also an abstract one, which Node mangles; a handle of the worker's own (Node 18)
    (r#""address":"/run/a.sock","port":-1,"addressType":-1,"backlog":0"#,
        (Some("/run/a.sock"), Some(-1), AddressType::Path, None, None, None)),
    (r#""address":"/tmp/\u0000name","port":-1,"addressType":-1,"backlog":0"#,
        (Some("/tmp/\0name"), Some(-1), AddressType::Path, None, None, None)),
    (r#""address":null,"port":-1,"addressType":-1,"backlog":0"#,
        (None, Some(-1), AddressType::Path, None, None, None)),
    // listen({fd: 7}); without any address type it is a descriptor too
    (r#""address":null,"port":null,"addressType":null,"fd":7,"backlog":0"#,
        (None, None, AddressType::Descriptor, Some(7), None, None)),
    (r#""fd":7"#,
        (None, None, AddressType::Descriptor, Some(7), None, None)),
    // Datagrams: bind(8101), ipv6Only, reuseAddr to any port, bind('8101'), bind({fd: 7})
    (r#""address":"0.0.0.0","port":8101,"addressType":"udp4","fd":-1,"flags":0"#,
        (Some("0.0.0.0"), Some(8101), AddressType::Udp4, None, Some(0), None)),
    (r#""address":"::","port":8101,"addressType":"udp6","fd":-1,"flags":1"#,
        (Some("::"), Some(8101), AddressType::Udp6, None, Some(1), None)),
    (r#""address":"0.0.0.0","addressType":"udp4","fd":-1,"flags":4"#,
        (Some("0.0.0.0"), Some(0), AddressType::Udp4, None, Some(4), None)),
    (r#""address":"0.0.0.0","port":"8101","addressType":"udp4","fd":-1,"flags":0"#,
        (Some("0.0.0.0"), Some(8101), AddressType::Udp4, None, Some(0), None)),
    (r#""address":null,"port":null,"addressType":"udp4","fd":7,"flags":null"#,
        (None, None, AddressType::Udp4, Some(7), None, None)),
];

#[test]
fn every_listen_form() {
    for (sent, meaning) in LISTEN_FORMS {
        let query = query(&format!(r#""index":2,"data":null,{sent}"#));
        let address = query.address.as_deref();
        let read = (address, query.port, query.address_type, query.fd, query.flags, query.backlog);
        assert_eq!(read, *meaning, "{sent}");
        assert_eq!(query.index, 2, "{sent}");
        assert!(query.data.is_none() && !query.readable_all && !query.writable_all, "{sent}");
    }
}

#[test]
fn optional_parts_of_a_query() {
    let tls = query(r#""index":0,"data":{"ticketKeys":"00ff"},"address":null,"port":1,"addressType":4"#);
    assert_eq!(tls.data.expect("TLS data").get(), r#"{"ticketKeys":"00ff"}"#);
    let path = query(r#""index":0,"data":null,"address":"/a","port":-1,"addressType":-1,"readableAll":true"#);
    assert!(path.readable_all && !path.writable_all);
}

#[test]
fn messages_of_workers() {
    assert!(matches!(
        decoded(r#"{"cmd":"NODE_CLUSTER","act":"online","seq":0}"#),
        Message::Cluster(Cluster::Online { seq: 0 })
    ));
    assert!(matches!(
        decoded(r#"{"cmd":"NODE_CLUSTER","act":"exitedAfterDisconnect","seq":9}"#),
        Message::Cluster(Cluster::ExitedAfterDisconnect { seq: 9 })
    ));
    match decoded(r#"{"cmd":"NODE_CLUSTER","act":"close","key":"null:8101:4:undefined:0","seq":4}"#) {
        Message::Cluster(Cluster::Close { key }) => assert_eq!(key, "null:8101:4:undefined:0"),
        other => panic!("{other:?}"),
    }
    // Bun leaves out the numbers.
    match decoded(
        r#"{"cmd":"NODE_CLUSTER","act":"listening","port":80,"data":null,"address":null,"addressType":4}"#,
    ) {
        Message::Cluster(Cluster::Listening { query }) => assert_eq!(query.port, Some(80)),
        other => panic!("{other:?}"),
    }
    for accepted in [true, false] {
        match decoded(&format!(r#"{{"cmd":"NODE_CLUSTER","ack":5,"accepted":{accepted},"seq":6}}"#)) {
            Message::Cluster(Cluster::Reply(Reply { ack: 5, accepted: said, server: None })) => {
                assert_eq!(said, Some(accepted));
            }
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn messages_of_primaries() {
    assert!(matches!(
        decoded(r#"{"cmd":"NODE_CLUSTER","act":"disconnect","seq":1}"#),
        Message::Cluster(Cluster::Disconnect)
    ));
    match decoded(
        r#"{"cmd":"NODE_CLUSTER","errno":null,"key":"k","ack":2,"data":{"a":1},"sockname":{"address":"::","family":"IPv6","port":80},"seq":3}"#,
    ) {
        Message::Cluster(Cluster::Reply(Reply { ack: 2, accepted: None, server: Some(server) })) => {
            assert_eq!((server.errno, server.key.as_str()), (0, "k"));
            assert_eq!(server.data.expect("data").get(), r#"{"a":1}"#);
            let sockname = SockName { address: "::".to_owned(), family: "IPv6".to_owned(), port: 80 };
            assert_eq!(server.sockname, Some(sockname));
        }
        other => panic!("{other:?}"),
    }
    match decoded(r#"{"cmd":"NODE_CLUSTER","errno":-98,"key":"k","ack":2,"data":null,"seq":3}"#) {
        Message::Cluster(Cluster::Reply(Reply { server: Some(server), .. })) => {
            assert_eq!(server.errno, -98);
            assert!(server.data.is_none() && server.sockname.is_none());
        }
        other => panic!("{other:?}"),
    }
    assert!(matches!(
        decoded(r#"{"cmd":"NODE_CLUSTER","ack":4,"seq":5}"#),
        Message::Cluster(Cluster::Reply(Reply { ack: 4, accepted: None, server: None }))
    ));
    let mut line = Vec::new();
    encode::new_connection(&mut line, &encode::EncodedKey::new("a \"key\""), 7);
    match decoded(std::str::from_utf8(&line).expect("UTF-8").trim_end()) {
        Message::Handle(Handle { kind, message, key: None }) if kind == "net.Native" => match *message {
            Message::Cluster(Cluster::NewConnection { seq: 7, key }) => assert_eq!(key, "a \"key\""),
            other => panic!("{other:?}"),
        },
        other => panic!("{other:?}"),
    }
}

#[test]
fn answers_to_handles_and_socket_lists() {
    for (line, expected) in [
        (r#"{"cmd":"NODE_HANDLE_ACK"}"#, "HandleAck"),
        (r#"{"cmd":"NODE_HANDLE_NACK"}"#, "HandleNack"),
        (r#" { "cmd" : "NODE_HANDLE_ACK" } "#, "HandleAck"),
        (r#"{"cmd":"NODE_SOCKET_GET_COUNT","key":"4:::80"}"#, r#"SocketList(GetCount { key: "4:::80" })"#),
        (r#"{"cmd":"NODE_SOCKET_NOTIFY_CLOSE","key":"k"}"#, r#"SocketList(NotifyClose { key: "k" })"#),
        (r#"{"cmd":"NODE_SOCKET_COUNT","key":"k","count":1}"#, "SocketList(Answer)"),
        (r#"{"cmd":"NODE_SOCKET_ALL_CLOSED","key":"k"}"#, "SocketList(Answer)"),
    ] {
        assert_eq!(format!("{:?}", decoded(line)), expected, "{line}");
    }
    assert_eq!(encode::handle_answer(HandleAnswer::Ack).strip_suffix(b"\n"), Some(ACK));
}

#[test]
fn anything_else_is_the_programs_own() {
    for line in [
        r#"{"cmd":"NODE_"}"#,
        r#"{"cmd":"node_x"}"#,
        r#"{"cmd":"NODE"}"#,
        r#"{"cmd":" NODE_CLUSTER"}"#,
        r#"{"cmd":7,"act":"online"}"#,
        r#"{"cmd":null}"#,
        r#"{"cmd":["NODE_CLUSTER"]}"#,
        r#"{"act":"online","seq":0}"#,
        r#"{"msg":{"cmd":"NODE_CLUSTER"}}"#,
        r#"["NODE_CLUSTER"]"#,
        r#""NODE_HANDLE_ACK""#,
        r#""lone \ud800 surrogate""#,
        "{}",
        "[]",
        "1.50",
        "-0",
        "true",
        "false",
        "null",
        r#""""#,
    ] {
        assert_eq!(user_text(line), line);
    }
}

#[test]
fn unknown_internal_messages_are_named_and_harmless() {
    for (line, name) in [
        (r#"{"cmd":"NODE_X"}"#, "NODE_X"),
        (r#"{"cmd":"NODE_WORKSONG2","act":7}"#, "NODE_WORKSONG2"),
        (r#"{"cmd":"\u004eODE_ESCAPED","seq":"x"}"#, "NODE_ESCAPED"),
    ] {
        match decoded(line) {
            Message::Unknown { cmd } => assert_eq!(cmd, name),
            other => panic!("{line}: {other:?}"),
        }
    }
    match decoded(r#"{"cmd":"NODE_CLUSTER","act":"suicide"}"#) {
        Message::Cluster(Cluster::Unknown { act }) => assert_eq!(act, "suicide"),
        other => panic!("{other:?}"),
    }
}

fn wrapped(times: u32, inner: &str) -> String {
    (0..times).fold(inner.to_owned(), |inner, _| {
        format!(r#"{{"cmd":"NODE_HANDLE","type":"net.Native","msg":{inner}}}"#)
    })
}

/// Node wraps a handle again when it retries it after a NACK.
#[test]
fn retried_handles_are_unwrapped() {
    let sent = r#"{"cmd":"NODE_HANDLE","type":"net.Socket","msg":{"hello":1},"key":"4:::80"}"#;
    for times in 0..=3 {
        match decoded(&wrapped(times, sent)) {
            Message::Handle(Handle { kind, message, key }) => {
                assert_eq!((kind.as_str(), key.as_deref()), ("net.Socket", Some("4:::80")));
                assert!(matches!(*message, Message::User(value) if value.get() == r#"{"hello":1}"#));
            }
            other => panic!("{other:?}"),
        }
    }
    assert!(refused(&wrapped(10_000, "1")).is_handle());
}

#[test]
fn a_handle_without_a_message_carries_null() {
    for line in [
        r#"{"cmd":"NODE_HANDLE","type":"net.Socket"}"#,
        r#"{"cmd":"NODE_HANDLE","type":"net.Socket","msg":null}"#,
    ] {
        match decoded(line) {
            Message::Handle(Handle { message, .. }) => {
                assert!(matches!(*message, Message::User(value) if value.get() == "null"));
            }
            other => panic!("{line}: {other:?}"),
        }
    }
}

#[test]
fn malformed_internal_messages_name_the_place() {
    for (line, expected) in [
        (r#"{"cmd":"NODE_CLUSTER"}"#, "malformed NODE_CLUSTER message: field act is missing"),
        (
            r#"{"cmd":"NODE_CLUSTER","act":"queryServer"}"#,
            "malformed NODE_CLUSTER message: field seq is missing",
        ),
        (
            r#"{"cmd":"NODE_CLUSTER","act":"close","seq":1}"#,
            "malformed NODE_CLUSTER message: field key is missing",
        ),
        (
            r#"{"cmd":"NODE_SOCKET_GET_COUNT"}"#,
            "malformed NODE_SOCKET_GET_COUNT message: missing field `key`",
        ),
    ] {
        let error = refused(line);
        assert!(error.to_string().starts_with(expected), "{line}: {error}");
        assert!(!error.is_handle(), "{line}");
    }
    for fields in [
        r#""port":"eighty""#,
        r#""port":true"#,
        r#""addressType":5"#,
        r#""addressType":"tcp""#,
        r#""address":7"#,
        r#""fd":"7""#,
        r#""index":-1"#,
        r#""seq":-1"#,
        r#""seq":1.5"#,
        r#""port":1,"port":2"#,
    ] {
        let error = refused(&format!(r#"{{"cmd":"NODE_CLUSTER","act":"queryServer",{fields}}}"#));
        assert!(matches!(&error, DecodeError::Malformed { cmd, .. } if cmd == "NODE_CLUSTER"), "{error}");
    }
}

/// Its sender waits for an answer and its descriptor came along, whatever part of it is broken.
#[test]
fn malformed_handle_messages_are_recognised() {
    for line in [
        r#"{"cmd":"NODE_HANDLE"}"#,
        r#"{"cmd":"NODE_HANDLE","type":7,"msg":1}"#,
        r#"{"cmd":"NODE_HANDLE","type":"net.Native","msg":{"cmd":"NODE_CLUSTER"}}"#,
        r#"{"cmd":"NODE_HANDLE","type":"net.Native","msg":{"cmd":"NODE_CLUSTER","act":"newconn","seq":1}}"#,
        r#"{"cmd":"NODE_HANDLE","type":"net.Native","msg":{"cmd":"NODE_HANDLE","type":7}}"#,
    ] {
        assert!(refused(line).is_handle(), "{line}");
    }
}

#[test]
fn broken_text_is_no_message() {
    for line in [
        &b"{"[..],
        b"nul",
        b"{}{}",
        b"1 2",
        b"{\"cmd\":}",
        b"\"\xff\"",
        b"\xf0\x9f",
        b"\x02{}",
        b"\0",
        b"\x1b",
    ] {
        match decode(line) {
            Err(DecodeError::NotJson { length, .. }) => assert_eq!(length, line.len()),
            other => panic!("{line:?}: {other:?}"),
        }
    }
    // Deep nesting must not cost stack.
    let deep = "[".repeat(200_000) + &"]".repeat(200_000);
    assert_eq!(user_text(&deep).len(), deep.len());
    let _ = decode(format!(r#"{{"cmd":"NODE_CLUSTER","act":"queryServer","backlog":{deep}}}"#).as_bytes());
    let _ = decode(format!(r#"{{"cmd":"NODE_HANDLE","type":"x","msg":{deep}}}"#).as_bytes());
}

/// What the decoder says without its fast paths.
fn slow(line: &[u8]) -> Result<Message, DecodeError> {
    let text: &RawValue = serde_json::from_slice(line)
        .map_err(|error| DecodeError::NotJson { length: line.len(), reason: error.to_string() })?;
    decode_json(text, MAX_WRAPPING)
}

fn assert_same_as_slow(line: &[u8]) {
    let text = String::from_utf8_lossy(line);
    assert_eq!(format!("{:?}", decode(line)), format!("{:?}", slow(line)), "{text}");
}

#[test]
fn the_largest_numbers_take_either_path() {
    for ack in [0, 9, 10, 999_999_999_999_999, 1_000_000_000_000_000, u64::MAX] {
        assert_same_as_slow(encode::accepted(ack, true, ack).trim_ascii_end());
    }
    assert_same_as_slow(br#"{"cmd":"NODE_CLUSTER","ack":00,"accepted":true,"seq":1}"#);
    assert_same_as_slow(br#"{"cmd":"NODE_CLUSTER","ack":1,"accepted":true,"seq":01}"#);
}

proptest! {
    #[test]
    fn fast_paths_equal_the_slow_one(ack: u64, seq: u64, accepted: bool) {
        assert_same_as_slow(encode::accepted(ack, accepted, seq).trim_ascii_end());
    }

    #[test]
    fn near_misses_equal_the_slow_path(
        ack in 0_u64..2000,
        seq in 0_u64..2000,
        handle_ack: bool,
        at: prop::sample::Index,
        edit in prop_oneof![Just(None), any::<u8>().prop_map(Some), prop::sample::select(&b"0 9,\"}-.e"[..]).prop_map(Some)],
        insert: bool,
    ) {
        let mut line = encode::accepted(ack, true, seq).trim_ascii_end().to_vec();
        if handle_ack {
            line = ACK.to_vec();
        }
        let at = at.index(line.len());
        match edit {
            None => { line.remove(at); }
            Some(byte) if insert => line.insert(at, byte),
            Some(byte) => line[at] = byte,
        }
        assert_same_as_slow(&line);
    }

    #[test]
    fn no_line_panics(line: Vec<u8>) {
        let _ = decode(&line);
    }
}
