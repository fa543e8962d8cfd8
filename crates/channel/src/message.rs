//! Single messages: what they mean, and their bytes.
//!
//! A message is *internal* when its `cmd` is a string that starts with `NODE_` and is longer than that prefix;
//! everything else is a *user* message, whatever JSON it is (Node 16–26, `lib/internal/child_process.js`).

mod decode;
pub mod encode;
pub mod extension;
mod fields;

use serde_json::value::RawValue;
use thiserror::Error;

pub use self::extension::{Ability, Extension};
pub use self::fields::{AddressType, SockName};

/// One decoded message of a channel, from either side.
#[derive(Debug)]
pub enum Message {
    /// A cluster message: `{"cmd":"NODE_CLUSTER",…}`.
    Cluster(Cluster),
    /// A message that carries a descriptor: `{"cmd":"NODE_HANDLE",…}`. Owes the sender an answer.
    Handle(Handle),
    /// The peer took the descriptor of our oldest unanswered handle message.
    HandleAck,
    /// The peer read our oldest unanswered handle message, but its descriptor was missing.
    HandleNack,
    /// The peer asks about sockets of a `net.Server` that its program passed to us.
    SocketList(SocketList),
    /// A message of worksong's own, beyond Node's protocol: `{"cmd":"NODE_WORKSONG",…}`.
    Extension(Extension),
    /// An internal command that we do not know; ignored, as Node does.
    Unknown {
        /// Its `cmd`.
        cmd: String,
    },
    /// A message of the program itself.
    User(Box<RawValue>),
}

/// The answer owed to each [`Handle`] message, in the order of arrival.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HandleAnswer {
    /// The descriptor arrived.
    Ack,
    /// The message arrived without its descriptor.
    Nack,
}

/// A message that carries one descriptor.
#[derive(Debug)]
pub struct Handle {
    /// What the receiver is meant to build of the descriptor, such as `net.Native` or `net.Socket`.
    pub kind: String,
    /// The message inside. Node wraps a retried handle twice; this is the innermost one.
    pub message: Box<Message>,
    /// The socket list that a passed `net.Socket` belongs to.
    pub key: Option<String>,
}

/// A question about sockets that were passed with a key; they are answered with the same key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SocketList {
    /// How many of them are still open here?
    GetCount {
        /// The list's key.
        key: String,
    },
    /// Tell me when all of them are closed here.
    NotifyClose {
        /// The list's key.
        key: String,
    },
    /// An answer to a question of ours.
    Answer,
}

/// A cluster message. `seq` is the sender's number for it; a reply quotes it as `ack`.
#[derive(Debug)]
pub enum Cluster {
    /// Worker: the runtime is up, no program code has run yet.
    Online {
        /// The sender's number of this message.
        seq: u64,
    },
    /// Worker: may I have a server for this address? Expects a reply.
    QueryServer {
        /// The sender's number of this message.
        seq: u64,
        /// What the program asked to listen on.
        query: Box<ServerQuery>,
    },
    /// Worker: the server of this query listens now.
    Listening {
        /// The query again, its port replaced by the real one.
        query: Box<ServerQuery>,
    },
    /// Worker: the server with this key is closed.
    Close {
        /// The key from the primary's reply to the query.
        key: String,
    },
    /// Worker: I will leave; my exit is no crash. Expects a reply, without it the worker hangs.
    ExitedAfterDisconnect {
        /// The sender's number of this message.
        seq: u64,
    },
    /// Primary: here is a connection for the server with this key. Expects a reply.
    NewConnection {
        /// The sender's number of this message.
        seq: u64,
        /// The server's key.
        key: String,
    },
    /// Primary: close your servers, finish, and close the channel.
    Disconnect,
    /// The answer to the message numbered `ack`.
    Reply(Reply),
    /// An act that we do not know; ignored, as Node does.
    Unknown {
        /// Its `act`.
        act: String,
    },
}

/// The answer to an earlier cluster message.
#[derive(Debug, Default)]
pub struct Reply {
    /// The `seq` of the message that this answers.
    pub ack: u64,
    /// Answer to a new connection: did the worker take it?
    pub accepted: Option<bool>,
    /// Answer to a server query.
    pub server: Option<Box<ServerReply>>,
}

/// What a program asked to listen on, as its runtime reports it.
///
/// The values that Node sends for each form of `listen()` are listed in the tests of `decode`.
#[derive(Clone, Debug, Default)]
pub struct ServerQuery {
    /// The n-th open server of this worker for the same address.
    pub index: u64,
    /// Data that the primary keeps from the first worker and returns to all (TLS ticket keys).
    pub data: Option<Box<RawValue>>,
    /// A host address or a path; `None` means all interfaces.
    pub address: Option<String>,
    /// The port, 0 for any; -1 for paths, `None` for descriptors.
    pub port: Option<i64>,
    /// Which kind of address it is.
    pub address_type: AddressType,
    /// A descriptor number in the *primary's* table.
    pub fd: Option<i64>,
    /// TCP: bit 0 `IPV6_V6ONLY`, bit 1 `SO_REUSEPORT`. UDP: bit 0 `IPV6_V6ONLY`, bit 2 `SO_REUSEADDR`,
    /// bit 3 `SO_REUSEPORT`.
    pub flags: Option<i64>,
    /// The length of the listen queue; `None` (sent as absent, 0, `null` or `false`) means the default, 511.
    pub backlog: Option<u32>,
    /// A path that all users may read.
    pub readable_all: bool,
    /// A path that all users may write.
    pub writable_all: bool,
}

/// The primary's answer to a server query.
#[derive(Clone, Debug, Default)]
pub struct ServerReply {
    /// 0, or a *negative* errno: a Node worker dies of a positive one.
    pub errno: i64,
    /// What the server is called from now on.
    pub key: String,
    /// The data of the first worker that asked with this key.
    pub data: Option<Box<RawValue>>,
    /// Where the socket is bound; without it a Node program's `server.address()` is null.
    pub sockname: Option<SockName>,
}

/// Why a line of a channel is not a message.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum DecodeError {
    /// The line is no JSON text.
    #[error("a line of {length} bytes is not JSON: {reason}")]
    NotJson {
        /// The line's length in bytes.
        length: usize,
        /// What the JSON parser says.
        reason: String,
    },
    /// An internal message whose fields do not fit.
    #[error("malformed {cmd} message: {reason}")]
    Malformed {
        /// The message's `cmd`.
        cmd: String,
        /// What does not fit.
        reason: String,
    },
    /// A line longer than the limit; it was skipped up to its newline.
    #[error("a line is longer than {limit} bytes and was skipped")]
    TooLong {
        /// The limit in bytes.
        limit: usize,
    },
}

impl DecodeError {
    /// Returns true for a handle message: its sender waits for a NACK.
    #[must_use]
    pub fn is_handle(&self) -> bool {
        matches!(self, Self::Malformed { cmd, .. } if cmd == "NODE_HANDLE")
    }
}

impl Message {
    /// Decodes one line without its newline; a leading `0x02` must be stripped before.
    pub fn decode(line: &[u8]) -> Result<Self, DecodeError> {
        decode::decode(line)
    }
}
