//! A primary that is under the test's control.

use std::collections::VecDeque;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::OwnedFd;

use tokio::io::Interest;
use tokio::net::UnixStream;
use worksong_channel::channel::{Progress, READ_BUFFER};
use worksong_channel::message::encode::{self, EncodedKey};
use worksong_channel::message::{Cluster, Extension, ServerQuery, ServerReply};
use worksong_channel::{Channel, Incoming, Message};
use worksong_worker::{Listener, Worker};

/// The other end of the worker's channel.
pub(crate) struct Primary {
    pub(crate) channel: Channel,
    readiness: UnixStream,
    unread: VecDeque<Incoming<OwnedFd>>,
    pub(crate) last_index: u64,
}

impl Primary {
    pub(crate) fn new(socket: OwnedFd) -> Self {
        let readiness = socket.try_clone().expect("a descriptor");
        let readiness = UnixStream::from_std(readiness.into()).expect("a runtime");
        Self { channel: Channel::new(socket), readiness, unread: VecDeque::new(), last_index: 0 }
    }

    pub(crate) fn send(&mut self, message: &[u8]) {
        self.channel.send(message, None).expect("the worker is there");
    }

    pub(crate) fn say(&mut self, message: &Extension) {
        self.send(&message.encode());
    }

    pub(crate) async fn message(&mut self) -> Message {
        self.incoming().await.message
    }

    /// Returns the next message with the descriptor that came with it.
    pub(crate) async fn incoming(&mut self) -> Incoming<OwnedFd> {
        loop {
            if let Some(incoming) = self.unread.pop_front() {
                if matches!(incoming.message, Message::HandleAck | Message::HandleNack) {
                    let _owed = self.channel.answered();
                }
                return incoming;
            }
            self.readiness.ready(Interest::READABLE).await.expect("a socket");
            let mut incoming = Vec::new();
            let channel = &mut self.channel;
            let read = self.readiness.try_io(Interest::READABLE, || {
                match channel.receive(&mut vec![0; READ_BUFFER], &mut incoming)? {
                    Progress::Read | Progress::ReadAll => Ok(()),
                    Progress::WouldBlock => Err(std::io::ErrorKind::WouldBlock.into()),
                    Progress::Closed => panic!("the worker closed its channel"),
                }
            });
            if let Err(error) = read {
                assert_eq!(error.kind(), std::io::ErrorKind::WouldBlock, "{error}");
            }
            self.unread.extend(incoming.into_iter().map(|message| message.expect("a message")));
        }
    }

    /// Returns the next message, which must be a cluster message.
    pub(crate) async fn next(&mut self) -> Cluster {
        match self.message().await {
            Message::Cluster(message) => message,
            other => panic!("unexpected {other:?}"),
        }
    }

    /// Returns the next message, which must be one of worksong's own.
    pub(crate) async fn extension(&mut self) -> Extension {
        match self.message().await {
            Message::Extension(message) => message,
            other => panic!("unexpected {other:?}"),
        }
    }

    pub(crate) async fn query(&mut self) -> (u64, ServerQuery) {
        loop {
            match self.next().await {
                Cluster::QueryServer { seq, query } => return (seq, *query),
                Cluster::Close { .. } => {}
                other => panic!("unexpected {other:?}"),
            }
        }
    }

    pub(crate) async fn accepted(&mut self) -> (u64, bool) {
        match self.next().await {
            Cluster::Reply(reply) => (reply.ack, reply.accepted.expect("an answer to a connection")),
            other => panic!("unexpected {other:?}"),
        }
    }

    /// Gives the worker a server with this key, whose connections are handed over.
    pub(crate) async fn serve(&mut self, worker: &Worker, key: &str) -> Listener {
        let worker = worker.clone();
        let listen = tokio::spawn(async move { worker.listen("127.0.0.1:0").await });
        let (seq, query) = self.query().await;
        self.last_index = query.index;
        let sockname = Some(SocketAddr::from(([127, 0, 0, 1], 1)).into());
        let reply = ServerReply { key: key.into(), sockname, ..ServerReply::default() };
        self.send(&encode::server_reply(&reply, seq, 0));
        let listener = listen.await.expect("no panic").expect("a listener");
        assert!(matches!(self.next().await, Cluster::Listening { .. }));
        listener
    }

    /// Hands a new connection over and returns its client's end.
    pub(crate) fn hand_over(&mut self, key: &str, seq: u64) -> TcpStream {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let client = TcpStream::connect(listener.local_addr().expect("bound")).expect("it listens");
        let (connection, _peer) = listener.accept().expect("a connection");
        self.hand_over_this(key, seq, connection.into());
        client
    }

    pub(crate) fn hand_over_this(&mut self, key: &str, seq: u64, connection: OwnedFd) {
        let mut message = Vec::new();
        encode::new_connection(&mut message, &EncodedKey::new(key), seq);
        self.channel.send(message, Some(connection)).expect("the worker is there");
    }
}
