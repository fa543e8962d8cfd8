//! Messages to bytes, newline included, with the fields in the order in which Node writes them.

use serde::Serialize;
use serde_json::value::RawValue;

use super::{AddressType, HandleAnswer, ServerQuery, ServerReply, SockName};

/// A server's key as it stands inside a message: quoted and escaped once, written for every connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EncodedKey(Vec<u8>);

impl EncodedKey {
    /// Quotes and escapes a key.
    #[must_use]
    pub fn new(key: &str) -> Self {
        Self(to_json(key))
    }
}

/// Writes the message that hands a connection to a worker; the descriptor goes with it.
pub fn new_connection(out: &mut Vec<u8>, key: &EncodedKey, seq: u64) {
    out.extend_from_slice(
        br#"{"cmd":"NODE_HANDLE","type":"net.Native","msg":{"cmd":"NODE_CLUSTER","act":"newconn","key":"#,
    );
    out.extend_from_slice(&key.0);
    out.extend_from_slice(br#","seq":"#);
    decimal(out, seq);
    out.extend_from_slice(b"}}\n");
}

/// Returns the answer owed to a handle message.
#[must_use]
pub fn handle_answer(answer: HandleAnswer) -> &'static [u8] {
    match answer {
        HandleAnswer::Ack => b"{\"cmd\":\"NODE_HANDLE_ACK\"}\n",
        HandleAnswer::Nack => b"{\"cmd\":\"NODE_HANDLE_NACK\"}\n",
    }
}

/// Returns the request to close all servers, finish, and close the channel. Never send it twice.
#[must_use]
pub fn disconnect(seq: u64) -> Vec<u8> {
    line(&Act { cmd: CLUSTER, act: "disconnect", seq })
}

/// Returns the answer to `exitedAfterDisconnect`.
#[must_use]
pub fn acknowledge(ack: u64, seq: u64) -> Vec<u8> {
    #[derive(Serialize)]
    struct Acknowledge {
        cmd: &'static str,
        ack: u64,
        seq: u64,
    }
    line(&Acknowledge { cmd: CLUSTER, ack, seq })
}

/// Returns a worker's answer to a new connection.
#[must_use]
pub fn accepted(ack: u64, accepted: bool, seq: u64) -> Vec<u8> {
    #[derive(Serialize)]
    struct Accepted {
        cmd: &'static str,
        ack: u64,
        accepted: bool,
        seq: u64,
    }
    line(&Accepted { cmd: CLUSTER, ack, accepted, seq })
}

/// Returns the answer to a server query that carries no descriptor: the primary accepts, or an error.
#[must_use]
pub fn server_reply(reply: &ServerReply, ack: u64, seq: u64) -> Vec<u8> {
    // As Node does: a number here is an error's.
    let errno = (reply.errno != 0).then_some(reply.errno);
    line(&Server::new(errno, reply, ack, seq))
}

/// Returns the answer to a server query that carries the socket itself: the worker accepts.
#[must_use]
pub fn shared_server_reply(reply: &ServerReply, datagram: bool, ack: u64, seq: u64) -> Vec<u8> {
    let kind = if datagram { "dgram.Native" } else { "net.Native" };
    handle(kind, &Server::new(Some(reply.errno), reply, ack, seq))
}

/// Returns a message of a worker about itself: `online`, `exitedAfterDisconnect`.
#[must_use]
pub fn act(act: &'static str, seq: u64) -> Vec<u8> {
    line(&Act { cmd: CLUSTER, act, seq })
}

/// Returns a worker's notice that the server with this key is closed.
#[must_use]
pub fn close(key: &str, seq: u64) -> Vec<u8> {
    #[derive(Serialize)]
    struct Close<'a> {
        cmd: &'static str,
        act: &'static str,
        key: &'a str,
        seq: u64,
    }
    line(&Close { cmd: CLUSTER, act: "close", key, seq })
}

/// Returns a worker's question for a server.
#[must_use]
pub fn query_server(query: &ServerQuery, seq: u64) -> Vec<u8> {
    line(&Query::new("queryServer", query, seq))
}

/// Returns a worker's notice that a server listens; `query` holds the real port.
#[must_use]
pub fn listening(query: &ServerQuery, seq: u64) -> Vec<u8> {
    line(&Query::new("listening", query, seq))
}

/// Returns a user message. The text must be JSON; its newlines between tokens become spaces.
#[must_use]
pub fn user(message: &RawValue) -> Vec<u8> {
    line_of(message.get())
}

/// Returns a user message that carries a descriptor for the receiving program, as Node's `net.Socket`.
#[must_use]
pub fn user_with_socket(message: &RawValue) -> Vec<u8> {
    let mut line = handle("net.Socket", message);
    newlines_to_spaces(&mut line);
    line
}

/// Returns the answer to [`SocketList::GetCount`](super::SocketList::GetCount).
#[must_use]
pub fn socket_count(key: &str, count: u64) -> Vec<u8> {
    #[derive(Serialize)]
    struct Count<'a> {
        cmd: &'static str,
        key: &'a str,
        count: u64,
    }
    line(&Count { cmd: "NODE_SOCKET_COUNT", key, count })
}

/// Returns the answer to [`SocketList::NotifyClose`](super::SocketList::NotifyClose).
#[must_use]
pub fn sockets_all_closed(key: &str) -> Vec<u8> {
    #[derive(Serialize)]
    struct AllClosed<'a> {
        cmd: &'static str,
        key: &'a str,
    }
    line(&AllClosed { cmd: "NODE_SOCKET_ALL_CLOSED", key })
}

const CLUSTER: &str = "NODE_CLUSTER";

#[derive(Serialize)]
struct Act {
    cmd: &'static str,
    act: &'static str,
    seq: u64,
}

#[derive(Serialize)]
struct Server<'a> {
    cmd: &'static str,
    errno: Option<i64>,
    key: &'a str,
    ack: u64,
    data: Option<&'a RawValue>,
    #[serde(skip_serializing_if = "Option::is_none")]
    sockname: Option<&'a SockName>,
    seq: u64,
}

impl<'a> Server<'a> {
    fn new(errno: Option<i64>, reply: &'a ServerReply, ack: u64, seq: u64) -> Self {
        Self {
            cmd: CLUSTER,
            errno,
            key: &reply.key,
            ack,
            data: reply.data.as_deref(),
            sockname: reply.sockname.as_ref(),
            seq,
        }
    }
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Query<'a> {
    cmd: &'static str,
    act: &'static str,
    index: u64,
    data: Option<&'a RawValue>,
    address: Option<&'a str>,
    port: Option<i64>,
    address_type: AddressType,
    #[serde(skip_serializing_if = "Option::is_none")]
    fd: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    flags: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    backlog: Option<u32>,
    #[serde(skip_serializing_if = "is_false")]
    readable_all: bool,
    #[serde(skip_serializing_if = "is_false")]
    writable_all: bool,
    seq: u64,
}

impl<'a> Query<'a> {
    fn new(act: &'static str, query: &'a ServerQuery, seq: u64) -> Self {
        let datagram = query.address_type.is_datagram();
        Self {
            cmd: CLUSTER,
            act,
            index: query.index,
            data: query.data.as_deref(),
            address: query.address.as_deref(),
            port: query.port,
            address_type: query.address_type,
            fd: query.fd.or(datagram.then_some(-1)),
            flags: query.flags,
            backlog: (!datagram).then(|| query.backlog.unwrap_or(0)),
            readable_all: query.readable_all,
            writable_all: query.writable_all,
            seq,
        }
    }
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde calls it with a reference")]
fn is_false(value: &bool) -> bool {
    !value
}

#[derive(Serialize)]
struct HandleMessage<'a, M: ?Sized> {
    cmd: &'static str,
    #[serde(rename = "type")]
    kind: &'static str,
    msg: &'a M,
}

pub(super) fn handle<M: Serialize + ?Sized>(kind: &'static str, message: &M) -> Vec<u8> {
    line(&HandleMessage { cmd: "NODE_HANDLE", kind, msg: message })
}

pub(super) fn line<T: Serialize>(message: &T) -> Vec<u8> {
    let mut line = to_json(message);
    line.push(b'\n');
    line
}

fn to_json<T: Serialize + ?Sized>(value: &T) -> Vec<u8> {
    serde_json::to_vec(value).expect("invariant: plain structs of strings and numbers serialise")
}

fn line_of(json: &str) -> Vec<u8> {
    let mut line = Vec::with_capacity(json.len() + 1);
    line.extend_from_slice(json.as_bytes());
    line.push(b'\n');
    newlines_to_spaces(&mut line);
    line
}

/// Inside JSON text a raw newline stands only between tokens; on the channel it would end the message.
fn newlines_to_spaces(line: &mut [u8]) {
    if let Some((_end, text)) = line.split_last_mut() {
        text.iter_mut().filter(|byte| **byte == b'\n').for_each(|byte| *byte = b' ');
    }
}

fn decimal(out: &mut Vec<u8>, mut number: u64) {
    let mut digits = [0_u8; 20];
    let mut at = digits.len();
    loop {
        at -= 1;
        digits[at] = b'0' + (number % 10) as u8;
        number /= 10;
        if number == 0 {
            break;
        }
    }
    out.extend_from_slice(&digits[at..]);
}

#[cfg(test)]
mod tests;
