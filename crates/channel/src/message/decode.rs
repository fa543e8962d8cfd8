//! Bytes to messages.

use std::borrow::Cow;

use serde::Deserialize;
use serde_json::value::RawValue;

use super::extension::{EXTENSION, Extension};
use super::{AddressType, SockName, fields};
use super::{Cluster, DecodeError, Handle, Message, Reply, ServerQuery, ServerReply, SocketList};

/// Node prefixes every internal command with this; the bare prefix is a user's own command.
const INTERNAL: &str = "NODE_";
/// How deep retried handle messages may be wrapped: Node retries a handle at most three times.
const MAX_WRAPPING: u32 = 8;

/// The two answers that each handed-over connection brings, byte for byte as Node writes them.
const ACK: &[u8] = br#"{"cmd":"NODE_HANDLE_ACK"}"#;
const ACCEPTED_HEAD: &[u8] = br#"{"cmd":"NODE_CLUSTER","ack":"#;
const ACCEPTED_TAIL: &[u8] = br#","accepted":true,"seq":"#;

pub(super) fn decode(line: &[u8]) -> Result<Message, DecodeError> {
    if line == ACK {
        return Ok(Message::HandleAck);
    }
    if let Some(ack) = accepted(line) {
        let reply = Reply { ack, accepted: Some(true), server: None };
        return Ok(Message::Cluster(Cluster::Reply(reply)));
    }
    let text: &RawValue = serde_json::from_slice(line)
        .map_err(|error| DecodeError::NotJson { length: line.len(), reason: error.to_string() })?;
    decode_json(text, MAX_WRAPPING)
}

/// Recognises `accepted:true` replies without a JSON parser: they are most of a busy channel's traffic.
fn accepted(line: &[u8]) -> Option<u64> {
    let (ack, rest) = leading_number(line.strip_prefix(ACCEPTED_HEAD)?)?;
    let (_seq, end) = leading_number(rest.strip_prefix(ACCEPTED_TAIL)?)?;
    (end == b"}").then_some(ack)
}

fn leading_number(bytes: &[u8]) -> Option<(u64, &[u8])> {
    let digits = bytes.iter().take_while(|byte| byte.is_ascii_digit()).count();
    // JSON knows no leading zeros; more digits than these might not fit.
    if digits == 0 || digits > 15 || (digits > 1 && bytes[0] == b'0') {
        return None;
    }
    let number = bytes[..digits].iter().fold(0, |number, digit| number * 10 + u64::from(digit - b'0'));
    Some((number, &bytes[digits..]))
}

fn decode_json(text: &RawValue, wrapping: u32) -> Result<Message, DecodeError> {
    let Some(cmd) = internal_command(text) else {
        return Ok(Message::User(text.to_owned()));
    };
    match cmd.as_ref() {
        "NODE_CLUSTER" => parse::<ClusterFields>(text, &cmd)?.build(&cmd).map(Message::Cluster),
        "NODE_HANDLE" => decode_handle(text, &cmd, wrapping),
        "NODE_HANDLE_ACK" => Ok(Message::HandleAck),
        "NODE_HANDLE_NACK" => Ok(Message::HandleNack),
        "NODE_SOCKET_GET_COUNT" => {
            Ok(Message::SocketList(SocketList::GetCount { key: parse::<Key>(text, &cmd)?.key }))
        }
        "NODE_SOCKET_NOTIFY_CLOSE" => {
            Ok(Message::SocketList(SocketList::NotifyClose { key: parse::<Key>(text, &cmd)?.key }))
        }
        "NODE_SOCKET_COUNT" | "NODE_SOCKET_ALL_CLOSED" => Ok(Message::SocketList(SocketList::Answer)),
        EXTENSION => Extension::decode(text)
            .map(Message::Extension)
            .map_err(|error| malformed(&cmd, &error.to_string())),
        _ => Ok(Message::Unknown { cmd: cmd.into_owned() }),
    }
}

/// Returns the command of an internal message, `None` for a user message of whatever JSON type.
fn internal_command(text: &RawValue) -> Option<Cow<'_, str>> {
    #[derive(Deserialize)]
    struct Head<'a> {
        #[serde(borrow)]
        cmd: &'a RawValue,
    }
    #[derive(Deserialize)]
    struct Command<'a>(#[serde(borrow)] Cow<'a, str>);

    let head: Head<'_> = text.get().starts_with('{').then(|| serde_json::from_str(text.get()).ok())??;
    let Command(cmd) = serde_json::from_str(head.cmd.get()).ok()?;
    (cmd.starts_with(INTERNAL) && cmd.len() > INTERNAL.len()).then_some(cmd)
}

fn decode_handle(text: &RawValue, cmd: &str, wrapping: u32) -> Result<Message, DecodeError> {
    #[derive(Deserialize)]
    struct Fields<'a> {
        #[serde(rename = "type")]
        kind: String,
        #[serde(borrow, default)]
        msg: Option<&'a RawValue>,
        #[serde(default)]
        key: Option<String>,
    }
    let malformed = |reason: &str| malformed(cmd, reason);
    let fields: Fields<'_> = parse(text, cmd)?;
    let inner = match fields.msg {
        // Whatever is wrong inside, it is a handle message that is malformed: it owes an answer.
        Some(inner) if wrapping > 0 => {
            decode_json(inner, wrapping - 1).map_err(|error| malformed(&error.to_string()))?
        }
        Some(_) => return Err(malformed("it is wrapped too deep")),
        None => Message::User(RawValue::NULL.to_owned()),
    };
    Ok(Message::Handle(match inner {
        Message::Handle(handle) => Handle { key: handle.key.or(fields.key), ..handle },
        message => Handle { kind: fields.kind, message: Box::new(message), key: fields.key },
    }))
}

fn parse<'a, T: Deserialize<'a>>(text: &'a RawValue, cmd: &str) -> Result<T, DecodeError> {
    serde_json::from_str(text.get()).map_err(|error| malformed(cmd, &error.to_string()))
}

fn malformed(cmd: &str, reason: &str) -> DecodeError {
    DecodeError::Malformed { cmd: cmd.to_owned(), reason: reason.to_owned() }
}

#[derive(Deserialize)]
struct Key {
    key: String,
}

/// All fields that any cluster message may have; Node leaves out what is undefined.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ClusterFields<'a> {
    act: Option<String>,
    seq: Option<u64>,
    ack: Option<u64>,
    key: Option<String>,
    accepted: Option<bool>,
    errno: Option<i64>,
    sockname: Option<SockName>,
    index: Option<u64>,
    #[serde(borrow, default)]
    data: Option<&'a RawValue>,
    address: Option<String>,
    #[serde(default, deserialize_with = "fields::port")]
    port: Option<i64>,
    #[serde(default = "no_address_type")]
    address_type: AddressType,
    fd: Option<i64>,
    flags: Option<i64>,
    #[serde(default, deserialize_with = "fields::backlog")]
    backlog: Option<u32>,
    readable_all: Option<bool>,
    writable_all: Option<bool>,
}

fn no_address_type() -> AddressType {
    AddressType::Descriptor
}

impl ClusterFields<'_> {
    fn build(self, cmd: &str) -> Result<Cluster, DecodeError> {
        let missing = |field: &str| malformed(cmd, &format!("field {field} is missing"));
        if let Some(ack) = self.ack {
            return Ok(Cluster::Reply(self.into_reply(ack)));
        }
        let Some(act) = self.act.as_deref() else {
            return Err(missing("act"));
        };
        let seq = self.seq.ok_or_else(|| missing("seq"));
        Ok(match act {
            "online" => Cluster::Online { seq: self.seq.unwrap_or(0) },
            "queryServer" => Cluster::QueryServer { seq: seq?, query: Box::new(self.into_query()) },
            "listening" => Cluster::Listening { query: Box::new(self.into_query()) },
            "close" => Cluster::Close { key: self.key.ok_or_else(|| missing("key"))? },
            "exitedAfterDisconnect" => Cluster::ExitedAfterDisconnect { seq: seq? },
            "newconn" => Cluster::NewConnection { seq: seq?, key: self.key.ok_or_else(|| missing("key"))? },
            "disconnect" => Cluster::Disconnect,
            other => Cluster::Unknown { act: other.to_owned() },
        })
    }

    fn into_reply(self, ack: u64) -> Reply {
        let server = self.key.map(|key| {
            Box::new(ServerReply {
                errno: self.errno.unwrap_or(0),
                key,
                data: self.data.map(RawValue::to_owned),
                sockname: self.sockname,
            })
        });
        Reply { ack, accepted: self.accepted, server }
    }

    fn into_query(self) -> ServerQuery {
        // Node's UDP queries say "no descriptor" as -1 and "any port" by leaving it out.
        let fd = self.fd.filter(|fd| *fd >= 0);
        let any_port = (self.address_type.is_datagram() && fd.is_none()).then_some(0);
        ServerQuery {
            index: self.index.unwrap_or(0),
            data: self.data.map(RawValue::to_owned),
            address: self.address,
            port: self.port.or(any_port),
            address_type: self.address_type,
            fd,
            flags: self.flags,
            backlog: self.backlog,
            readable_all: self.readable_all.unwrap_or(false),
            writable_all: self.writable_all.unwrap_or(false),
        }
    }
}

#[cfg(test)]
mod tests;
