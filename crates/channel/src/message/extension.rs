//! What worksong and its workers say beyond Node's protocol: `{"cmd":"NODE_WORKSONG",…}`.
//!
//! Node ignores internal commands that it does not know, at both ends, so these messages are safe to send to any
//! worker and to any primary. `docs/protocol.md` says when each is sent.

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::encode::{handle, line};

/// The `cmd` of every message of the extension.
pub(super) const EXTENSION: &str = "NODE_WORKSONG";

/// A message beyond Node's protocol.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "act", rename_all = "lowercase")]
pub enum Extension {
    /// Worker: the part of me that understands this is up. Sent again when it understands more.
    Hello {
        /// What it understands.
        can: Vec<Ability>,
    },
    /// Primary: you will be asked to leave; what does not move shall end politely.
    Drain {
        /// Idle connections will be asked for, so those that can move need not end.
        #[serde(rename = "move", default)]
        moves: bool,
    },
    /// Primary, after `Drain`: the time to leave is half over. What could move if it were idle shall end with its next answer.
    Hurry,
    /// Primary: say from now on how many connections are open.
    Count {
        /// At most once in so many milliseconds; 0: not any more.
        every: u64,
    },
    /// Worker, after `Drain` or `Count`: this many connections are open here.
    Open {
        /// How many.
        count: u64,
    },
    /// Primary: give one idle connection back. There is one answer, [`Given`](Self::Given) or [`Nothing`](Self::Nothing),
    /// and never a second request before it.
    Give {
        /// Answer only when a connection has become idle, or none is left that ever could.
        #[serde(default)]
        wait: bool,
    },
    /// Worker: here is a connection. It stands inside a handle message, which carries the descriptor.
    Given,
    /// Worker: there is none to give.
    #[serde(rename = "none")]
    Nothing {
        /// How many connections are open here.
        #[serde(default)]
        open: u64,
    },
    /// Primary: does your event loop turn?
    Ping {
        /// Quoted in the answer.
        seq: u64,
    },
    /// Worker: it does.
    Pong {
        /// The number of the ping.
        ack: u64,
        /// How many connections are open here.
        #[serde(default)]
        open: u64,
    },
    /// An act that we do not know; ignored.
    #[serde(other, skip_serializing)]
    Unknown,
}

/// What a worker understands of the extension.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Ability {
    /// It answers [`Extension::Give`].
    Give,
    /// It answers [`Extension::Ping`].
    Ping,
    /// It understands [`Extension::Drain`] and [`Extension::Hurry`], and reports [`Extension::Open`] from then on.
    Drain,
    /// It understands [`Extension::Count`], and says the number of all its connections.
    Count,
    /// Something that we do not know.
    #[serde(other, skip_serializing)]
    Unknown,
}

#[derive(Serialize)]
struct Whole<'a> {
    cmd: &'static str,
    #[serde(flatten)]
    message: &'a Extension,
}

impl Extension {
    /// Returns the message's bytes, newline included.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        line(&Whole { cmd: EXTENSION, message: self })
    }

    pub(super) fn decode(text: &RawValue) -> serde_json::Result<Self> {
        serde_json::from_str(text.get())
    }
}

/// Returns the handle message that gives a connection back; the descriptor goes with it.
#[must_use]
pub fn given() -> Vec<u8> {
    handle("net.Native", &Whole { cmd: EXTENSION, message: &Extension::Given })
}

#[cfg(test)]
mod tests {
    use super::super::{Handle, Message};
    use super::*;

    const ALL: [(&str, Extension); 10] = [
        (r#"{"cmd":"NODE_WORKSONG","act":"drain","move":true}"#, Extension::Drain { moves: true }),
        (r#"{"cmd":"NODE_WORKSONG","act":"hurry"}"#, Extension::Hurry),
        (r#"{"cmd":"NODE_WORKSONG","act":"count","every":50}"#, Extension::Count { every: 50 }),
        (r#"{"cmd":"NODE_WORKSONG","act":"open","count":3}"#, Extension::Open { count: 3 }),
        (r#"{"cmd":"NODE_WORKSONG","act":"give","wait":false}"#, Extension::Give { wait: false }),
        (r#"{"cmd":"NODE_WORKSONG","act":"give","wait":true}"#, Extension::Give { wait: true }),
        (r#"{"cmd":"NODE_WORKSONG","act":"given"}"#, Extension::Given),
        (r#"{"cmd":"NODE_WORKSONG","act":"none","open":2}"#, Extension::Nothing { open: 2 }),
        (r#"{"cmd":"NODE_WORKSONG","act":"ping","seq":7}"#, Extension::Ping { seq: 7 }),
        (r#"{"cmd":"NODE_WORKSONG","act":"pong","ack":7,"open":9}"#, Extension::Pong { ack: 7, open: 9 }),
    ];

    fn decoded(line: &str) -> Extension {
        match Message::decode(line.trim_end().as_bytes()) {
            Ok(Message::Extension(message)) => message,
            other => panic!("{line}: {other:?}"),
        }
    }

    #[test]
    fn every_message_is_written_and_read_as_documented() {
        for (line, message) in ALL {
            assert_eq!(String::from_utf8(message.encode()).expect("UTF-8"), format!("{line}\n"));
            assert_eq!(decoded(line), message);
        }
        let hello =
            Extension::Hello { can: vec![Ability::Give, Ability::Ping, Ability::Drain, Ability::Count] };
        let line = r#"{"cmd":"NODE_WORKSONG","act":"hello","can":["give","ping","drain","count"]}"#;
        assert_eq!(String::from_utf8(hello.encode()).expect("UTF-8"), format!("{line}\n"));
        assert_eq!(decoded(line), hello);
    }

    #[test]
    fn what_later_versions_say_is_ignored() {
        assert_eq!(decoded(r#"{"cmd":"NODE_WORKSONG","act":"dance","to":[1]}"#), Extension::Unknown);
        let hello = decoded(r#"{"cmd":"NODE_WORKSONG","act":"hello","can":["fly"],"name":"x"}"#);
        assert_eq!(hello, Extension::Hello { can: vec![Ability::Unknown] });
        assert_eq!(decoded(r#"{"cmd":"NODE_WORKSONG","act":"give"}"#), Extension::Give { wait: false });
    }

    #[test]
    fn what_does_not_fit_is_malformed() {
        for line in [
            r#"{"cmd":"NODE_WORKSONG"}"#,
            r#"{"cmd":"NODE_WORKSONG","act":"ping"}"#,
            r#"{"cmd":"NODE_WORKSONG","act":"open","count":-1}"#,
        ] {
            let error = Message::decode(line.as_bytes()).expect_err(line);
            assert!(error.to_string().starts_with("malformed NODE_WORKSONG message: "), "{error}");
        }
    }

    #[test]
    fn a_connection_is_given_inside_a_handle_message() {
        let line = given();
        match Message::decode(line.strip_suffix(b"\n").expect("a newline")) {
            Ok(Message::Handle(Handle { kind, message, .. })) => {
                assert_eq!(kind, "net.Native");
                assert!(matches!(*message, Message::Extension(Extension::Given)), "{message:?}");
            }
            other => panic!("{other:?}"),
        }
    }
}
