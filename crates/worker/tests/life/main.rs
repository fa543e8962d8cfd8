//! The life of a worker, seen from a primary that is under the test's control.

mod primary;
#[cfg(feature = "serve")]
mod serving;

use std::future::Future;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use serde_json::value::RawValue;
use tokio::io::AsyncReadExt;
use tokio::time::timeout;
use worksong_channel::message::encode::{self, EncodedKey};
use worksong_channel::message::{Cluster, Extension, ServerReply};
use worksong_channel::{Message, pair};
use worksong_worker::{Drained, ListenError, Worker};

use crate::primary::Primary;

#[test]
fn a_worker_says_online_and_asks_for_its_server() {
    run(async |mut primary, worker| {
        assert!(matches!(primary.next().await, Cluster::Online { seq: 0 }));
        let listen = tokio::spawn(async move { worker.listen("0.0.0.0:0").await });
        let (seq, query) = primary.query().await;
        assert_eq!((query.address.as_deref(), query.port, query.index), (Some("0.0.0.0"), Some(0), 0));
        let reply = ServerReply {
            key: "k".into(),
            sockname: Some(SocketAddr::from(([0, 0, 0, 0], 4711)).into()),
            ..ServerReply::default()
        };
        primary.send(&encode::server_reply(&reply, seq, 0));
        let listener = listen.await.expect("no panic").expect("a listener");
        assert_eq!(listener.local_addr().expect("known").port(), 4711);
        let Cluster::Listening { query } = primary.next().await else { panic!("not listening") };
        assert_eq!(query.port, Some(4711), "the real port is reported");
        drop(listener);
        assert!(matches!(primary.next().await, Cluster::Close { key } if key == "k"));
    });
}

#[test]
fn servers_of_one_address_are_numbered_while_one_is_open() {
    run(async |mut primary, worker| {
        primary.next().await;
        let first = primary.serve(&worker, "a").await;
        let second = primary.serve(&worker, "b").await;
        assert_eq!((primary.last_index, second.local_addr().is_ok()), (1, true));
        drop((first, second));
        let _third = primary.serve(&worker, "c").await;
        assert_eq!(primary.last_index, 0, "all were closed before");
    });
}

#[test]
fn a_connection_is_acknowledged_at_once_and_accepted_when_it_is_taken() {
    run(async |mut primary, worker| {
        primary.next().await;
        let listener = primary.serve(&worker, "k").await;
        let mut client = primary.hand_over("k", 7);
        assert!(matches!(primary.message().await, Message::HandleAck));
        let (mut stream, peer) = listener.accept().await.expect("a connection");
        assert_eq!(primary.accepted().await, (7, true));
        assert_eq!(peer, client.local_addr().expect("connected"));
        client.write_all(b"x").expect("open");
        assert_eq!(stream.read_u8().await.expect("a byte"), b'x');
    });
}

#[test]
fn connections_that_nobody_took_go_back_when_the_worker_drains() {
    run(async |mut primary, worker| {
        primary.next().await;
        let listener = primary.serve(&worker, "k").await;
        let _clients = [primary.hand_over("k", 1), primary.hand_over("k", 2)];
        let _taken = listener.accept().await.expect("the first");
        primary.send(&encode::disconnect(0));
        worker.draining().await;
        let error = listener.accept().await.map(drop).expect_err("no more");
        assert!(Drained::caused(&error), "{error}");
        for _ in 0..2 {
            assert!(matches!(primary.message().await, Message::HandleAck));
        }
        assert_eq!(primary.accepted().await, (1, true));
        assert_eq!(primary.accepted().await, (2, false));
        assert!(matches!(primary.next().await, Cluster::Close { key } if key == "k"));
        // What was on its way meets a worker that drains.
        let _late = primary.hand_over("k", 3);
        assert!(matches!(primary.message().await, Message::HandleAck));
        assert_eq!(primary.accepted().await, (3, false));
        let refused = worker.listen("127.0.0.1:0").await.expect_err("it drains");
        assert!(matches!(refused, ListenError::Draining { .. }), "{refused}");
    });
}

/// hyper and axum close a connection whose first request they have not read when they are told to finish.
#[test]
fn a_connection_taken_just_now_has_time_to_send_its_request() {
    run(async |mut primary, worker| {
        primary.next().await;
        let listener = primary.serve(&worker, "k").await;
        let _client = primary.hand_over("k", 1);
        let before = Instant::now();
        let _taken = listener.accept().await.expect("a connection");
        primary.send(&encode::disconnect(0));
        let (end, ()) = tokio::join!(listener.accept(), worker.draining());
        assert!(Drained::caused(&end.map(drop).expect_err("no more")));
        assert!(before.elapsed() >= Duration::from_millis(100), "{:?}", before.elapsed());
    });
}

#[test]
fn connections_of_a_dropped_listener_go_back() {
    run(async |mut primary, worker| {
        primary.next().await;
        let listener = primary.serve(&worker, "k").await;
        let _client = primary.hand_over("k", 1);
        assert!(matches!(primary.message().await, Message::HandleAck));
        drop(listener);
        assert_eq!(primary.accepted().await, (1, false));
        assert!(matches!(primary.next().await, Cluster::Close { key } if key == "k"));
        assert!(!worker.is_draining());
    });
}

#[test]
fn a_program_that_does_not_accept_gives_connections_back_in_time() {
    run(async |mut primary, worker| {
        primary.next().await;
        let listener = primary.serve(&worker, "k").await;
        let _client = primary.hand_over("k", 1);
        assert!(matches!(primary.message().await, Message::HandleAck));
        assert_eq!(primary.accepted().await, (1, false));
        let _second = primary.hand_over("k", 2);
        listener.accept().await.expect("the second");
        assert!(matches!(primary.message().await, Message::HandleAck));
        assert_eq!(primary.accepted().await, (2, true));
    });
}

#[test]
fn a_cancelled_accept_loses_nothing() {
    run(async |mut primary, worker| {
        primary.next().await;
        let listener = primary.serve(&worker, "k").await;
        for seq in 0..20 {
            let cancelled = timeout(Duration::ZERO, listener.accept()).await;
            assert!(cancelled.is_err(), "nothing was handed over yet");
            let _client = primary.hand_over("k", seq);
            listener.accept().await.expect("a connection");
            assert!(matches!(primary.message().await, Message::HandleAck));
            assert_eq!(primary.accepted().await, (seq, true));
        }
    });
}

#[test]
fn a_cancelled_listen_takes_its_server_back() {
    run(async |mut primary, worker| {
        primary.next().await;
        assert!(timeout(Duration::ZERO, worker.listen("127.0.0.1:0")).await.is_err());
        let (seq, _query) = primary.query().await;
        primary.send(&encode::server_reply(
            &ServerReply { key: "k".into(), ..ServerReply::default() },
            seq,
            0,
        ));
        assert!(matches!(primary.next().await, Cluster::Close { key } if key == "k"));
    });
}

#[test]
fn a_bind_error_of_the_primary_is_the_programs() {
    run(async |mut primary, worker| {
        primary.next().await;
        let listen = tokio::spawn(async move { worker.listen(80).await.map(drop) });
        let (seq, query) = primary.query().await;
        assert_eq!((query.address, query.port), (None, Some(80)));
        let reply = ServerReply { errno: -98, key: "k".into(), ..ServerReply::default() };
        primary.send(&encode::server_reply(&reply, seq, 0));
        let error = listen.await.expect("no panic").expect_err("in use");
        let ListenError::Bind { address, source } = &error else { panic!("{error:?}") };
        assert_eq!((address.as_str(), source.kind()), ("port 80", std::io::ErrorKind::AddrInUse));
    });
}

#[test]
fn a_shared_socket_is_accepted_from_directly() {
    run(async |mut primary, worker| {
        primary.next().await;
        let bound = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = bound.local_addr().expect("bound");
        let listen = tokio::spawn({
            let worker = worker.clone();
            async move { worker.listen("127.0.0.1:0").await }
        });
        let (seq, _query) = primary.query().await;
        let reply = ServerReply { key: "k".into(), ..ServerReply::default() };
        primary
            .channel
            .send(encode::shared_server_reply(&reply, false, seq, 0), Some(bound.into()))
            .expect("sent");
        assert!(matches!(primary.message().await, Message::HandleAck));
        let listener = listen.await.expect("no panic").expect("a listener");
        let client = TcpStream::connect(address).expect("it listens");
        let (_stream, peer) = listener.accept().await.expect("a connection");
        assert_eq!(peer, client.local_addr().expect("connected"));
        // Another worker had it before.
        let moved = primary.hand_over("k", 3);
        let (_stream, peer) = listener.accept().await.expect("a connection");
        assert_eq!(peer, moved.local_addr().expect("connected"));
        primary.send(&encode::disconnect(0));
        let error = listener.accept().await.map(drop).expect_err("no more");
        assert!(Drained::caused(&error), "{error}");
    });
}

#[test]
fn a_unix_socket_is_asked_for_by_its_whole_path() {
    run(async |mut primary, worker| {
        primary.next().await;
        let listen = tokio::spawn({
            let worker = worker.clone();
            async move { worker.listen_unix("relative.sock").await }
        });
        let (seq, query) = primary.query().await;
        let path = std::env::current_dir().expect("a folder").join("relative.sock");
        assert_eq!((query.address.as_deref(), query.port), (path.to_str(), Some(-1)));
        primary.send(&encode::server_reply(
            &ServerReply { key: "k".into(), ..ServerReply::default() },
            seq,
            0,
        ));
        let listener = listen.await.expect("no panic").expect("a listener");
        assert!(matches!(primary.next().await, Cluster::Listening { .. }));
        let (mut client, connection) = std::os::unix::net::UnixStream::pair().expect("a pair");
        let mut message = Vec::new();
        encode::new_connection(&mut message, &EncodedKey::new("k"), 1);
        primary.channel.send(message, Some(connection.into())).expect("the worker is there");
        let (mut stream, _peer) = listener.accept().await.expect("a connection");
        client.write_all(b"x").expect("open");
        assert_eq!(stream.read_u8().await.expect("a byte"), b'x');
    });
}

#[test]
fn a_handle_without_its_descriptor_is_refused() {
    run(async |mut primary, worker| {
        primary.next().await;
        let listener = primary.serve(&worker, "k").await;
        let mut message = Vec::new();
        encode::new_connection(&mut message, &EncodedKey::new("k"), 1);
        primary.send(&message);
        primary.send(b"{\"cmd\":\"NODE_HANDLE\"}\n");
        assert!(matches!(primary.message().await, Message::HandleNack));
        assert!(matches!(primary.message().await, Message::HandleNack));
        let _client = primary.hand_over("k", 2);
        listener.accept().await.expect("the next one is whole");
    });
}

#[test]
fn garbage_of_the_primary_changes_nothing() {
    run(async |mut primary, worker| {
        primary.next().await;
        let listener = primary.serve(&worker, "k").await;
        for line in [
            "nonsense\n",
            "{\"cmd\":\"NODE_CLUSTER\"}\n",
            "{\"cmd\":\"NODE_CLUSTER\",\"act\":\"newconn\",\"seq\":1}\n",
            "{\"cmd\":\"NODE_CLUSTER\",\"ack\":999,\"key\":\"k\",\"errno\":0}\n",
            "{\"cmd\":\"NODE_HANDLE_ACK\"}\n",
            "{\"cmd\":\"NODE_UNKNOWN\"}\n",
        ] {
            primary.send(line.as_bytes());
        }
        let _client = primary.hand_over("k", 5);
        listener.accept().await.expect("it serves on");
        assert!(matches!(primary.message().await, Message::HandleAck));
        assert_eq!(primary.accepted().await, (5, true));
    });
}

#[test]
fn a_worker_that_leaves_says_so_before_it_closes_and_waits_for_the_note() {
    run(async |mut primary, worker| {
        primary.next().await;
        let _listener = primary.serve(&worker, "k").await;
        let leave = tokio::spawn({
            let worker = worker.clone();
            async move { worker.disconnect().await }
        });
        let Cluster::ExitedAfterDisconnect { seq } = primary.next().await else { panic!("no leave") };
        assert!(matches!(primary.next().await, Cluster::Close { key } if key == "k"));
        assert!(worker.is_draining());
        assert!(!leave.is_finished(), "the primary has not taken note");
        primary.send(&encode::acknowledge(seq, 0));
        leave.await.expect("no panic");
    });
}

#[test]
fn messages_go_both_ways_in_order() {
    run(async |mut primary, worker| {
        primary.next().await;
        for number in 0..3 {
            primary.send(format!("{{\"number\":{number}}}\n").as_bytes());
        }
        for number in 0..3 {
            let message = worker.recv().await.expect("open");
            assert_eq!(message.as_json(), format!("{{\"number\":{number}}}"));
        }
        worker.send(&("tuple", 1)).expect("open");
        worker.ready().expect("open");
        for expected in ["[\"tuple\",1]", "\"ready\""] {
            let Message::User(body) = primary.message().await else { panic!("no user message") };
            assert_eq!(body.get(), expected);
        }
    });
}

#[test]
fn a_message_brings_its_socket() {
    run(async |mut primary, worker| {
        primary.next().await;
        let (ours, theirs) = std::os::unix::net::UnixStream::pair().expect("a pair");
        let body = RawValue::from_string("\"take it\"".into()).expect("JSON");
        primary.channel.send(encode::user_with_socket(&body), Some(theirs.into())).expect("sent");
        let mut message = worker.recv().await.expect("open");
        assert!(matches!(primary.message().await, Message::HandleAck));
        assert_eq!(message.parse::<String>().expect("a text"), "take it");
        let handle: OwnedFd = message.take_handle().expect("its socket");
        std::os::unix::net::UnixStream::from(handle).write_all(b"x").expect("open");
        let mut byte = [0];
        { &ours }.read_exact(&mut byte).expect("a byte");
        assert_eq!(byte, *b"x");
    });
}

#[test]
fn a_lost_primary_ends_every_wait() {
    run(async |mut primary, worker| {
        primary.next().await;
        let listener = primary.serve(&worker, "k").await;
        drop(primary);
        worker.draining().await;
        worker.closed().await;
        assert!(worker.recv().await.is_none());
        assert!(Drained::caused(&listener.accept().await.map(drop).expect_err("no more")));
        assert!(worker.send("x").is_err());
        worker.disconnect().await;
    });
}

#[test]
fn a_primary_that_does_not_read_gets_everything_later() {
    run(async |mut primary, worker| {
        primary.next().await;
        let text = "x".repeat(60_000);
        for _ in 0..100 {
            worker.send(&text).expect("room");
        }
        for _ in 0..100 {
            let Message::User(body) = primary.message().await else { panic!("no user message") };
            assert_eq!(body.get().len(), text.len() + 2);
        }
        let error = (0..1000).find_map(|_| worker.send(&text).err()).expect("the queue has an end");
        assert!(matches!(error, worksong_worker::SendError::Full { .. }), "{error}");
    });
}

#[test]
fn alone_a_worker_binds_by_itself_and_drains_by_itself() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let worker = Worker::alone();
        let listener = worker.listen("127.0.0.1:0").await.expect("a port");
        let _client = TcpStream::connect(listener.local_addr().expect("bound")).expect("it listens");
        listener.accept().await.expect("a connection");
        worker.send("nobody hears").expect("and nobody cares");
        worker.disconnect().await;
        worker.draining().await;
        assert!(Drained::caused(&listener.accept().await.map(drop).expect_err("no more")));
    });
}

#[test]
fn a_ping_is_answered_and_a_program_that_serves_by_itself_gives_nothing() {
    run(async |mut primary, worker| {
        primary.next().await;
        let listener = primary.serve(&worker, "k").await;
        let _client = primary.hand_over("k", 1);
        let _taken = listener.accept().await.expect("a connection");
        assert!(matches!(primary.message().await, Message::HandleAck));
        assert_eq!(primary.accepted().await, (1, true));
        for wait in [false, true] {
            primary.say(&Extension::Ping { seq: 7 });
            assert_eq!(primary.extension().await, Extension::Pong { ack: 7, open: 0 });
            primary.say(&Extension::Give { wait });
            assert_eq!(primary.extension().await, Extension::Nothing { open: 0 });
        }
    });
}

#[test]
fn a_worker_drains_when_that_is_announced() {
    run(async |mut primary, worker| {
        primary.next().await;
        let _listener = primary.serve(&worker, "k").await;
        primary.say(&Extension::Drain { moves: true });
        worker.draining().await;
        assert!(matches!(primary.next().await, Cluster::Close { key } if key == "k"));
        primary.send(&encode::disconnect(0));
        primary.say(&Extension::Ping { seq: 1 });
        assert_eq!(primary.extension().await, Extension::Pong { ack: 1, open: 0 });
    });
}

/// Runs a test with both ends of a channel, on one thread, with a deadline.
fn run<F: Future<Output = ()>>(test: impl FnOnce(Primary, Worker) -> F) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let (ours, theirs) = pair().expect("a channel");
        let worker = Worker::on_channel(theirs, 1).expect("a worker");
        worker.outlive_primary();
        let test = test(Primary::new(ours), worker);
        timeout(Duration::from_secs(20), test).await.expect("the test ends in time");
    });
}
