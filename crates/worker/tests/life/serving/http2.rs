//! HTTP/2: its connections do not move, and end politely.

use axum::body::{Body, Bytes};
use hyper::Request;
use hyper::client::conn::http2::handshake;
use hyper_util::rt::{TokioExecutor, TokioIo};
use worksong_channel::message::{Cluster, Extension, encode};

use super::run;

fn request(path: &str) -> Request<Body> {
    Request::get(format!("http://x{path}")).body(Body::empty()).expect("a request")
}

async fn read(body: hyper::body::Incoming) -> Bytes {
    axum::body::to_bytes(Body::new(body), usize::MAX).await.expect("a whole body")
}

#[test]
fn an_http2_connection_finishes_its_streams_and_ends() {
    run(async |mut served| {
        let stream = served.client().await.into_stream();
        let address = stream.local_addr().expect("connected");
        let (mut sender, connection) =
            handshake(TokioExecutor::new(), TokioIo::new(stream)).await.expect("it speaks HTTP/2");
        let connection = tokio::spawn(connection);
        let answer = sender.send_request(request("/who")).await.expect("an answer");
        assert_eq!(read(answer.into_body()).await, address.to_string());
        for wait in [false, true] {
            assert_eq!(served.give(wait).await.map(drop), Err(1));
        }
        let parts = served.parts.take().expect("not ended yet");
        let streams = sender.send_request(request("/stream")).await.expect("an answer");
        served.primary.say(&Extension::Drain { moves: true });
        assert!(matches!(served.primary.next().await, Cluster::Close { .. }));
        assert_eq!(served.primary.extension().await, Extension::Open { count: 1 });
        served.primary.send(&encode::disconnect(0));
        parts.send(Bytes::from("to the end")).await.expect("it streams");
        drop(parts);
        assert_eq!(read(streams.into_body()).await, "to the end");
        // The client did not end it.
        connection.await.expect("no panic").expect("a good end");
        assert_eq!(served.primary.extension().await, Extension::Open { count: 0 });
        served.server.await.expect("no panic");
        drop(sender);
    });
}

#[test]
fn an_http2_connection_of_a_server_that_was_dropped_goes_on() {
    run(async |mut served| {
        let stream = served.client().await.into_stream();
        let (mut sender, connection) =
            handshake(TokioExecutor::new(), TokioIo::new(stream)).await.expect("it speaks HTTP/2");
        let connection = tokio::spawn(connection);
        sender.send_request(request("/")).await.expect("an answer");
        served.server.abort();
        assert!(served.server.await.expect_err("it was dropped").is_cancelled());
        for _ in 0..3 {
            let answer = sender.send_request(request("/")).await.expect("an answer");
            assert_eq!(read(answer.into_body()).await, "hello");
        }
        drop(sender);
        connection.await.expect("no panic").expect("the client ended it");
    });
}
