use serde_json::value::RawValue;

use super::*;
use crate::message::{AddressType, Message};

fn raw(json: &str) -> Box<RawValue> {
    RawValue::from_string(json.to_owned()).expect("JSON")
}

fn text(line: Vec<u8>) -> String {
    String::from_utf8(line).expect("UTF-8")
}

#[test]
fn keys_are_escaped_once() {
    let mut line = Vec::new();
    new_connection(&mut line, &EncodedKey::new("/tmp/\0a\"b\n:-1"), u64::MAX);
    assert_eq!(
        text(line),
        "{\"cmd\":\"NODE_HANDLE\",\"type\":\"net.Native\",\"msg\":{\"cmd\":\"NODE_CLUSTER\",\"act\":\"newconn\",\
         \"key\":\"/tmp/\\u0000a\\\"b\\n:-1\",\"seq\":18446744073709551615}}\n"
    );
}

#[test]
fn numbers_are_written_as_json_does() {
    for number in [0, 1, 9, 10, 99, 100, 12_345, u64::from(u32::MAX), u64::MAX] {
        let mut out = Vec::new();
        decimal(&mut out, number);
        assert_eq!(out, number.to_string().as_bytes());
    }
}

/// A raw newline would end the message early and leave the peer with two broken ones.
#[test]
fn a_message_is_one_line() {
    let value = raw("{\n  \"a\": [\n1,\n2],\r\n \"b\": \"x\\ny\"\n}");
    for line in [user(&value), user_with_socket(&value)] {
        assert_eq!(line.iter().position(|byte| *byte == b'\n'), Some(line.len() - 1));
        let message = Message::decode(line.trim_ascii_end()).expect("a message");
        let message = match message {
            Message::Handle(handle) => {
                assert_eq!(handle.kind, "net.Socket");
                *handle.message
            }
            message => message,
        };
        let Message::User(sent) = message else { panic!("{message:?}") };
        let sent: serde_json::Value = serde_json::from_str(sent.get()).expect("JSON");
        assert_eq!(sent, serde_json::json!({"a": [1, 2], "b": "x\ny"}));
    }
}

/// A Node worker dies of a positive errno and takes `null` for success.
#[test]
fn errors_of_servers_are_negative_numbers() {
    let refused = ServerReply { errno: -98, key: "k".to_owned(), ..ServerReply::default() };
    assert_eq!(
        text(server_reply(&refused, 1, 2)),
        "{\"cmd\":\"NODE_CLUSTER\",\"errno\":-98,\"key\":\"k\",\"ack\":1,\"data\":null,\"seq\":2}\n"
    );
    let granted = ServerReply { errno: 0, ..refused };
    assert!(text(server_reply(&granted, 1, 2)).contains("\"errno\":null,"));
    assert!(text(shared_server_reply(&granted, true, 1, 2)).contains("\"type\":\"dgram.Native\""));
}

#[test]
fn datagram_queries_say_that_there_is_no_descriptor() {
    let query = ServerQuery {
        address: Some("0.0.0.0".to_owned()),
        port: Some(53),
        address_type: AddressType::Udp4,
        flags: Some(0),
        ..ServerQuery::default()
    };
    let line = text(query_server(&query, 1));
    assert!(line.contains("\"addressType\":\"udp4\",\"fd\":-1,\"flags\":0,\"seq\":1}"), "{line}");
}

#[test]
fn socket_lists_are_answered_with_their_key() {
    assert_eq!(
        text(socket_count("4:::80", 3)),
        "{\"cmd\":\"NODE_SOCKET_COUNT\",\"key\":\"4:::80\",\"count\":3}\n"
    );
    assert_eq!(text(sockets_all_closed("k")), "{\"cmd\":\"NODE_SOCKET_ALL_CLOSED\",\"key\":\"k\"}\n");
}
