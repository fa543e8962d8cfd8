//! Against bytes as they come from a socket, in one piece and byte by byte.

use std::io::Cursor;
use std::net::TcpListener;
use std::thread;

use super::*;

/// Gives one byte for each read.
struct Trickle<'a>(Cursor<&'a [u8]>);

impl Read for Trickle<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.0.read(&mut buffer[..1])
    }
}

fn parse(bytes: &[u8]) -> Result<(Response, Vec<u8>), Error> {
    let mut rest = Vec::new();
    let whole = read::response(&mut Cursor::new(bytes), &mut rest, false);
    let trickled = read::response(&mut Trickle(Cursor::new(bytes)), &mut Vec::new(), false);
    assert_eq!(whole.as_ref().ok(), trickled.as_ref().ok());
    Ok((whole?, rest))
}

#[test]
fn bodies_of_every_length_form() {
    for (bytes, body) in [
        (&b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello"[..], "hello"),
        (
            b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nhel\r\n2;x=y\r\nlo\r\n0\r\n\r\n",
            "hello",
        ),
        (b"HTTP/1.0 200 OK\r\n\r\nhello", "hello"),
        (b"HTTP/1.1 204 No Content\r\n\r\n", ""),
        (b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", "ok"),
    ] {
        let (response, rest) = parse(bytes).unwrap();
        assert_eq!(response.text(), body);
        assert!(rest.is_empty());
    }
}

#[test]
fn what_follows_an_answer_stays() {
    let (response, rest) = parse(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nokHTTP").unwrap();
    assert_eq!((response.text(), rest.as_slice()), ("ok", &b"HTTP"[..]));
}

#[test]
fn a_short_answer_is_cut_and_none_is_none() {
    assert!(matches!(parse(b""), Err(Error::NoAnswer(_))));
    for bytes in [
        &b"HTTP/1.1 200"[..],
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhell",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n",
    ] {
        match parse(bytes) {
            Err(Error::Cut { received, .. }) => assert_eq!(received, bytes.len()),
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn nonsense_is_malformed() {
    for bytes in [
        &b"HELLO\r\n\r\n"[..],
        b"HTTP/1.1 2\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nno colon\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: many\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nab\r\n0\r\n\r\n",
    ] {
        assert!(matches!(parse(bytes), Err(Error::Malformed(_))), "{}", String::from_utf8_lossy(bytes));
    }
}

#[test]
fn a_connection_carries_several_requests() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let server = thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut request = [0; 1024];
        for body in ["one", "two"] {
            let count = stream.read(&mut request).unwrap();
            assert!(request[..count].starts_with(b"GET /path HTTP/1.1\r\n"));
            write!(stream, "HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\n{body}").unwrap();
        }
    });
    let mut connection = Connection::open(port).unwrap();
    assert_eq!(connection.get("/path").unwrap().text(), "one");
    assert_eq!(connection.get("/path").unwrap().text(), "two");
    server.join().unwrap();
    assert!(matches!(connection.get("/path"), Err(Error::NoAnswer(_))));
}

#[test]
fn nobody_there_is_refused() {
    match get(crate::free_port(), "/") {
        Err(Error::Connect(source)) => assert_eq!(source.kind(), io::ErrorKind::ConnectionRefused),
        other => panic!("{other:?}"),
    }
}
