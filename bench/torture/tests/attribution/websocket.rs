//! WebSocket servers that fail.

use std::io::{BufReader, Read, Write};
use std::net::TcpStream;

use worksong_torture::{Class, Ending, Fate};

use super::{assert_only, request, torture};

/// Takes an upgrade and the first message, and answers with these bytes.
fn upgrade(stream: &mut BufReader<TcpStream>, answer: &[u8]) {
    request(stream);
    stream.get_mut().write_all(b"HTTP/1.1 101 Switching Protocols\r\n\r\n").expect("written");
    let mut head = [0; 2];
    stream.read_exact(&mut head).expect("a frame");
    let rest = 4 + u64::from(head[1] & 0x7f);
    std::io::copy(&mut stream.take(rest), &mut std::io::sink()).expect("the rest of the frame");
    stream.get_mut().write_all(answer).expect("written");
}

/// Waits for the end, so that what was written is read.
fn drain(stream: &mut BufReader<TcpStream>) {
    std::io::copy(stream, &mut std::io::sink()).expect("the client ends it");
}

#[test]
fn an_upgrade_that_is_refused_has_a_wrong_status() {
    let ledger = torture(Class::WebSocket, |stream| {
        request(stream);
        let answer = b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n";
        stream.get_mut().write_all(answer).expect("written");
    });
    assert_only(&ledger, Class::WebSocket, Fate::WrongStatus);
}

#[test]
fn an_end_without_a_word_is_a_failure() {
    let ledger = torture(Class::WebSocket, |stream| upgrade(stream, b""));
    assert_only(&ledger, Class::WebSocket, Fate::ClosedWithin);
    let ledger = torture(Class::WebSocket, |stream| {
        upgrade(stream, b"\x88\x02\x03\xf3");
        drain(stream);
    });
    assert_only(&ledger, Class::WebSocket, Fate::ClosedWithin);
    assert!(ledger.failures().iter().all(|failure| failure.detail == "close code Some(1011)"));
}

#[test]
fn an_echo_of_another_message_is_wrong() {
    let ledger = torture(Class::WebSocket, |stream| {
        upgrade(stream, b"\x81\x01x");
        drain(stream);
    });
    assert_only(&ledger, Class::WebSocket, Fate::WrongAnswer);
}

#[test]
fn going_away_is_no_failure() {
    let ledger = torture(Class::WebSocket, |stream| {
        upgrade(stream, b"\x88\x02\x03\xe9");
        drain(stream);
    });
    assert_only(&ledger, Class::WebSocket, Fate::Declined);
    assert!(ledger.class(Class::WebSocket).ending(Ending::Polite) >= 3);
}
