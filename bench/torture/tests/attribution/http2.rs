//! HTTP/2 servers that fail, in raw frames (RFC 9113, section 4.1).

use std::io::{BufReader, Read, Write};
use std::net::TcpStream;

use worksong_torture::{Class, Ending, Fate};

use super::{assert_only, reset, torture};

/// What a client says first, without its settings.
const PREFACE: u64 = 24;
const SETTINGS: u8 = 4;
const HEADERS: u8 = 1;
const DATA: u8 = 0;
const RST_STREAM: u8 = 3;
const GOAWAY: u8 = 7;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;
/// `:status: 200`, by its number in the static table of HPACK.
const STATUS_200: u8 = 0x88;
/// The reason of a stream that failed, and of one that was not begun.
const INTERNAL_ERROR: [u8; 4] = [0, 0, 0, 2];
const REFUSED_STREAM: [u8; 4] = [0, 0, 0, 7];

fn frame(kind: u8, flags: u8, stream: [u8; 4], payload: &[u8]) -> Vec<u8> {
    let length = u8::try_from(payload.len()).expect("it is short");
    let mut bytes = vec![0, 0, length, kind, flags];
    bytes.extend(stream);
    bytes.extend(payload);
    bytes
}

/// Speaks HTTP/2 until the client ends it, and answers each request on its stream with what `answer` makes.
fn serve(stream: &mut BufReader<TcpStream>, answer: fn([u8; 4]) -> Vec<u8>) {
    skip(stream, PREFACE);
    stream.get_mut().write_all(&frame(SETTINGS, 0, [0; 4], &[])).expect("written");
    while let Some((kind, number)) = next(stream) {
        // A client that has seen a failure may have gone.
        if kind == HEADERS && stream.get_mut().write_all(&answer(number)).is_err() {
            return;
        }
    }
}

/// Reads a frame; returns its kind and the number of its stream, or `None` at the end.
fn next(stream: &mut BufReader<TcpStream>) -> Option<(u8, [u8; 4])> {
    let mut head = [0; 9];
    stream.read_exact(&mut head).ok()?;
    let [first, second, third, kind, _flags, number @ ..] = head;
    skip(stream, u64::from(u32::from_be_bytes([0, first, second, third])));
    Some((kind, number))
}

fn skip(stream: &mut BufReader<TcpStream>, count: u64) {
    std::io::copy(&mut stream.take(count), &mut std::io::sink()).expect("the client has more to say");
}

/// Waits until there is a request.
fn first_request(stream: &mut BufReader<TcpStream>) {
    skip(stream, PREFACE);
    while next(stream).is_some_and(|(kind, _)| kind != HEADERS) {}
}

#[test]
fn an_end_before_the_answer_is_told_from_a_reset() {
    let closed = torture(Class::Http2, |stream| {
        // Nothing may remain unread, or it ends by a RST: the requests of a round come together.
        first_request(stream);
        stream.get_ref().shutdown(std::net::Shutdown::Write).expect("it is open");
        std::io::copy(stream, &mut std::io::sink()).expect("the client ends it");
    });
    assert_only(&closed, Class::Http2, Fate::ClosedBefore);
    let reset = torture(Class::Http2, |stream| {
        first_request(stream);
        reset(stream.get_ref());
    });
    assert_only(&reset, Class::Http2, Fate::ResetBefore);
}

#[test]
fn a_stream_that_is_reset_is_told_from_one_that_was_not_begun() {
    let failed = torture(Class::Http2, |stream| {
        serve(stream, |number| frame(RST_STREAM, 0, number, &INTERNAL_ERROR));
    });
    assert_only(&failed, Class::Http2, Fate::ResetBefore);
    let refused = torture(Class::Http2, |stream| {
        serve(stream, |number| {
            let away = frame(GOAWAY, 0, [0; 4], &[0; 8]);
            [frame(RST_STREAM, 0, number, &REFUSED_STREAM), away].concat()
        });
    });
    assert_only(&refused, Class::Http2, Fate::Declined);
    assert!(refused.class(Class::Http2).ending(Ending::Polite) >= 3);
}

#[test]
fn another_answer_is_wrong() {
    let ledger = torture(Class::Http2, |stream| {
        serve(stream, |number| {
            let head = frame(HEADERS, END_HEADERS, number, &[STATUS_200]);
            [head, frame(DATA, END_STREAM, number, b"x")].concat()
        });
    });
    assert_only(&ledger, Class::Http2, Fate::WrongAnswer);
}

#[test]
fn an_end_within_the_answer_is_told_from_one_before() {
    let ledger = torture(Class::Http2, |stream| {
        serve(stream, |number| {
            let head = frame(HEADERS, END_HEADERS, number, &[STATUS_200]);
            [head, frame(RST_STREAM, 0, number, &INTERNAL_ERROR)].concat()
        });
    });
    assert_only(&ledger, Class::Http2, Fate::ResetWithin);
}
