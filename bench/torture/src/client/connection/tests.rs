//! Answers of all forms, whole and broken, from a server that writes what it is told.

use tokio::net::TcpListener;
use tokio::runtime;

use super::*;

/// What comes of an answer that a server writes in two parts before it ends the connection.
fn answer(first: &str, second: &str) -> (Result<Answer, Loss>, String) {
    let runtime = runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (mut server, _) = listener.accept().await.unwrap();
        let mut connection = Connection::new(client);
        let mut body = String::new();
        let take = connection.answer(Pace::FULL, |bytes| {
            body.push_str(&String::from_utf8_lossy(bytes));
            Ok(())
        });
        let write = async {
            server.write_all(first.as_bytes()).await.unwrap();
            tokio::task::yield_now().await;
            server.write_all(second.as_bytes()).await.unwrap();
            drop(server);
        };
        let (answer, ()) = tokio::join!(take, write);
        (answer, body)
    })
}

fn fate(first: &str, second: &str) -> Fate {
    answer(first, second).0.unwrap_err().fate
}

#[test]
fn bodies_of_all_forms_are_read_whole() {
    let usable = Answer { status: 200, closes: false };
    let closes = Answer { status: 200, closes: true };
    for (first, second, expected) in [
        ("HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nab", "cd", usable),
        (
            "HTTP/1.1 200 OK\r\nTransfer-Enc",
            "oding: chunked\r\n\r\n3\r\nabc\r\n1;x=y\r\nd\r\n0\r\n\r\n",
            usable,
        ),
        ("HTTP/1.1 200 OK\r\n\r\nab", "cd", closes),
        ("HTTP/1.1 200 OK\r\nconnection: Close\r\ncontent-length: 4\r\n\r\n", "abcd", closes),
        ("HTTP/1.1 103 Early Hints\r\n\r\n", "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nabcd", usable),
    ] {
        let (answer, body) = answer(first, second);
        assert_eq!((answer.unwrap(), body.as_str()), (expected, "abcd"), "{first:?} {second:?}");
    }
}

#[test]
fn the_place_where_a_connection_ends_is_told() {
    assert_eq!(fate("", ""), Fate::ClosedBefore);
    assert_eq!(fate("HTTP/1.1 200 OK\r\n", ""), Fate::ClosedWithin);
    assert_eq!(fate("HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nab", "c"), Fate::ClosedWithin);
    assert_eq!(
        fate("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n", ""),
        Fate::ClosedWithin
    );
}

#[test]
fn what_is_not_http_is_a_wrong_answer() {
    assert_eq!(fate("SSH-2.0-x\r\n\r\n", ""), Fate::WrongAnswer);
    assert_eq!(fate("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\n", ""), Fate::WrongAnswer);
}

#[test]
fn the_body_of_an_error_is_not_compared() {
    let (answer, body) = answer("HTTP/1.1 503 Later\r\nContent-Length: 5\r\n\r\n", "sorry");
    assert_eq!((answer.unwrap().status, body.as_str()), (503, ""));
}
