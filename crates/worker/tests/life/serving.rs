//! Connections that `serve` has, and that the primary asks for.

mod client;
mod counting;
#[cfg(feature = "http2")]
mod http2;
mod moving;
mod program;

use std::os::fd::OwnedFd;
use std::time::Duration;

use axum::body::Bytes;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use worksong_channel::message::{Cluster, Extension, Handle, HandleAnswer, ServerReply, encode};
use worksong_channel::{Incoming, Message};
use worksong_worker::{AnyListener, Worker};

use self::client::{Client, request};
use crate::primary::Primary;

/// Longer than what is to happen takes, where it must not happen.
const WHILE: Duration = Duration::from_millis(50);

/// A worker that serves, and its primary.
struct Served {
    primary: Primary,
    server: JoinHandle<()>,
    /// What `/stream` answers, until this is dropped.
    parts: Option<mpsc::Sender<Bytes>>,
    next_seq: u64,
}

impl Served {
    async fn start(mut primary: Primary, worker: &Worker) -> Self {
        primary.next().await;
        let listener = primary.serve(worker, "k").await;
        Self::on(primary, listener)
    }

    fn on(primary: Primary, listener: impl Into<AnyListener> + Send + 'static) -> Self {
        let (program, parts) = program::program();
        let server = tokio::spawn(worksong_worker::serve(listener, program));
        Self { primary, server, parts: Some(parts), next_seq: 0 }
    }

    /// Hands a new connection over, and returns its client when the worker has taken it.
    async fn client(&mut self) -> Client {
        let seq = self.seq();
        let client = self.primary.hand_over("k", seq);
        self.taken(seq).await;
        Client::new(client)
    }

    /// Hands a connection over that this worker, or another one, has given.
    async fn hand_over(&mut self, connection: OwnedFd) {
        let seq = self.seq();
        self.primary.hand_over_this("k", seq, connection);
        self.taken(seq).await;
    }

    /// Lets a client have the first part of a response.
    async fn stream_to(&mut self, client: &mut Client) {
        client.send(&request("/stream")).await;
        let parts = self.parts.as_ref().expect("not ended yet");
        parts.send(Bytes::from("first")).await.expect("it streams");
        client.read_until("first").await;
    }

    async fn taken(&mut self, seq: u64) {
        assert!(matches!(self.primary.message().await, Message::HandleAck));
        assert_eq!(self.primary.accepted().await, (seq, true));
    }

    fn seq(&mut self) -> u64 {
        self.next_seq += 1;
        self.next_seq
    }

    /// Asks for a connection and returns it, not yet acknowledged, or how many are open.
    async fn give(&mut self, wait: bool) -> Result<OwnedFd, u64> {
        self.primary.say(&Extension::Give { wait });
        self.answer_to_give().await
    }

    async fn answer_to_give(&mut self) -> Result<OwnedFd, u64> {
        match self.primary.incoming().await {
            Incoming { message: Message::Handle(Handle { kind, message, .. }), handle, .. } => {
                assert_eq!(kind, "net.Native");
                assert!(matches!(*message, Message::Extension(Extension::Given)), "{message:?}");
                Ok(handle.expect("its descriptor"))
            }
            Incoming { message: Message::Extension(Extension::Nothing { open }), .. } => Err(open),
            other => panic!("unexpected {other:?}"),
        }
    }

    fn acknowledge(&mut self, answer: HandleAnswer) {
        self.primary.channel.answer_handle(answer).expect("the worker is there");
    }

    /// Asserts that the request for a connection stays open for a while.
    async fn gives_nothing_yet(&mut self) {
        assert!(timeout(WHILE, self.answer_to_give()).await.is_err());
    }

    /// Asks for a connection that has to be idle, and hands it back to the same worker as a new one.
    async fn moves(&mut self) {
        let connection = self.give(false).await.expect("it is idle");
        self.acknowledge(HandleAnswer::Ack);
        self.hand_over(connection).await;
    }
}

fn run<F: Future<Output = ()>>(test: impl FnOnce(Served) -> F) {
    crate::run(async |primary, worker| test(Served::start(primary, &worker).await).await);
}

#[test]
fn an_idle_connection_goes_on_elsewhere() {
    run(async |mut served| {
        let mut client = served.client().await;
        assert_eq!(client.get("/").await, "hello");
        for _ in 0..3 {
            let connection = served.give(false).await.expect("it is idle");
            // Sent while nobody has the connection.
            client.send(&request("/length")).await;
            served.acknowledge(HandleAnswer::Ack);
            assert_eq!(served.give(false).await.map(drop), Err(0));
            served.hand_over(connection).await;
            assert_eq!(client.answer().await.body, b"0");
            assert_eq!(client.get("/who").await, client.address().to_string());
        }
    });
}

#[test]
fn a_connection_that_has_sent_nothing_is_idle() {
    run(async |mut served| {
        let mut client = served.client().await;
        served.primary.say(&Extension::Ping { seq: 5 });
        assert_eq!(served.primary.extension().await, Extension::Pong { ack: 5, open: 1 });
        let connection = served.give(true).await.expect("it is idle");
        served.acknowledge(HandleAnswer::Ack);
        served.hand_over(connection).await;
        assert_eq!(client.get("/").await, "hello");
    });
}

#[test]
fn a_connection_that_the_primary_did_not_get_is_served_on() {
    run(async |mut served| {
        let mut client = served.client().await;
        let copy = served.give(false).await.expect("it is idle");
        client.send(&request("/")).await;
        served.acknowledge(HandleAnswer::Nack);
        assert_eq!(client.answer().await.body, b"hello");
        drop(copy);
        served.moves().await;
        assert_eq!(client.get("/").await, "hello");
    });
}

#[test]
fn a_part_of_a_request_keeps_its_connection_until_it_is_answered() {
    run(async |mut served| {
        let mut client = served.client().await;
        let whole = request("/");
        for cut in [1, 10, whole.len() - 1] {
            client.send(&whole[..cut]).await;
            // Nothing tells when the worker has read it; before that the connection is idle and may move.
            while let Ok(connection) = served.give(false).await {
                served.acknowledge(HandleAnswer::Ack);
                served.hand_over(connection).await;
            }
            served.primary.say(&Extension::Give { wait: true });
            served.gives_nothing_yet().await;
            client.send(&whole[cut..]).await;
            assert_eq!(client.answer().await.body, b"hello");
            let connection = served.answer_to_give().await.expect("it became idle");
            served.acknowledge(HandleAnswer::Ack);
            served.hand_over(connection).await;
        }
    });
}

#[test]
fn what_was_read_behind_a_request_is_not_lost() {
    run(async |mut served| {
        let mut client = served.client().await;
        // One read takes all of it.
        let third = request("/ignores");
        client.send(&(request("/") + &request("/length") + &third[..9])).await;
        assert_eq!(client.answer().await.body, b"hello");
        assert_eq!(client.answer().await.body, b"0");
        assert_eq!(served.give(false).await.map(drop), Err(1));
        client.send(&third[9..]).await;
        assert_eq!(client.answer().await.body, b"ignored");
        served.moves().await;
        assert_eq!(client.get("/").await, "hello");
    });
}

#[test]
fn a_response_that_streams_ends_before_its_connection_moves() {
    run(async |mut served| {
        let mut client = served.client().await;
        served.stream_to(&mut client).await;
        assert_eq!(served.give(false).await.map(drop), Err(1));
        served.primary.say(&Extension::Give { wait: true });
        served.gives_nothing_yet().await;
        served.parts = None;
        client.read_until("0\r\n\r\n").await;
        let connection = served.answer_to_give().await.expect("it became idle");
        served.acknowledge(HandleAnswer::Ack);
        served.hand_over(connection).await;
        assert_eq!(client.get("/").await, "hello");
    });
}

#[test]
fn a_response_that_is_not_written_yet_keeps_its_connection() {
    run(async |mut served| {
        let mut client = served.client().await;
        client.send(&request("/large")).await;
        client.read_until("HTTP/1.1 200 OK").await;
        assert_eq!(served.give(false).await.map(drop), Err(1));
        assert_eq!(client.answer().await.body.len(), program::LARGE);
        served.moves().await;
        assert_eq!(client.get("/").await, "hello");
    });
}

#[test]
fn a_request_whose_body_still_comes_keeps_its_connection() {
    run(async |mut served| {
        let mut client = served.client().await;
        for chunked in [false, true] {
            let (length, rest) = if chunked {
                ("transfer-encoding: chunked", "5\r\nworld\r\n0\r\n\r\n")
            } else {
                ("content-length: 5", "world")
            };
            client.send(&format!("POST /reads-later HTTP/1.1\r\nhost: x\r\n{length}\r\n\r\n")).await;
            assert_eq!(client.answer().await.body, b"later");
            assert_eq!(served.give(false).await.map(drop), Err(1));
            served.primary.say(&Extension::Give { wait: true });
            served.gives_nothing_yet().await;
            client.send(rest).await;
            let connection = served.answer_to_give().await.expect("it became idle");
            served.acknowledge(HandleAnswer::Ack);
            served.hand_over(connection).await;
            assert_eq!(client.get("/").await, "hello");
        }
    });
}

#[test]
fn a_connection_whose_request_bodies_were_read_or_thrown_away_moves() {
    run(async |mut served| {
        let mut client = served.client().await;
        for (path, answer) in [("/length", "5"), ("/ignores", "ignored")] {
            client.send(&format!("POST {path} HTTP/1.1\r\nhost: x\r\ncontent-length: 5\r\n\r\nworld")).await;
            assert_eq!(client.answer().await.body, answer.as_bytes());
            served.moves().await;
        }
    });
}

#[test]
fn a_body_that_nobody_reads_ends_its_connection() {
    run(async |mut served| {
        let mut client = served.client().await;
        client.send("POST /ignores HTTP/1.1\r\nhost: x\r\ncontent-length: 5\r\n\r\nwo").await;
        assert_eq!(client.answer().await.body, b"ignored");
        // What is missing would be taken for a request elsewhere.
        assert_eq!(served.give(true).await.map(drop), Err(0));
        client.closed().await;
    });
}

#[test]
fn an_upgraded_connection_stays_until_it_ends() {
    run(async |mut served| {
        let mut client = served.client().await;
        client.send("GET /upgrade HTTP/1.1\r\nhost: x\r\nconnection: upgrade\r\nupgrade: echo\r\n\r\n").await;
        client.read_until("\r\n\r\n").await;
        for wait in [false, true] {
            assert_eq!(served.give(wait).await.map(drop), Err(1));
        }
        served.primary.say(&Extension::Drain { moves: true });
        assert!(matches!(served.primary.next().await, Cluster::Close { .. }));
        assert_eq!(served.primary.extension().await, Extension::Open { count: 1 });
        served.primary.send(&encode::disconnect(0));
        client.send("still here").await;
        client.read_until("still here").await;
        assert!(!served.server.is_finished());
        client.shutdown().await;
        client.closed().await;
        assert_eq!(served.primary.extension().await, Extension::Open { count: 0 });
        served.server.await.expect("no panic");
    });
}

#[test]
fn a_worker_that_drains_gives_everything_and_reports_what_is_left() {
    run(async |mut served| {
        let (mut idle, mut busy) = (served.client().await, served.client().await);
        assert_eq!(idle.get("/").await, "hello");
        served.stream_to(&mut busy).await;
        served.primary.say(&Extension::Drain { moves: true });
        assert!(matches!(served.primary.next().await, Cluster::Close { .. }));
        assert_eq!(served.primary.extension().await, Extension::Open { count: 2 });
        let first = served.give(false).await.expect("it is idle");
        served.acknowledge(HandleAnswer::Ack);
        assert_eq!(served.primary.extension().await, Extension::Open { count: 1 });
        served.primary.say(&Extension::Give { wait: true });
        served.gives_nothing_yet().await;
        // The primary can wait no longer, but its request is open.
        served.primary.send(&encode::disconnect(0));
        served.parts = None;
        busy.read_until("0\r\n\r\n").await;
        let second = served.answer_to_give().await.expect("it became idle");
        served.acknowledge(HandleAnswer::Ack);
        assert_eq!(served.primary.extension().await, Extension::Open { count: 0 });
        served.server.await.expect("no panic");
        // Neither was shut down.
        for connection in [first, second] {
            let stream = std::net::TcpStream::from(connection);
            assert_eq!(stream.take_error().expect("a socket").map(|error| error.kind()), None);
            assert!(stream.peer_addr().is_ok());
        }
    });
}

/// A Node primary never asks, and ours does not when nobody is there to take a connection.
#[test]
fn without_a_request_connections_end_politely() {
    for message in [encode::disconnect(0), Extension::Drain { moves: false }.encode()] {
        connections_end_politely(&message);
    }
}

fn connections_end_politely(message: &[u8]) {
    run(async |mut served| {
        let (mut idle, mut busy) = (served.client().await, served.client().await);
        let mut partial = served.client().await;
        assert_eq!(idle.get("/").await, "hello");
        let third = request("/");
        partial.send(&(request("/") + &third[..9])).await;
        assert_eq!(partial.answer().await.body, b"hello");
        busy.send("POST /length HTTP/1.1\r\nhost: x\r\ncontent-length: 5\r\n\r\n").await;
        served.primary.send(message);
        idle.closed().await;
        for (mut client, rest) in [(busy, "world"), (partial, &third[9..])] {
            client.send(rest).await;
            assert!(client.answer().await.closes());
            client.closed().await;
        }
        served.server.await.expect("no panic");
    });
}

#[test]
fn a_worker_without_connections_waits_for_nothing() {
    run(async |mut served| {
        let _client = served.client().await;
        served.primary.say(&Extension::Drain { moves: true });
        assert!(matches!(served.primary.next().await, Cluster::Close { .. }));
        assert_eq!(served.primary.extension().await, Extension::Open { count: 1 });
        let _given = served.give(false).await.expect("it is idle");
        served.acknowledge(HandleAnswer::Ack);
        // Before the primary has said `disconnect`.
        served.server.await.expect("no panic");
    });
}

#[test]
fn a_primary_that_asks_no_more_is_not_waited_for() {
    run(async |mut served| {
        let (mut first, mut second) = (served.client().await, served.client().await);
        for client in [&mut first, &mut second] {
            assert_eq!(client.get("/").await, "hello");
        }
        served.primary.say(&Extension::Drain { moves: true });
        served.primary.send(&encode::disconnect(0));
        assert!(matches!(served.primary.next().await, Cluster::Close { .. }));
        assert_eq!(served.primary.extension().await, Extension::Open { count: 2 });
        let _given = served.give(true).await.expect("it is idle");
        served.acknowledge(HandleAnswer::Ack);
        second.closed().await;
        served.server.await.expect("no panic");
    });
}

#[test]
fn connections_of_unix_sockets_move_too() {
    crate::run(async |mut primary, worker| {
        primary.next().await;
        let listen = tokio::spawn(async move { worker.listen_unix("/served.sock").await });
        let (seq, _query) = primary.query().await;
        let reply = ServerReply { key: "k".into(), ..ServerReply::default() };
        primary.send(&encode::server_reply(&reply, seq, 0));
        let listener = listen.await.expect("no panic").expect("a listener");
        assert!(matches!(primary.next().await, Cluster::Listening { .. }));
        let mut served = Served::on(primary, listener);
        let (mut client, connection) = UnixStream::pair().expect("a pair");
        let connection = connection.into_std().expect("a socket");
        served.hand_over(connection.into()).await;
        for _ in 0..2 {
            client.write_all(request("/").as_bytes()).await.expect("open");
            let mut answer = Vec::new();
            while !answer.ends_with(b"hello") {
                assert!(client.read_buf(&mut answer).await.expect("open") > 0);
            }
            served.moves().await;
        }
    });
}

#[test]
fn alone_it_ends_when_the_worker_leaves() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let worker = Worker::alone();
        let listener = worker.listen("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("bound");
        let server = tokio::spawn(worksong_worker::serve(listener, program::program().0));
        let mut client = Client::new(std::net::TcpStream::connect(address).expect("it listens"));
        assert_eq!(client.get("/").await, "hello");
        worker.disconnect().await;
        client.closed().await;
        server.await.expect("no panic");
    });
}

#[test]
fn a_request_that_ends_without_a_connection_ends_the_wait_for_it() {
    run(async |mut served| {
        let mut client = served.client().await;
        let second = request("/");
        client.send(&(request("/") + &second[..9])).await;
        assert_eq!(client.answer().await.body, b"hello");
        served.primary.say(&Extension::Drain { moves: true });
        assert!(matches!(served.primary.next().await, Cluster::Close { .. }));
        assert_eq!(served.primary.extension().await, Extension::Open { count: 1 });
        served.primary.send(&encode::disconnect(0));
        // Its connection looks idle; that it is not is found out by its own task.
        assert_eq!(served.give(false).await.map(drop), Err(1));
        client.send(&second[9..]).await;
        assert_eq!(client.answer().await.body, b"hello");
        client.closed().await;
        served.server.await.expect("no panic");
    });
}

#[test]
fn connections_of_a_server_that_was_dropped_go_on() {
    run(async |mut served| {
        let (mut idle, mut busy) = (served.client().await, served.client().await);
        assert_eq!(idle.get("/").await, "hello");
        served.stream_to(&mut busy).await;
        served.server.abort();
        assert!(served.server.await.expect_err("it was dropped").is_cancelled());
        assert!(matches!(served.primary.next().await, Cluster::Close { .. }));
        assert_eq!(idle.get("/").await, "hello");
        served.parts = None;
        busy.read_until("0\r\n\r\n").await;
        assert_eq!(busy.get("/").await, "hello");
        // Both move as before, and only then they are gone here.
        for open in [1, 0] {
            served.primary.say(&Extension::Give { wait: false });
            let Incoming { handle: Some(_), .. } = served.primary.incoming().await else { panic!("no gift") };
            served.primary.channel.answer_handle(HandleAnswer::Ack).expect("the worker is there");
            served.primary.say(&Extension::Ping { seq: open });
            assert_eq!(served.primary.extension().await, Extension::Pong { ack: open, open });
        }
    });
}
