//! Messages by which a library keeps its copies in several workers together: the primary passes them on.
//!
//! `@socket.io/cluster-adapter` and `@socket.io/cluster-engine` send them to the primary, where a program of the user's
//! would hand them to the other workers (`setupPrimary()`). Each copy of the library has a name. A message that answers one
//! copy goes to the worker where that lives; every other one goes to all other workers of the app. A worker that leaves too much
//! unread loses what comes beyond that, and nobody else does.

use std::borrow::Cow;
use std::collections::HashSet;

use serde_json::value::RawValue;
use worksong_channel::message::encode;

use super::control::Control;
use crate::ids::WorkerId;
use crate::plane::{Command, Credit};

/// How many copies of libraries are known of a worker; answers to others go to all workers. There is one for each
/// namespace of Socket.IO.
const MOST_NAMES: usize = 1024;
/// Longer names are none.
const LONGEST_NAME: usize = 64;

/// What is written on a message that is to be passed on.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Envelope<'a> {
    /// The copy that sends it.
    from: Option<Cow<'a, str>>,
    /// The copy that it answers.
    to: Option<Cow<'a, str>>,
}

impl<'a> Envelope<'a> {
    /// Reads it; `None` for everything that is not to be passed on.
    pub(super) fn of(body: &'a RawValue) -> Option<Self> {
        #[derive(serde::Deserialize)]
        struct Fields<'a> {
            #[serde(borrow)]
            source: Option<Cow<'a, str>>,
            #[serde(borrow)]
            uid: Option<Cow<'a, str>>,
            #[serde(borrow, rename = "requesterUid")]
            requester: Option<Cow<'a, str>>,
            #[serde(borrow, rename = "_source")]
            engine_source: Option<Cow<'a, str>>,
            #[serde(borrow, rename = "senderId")]
            sender: Option<Cow<'a, str>>,
            #[serde(borrow, rename = "recipientId")]
            recipient: Option<Cow<'a, str>>,
        }
        let text = body.get();
        if !text.starts_with('{') || !(text.contains("\"_sio_adapter\"") || text.contains("\"_eio\"")) {
            return None;
        }
        let fields: Fields<'a> = serde_json::from_str(text).ok()?;
        match (fields.source.as_deref(), fields.engine_source.as_deref()) {
            (Some("_sio_adapter"), _) => Some(Self { from: fields.uid, to: fields.requester }),
            (_, Some("_eio")) => Some(Self { from: fields.sender, to: fields.recipient }),
            _ => None,
        }
    }
}

/// The copies of libraries that live in a worker.
#[derive(Debug, Default)]
pub(super) struct Names(HashSet<Box<str>>);

impl Names {
    fn learn(&mut self, name: &str) {
        if name.len() <= LONGEST_NAME && self.0.len() < MOST_NAMES && !self.0.contains(name) {
            self.0.insert(name.into());
        }
    }

    fn know(&self, name: &str) -> bool {
        self.0.contains(name)
    }
}

impl Control {
    /// Passes a message on if it is one for other workers; gives it back otherwise.
    pub(super) fn relay(
        &mut self,
        sender: WorkerId,
        body: Box<RawValue>,
        credit: Credit,
    ) -> Result<(), (Box<RawValue>, Credit)> {
        let Some(Envelope { from, to }) = Envelope::of(&body) else { return Err((body, credit)) };
        if let Some(name) = from
            && let Some(worker) = self.worker_mut(sender)
        {
            worker.names.learn(&name);
        }
        let Some(app) = self.apps.get(&sender.app) else { return Ok(()) };
        let owner = to.and_then(|name| app.workers.iter().find(|(_, worker)| worker.names.know(&name)));
        let to = match owner {
            Some((owner, _)) => vec![*owner],
            None => app.workers.keys().copied().filter(|worker| *worker != sender).collect(),
        };
        // Encoded once, here, and shared by all that have not read it.
        self.plane.send(Command::Relay { to, message: encode::user(&body).into(), credit });
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns from whom it is, and to whom.
    fn envelope(text: &str) -> Option<[Option<String>; 2]> {
        let body = RawValue::from_string(text.to_owned()).expect("JSON");
        Envelope::of(&body).map(|Envelope { from, to }| [from, to].map(|name| name.map(Cow::into_owned)))
    }

    fn names(from: &str, to: Option<&str>) -> [Option<String>; 2] {
        [Some(from), to].map(|name| name.map(str::to_owned))
    }

    #[test]
    fn what_libraries_mean_for_other_workers_is_recognised() {
        let heartbeat = r#"{"type":1,"uid":"9f3c","nsp":"/","source":"_sio_adapter"}"#;
        assert_eq!(envelope(heartbeat), Some(names("9f3c", None)));
        let response = r#"{"type":8,"data":{"sockets":[]},"uid":"9f3c","nsp":"/","source":"_sio_adapter","requesterUid":"77aa"}"#;
        assert_eq!(envelope(response), Some(names("9f3c", Some("77aa"))));
        let lock = r#"{"requestId":1,"senderId":"ab12cd","type":0,"data":{"sid":"x"},"_source":"_eio"}"#;
        assert_eq!(envelope(lock), Some(names("ab12cd", None)));
        let drain = r#"{"senderId":"ab12cd","recipientId":"00ff00","type":2,"data":{},"_source":"_eio"}"#;
        assert_eq!(envelope(drain), Some(names("ab12cd", Some("00ff00"))));
        assert_eq!(envelope(r#"{"source":"_sio_adapter","type":3}"#), Some([None, None]));
    }

    #[test]
    fn everything_else_is_the_programs_own() {
        for text in [
            r#""_sio_adapter""#,
            r#"["_eio"]"#,
            r#"{"source":"me","text":"_sio_adapter"}"#,
            r#"{"data":{"source":"_sio_adapter"}}"#,
            r#"{"_source":"_sio_adapter"}"#,
            r#"{"source":"_eio"}"#,
            r#"{"source":1,"x":"_eio"}"#,
            r#"{"source":"_sio_adapter","uid":7}"#,
            "null",
        ] {
            assert_eq!(envelope(text), None, "{text}");
        }
    }

    #[test]
    fn a_worker_has_so_many_names() {
        let mut names = Names::default();
        names.learn(&"x".repeat(LONGEST_NAME + 1));
        for number in 0..=MOST_NAMES {
            names.learn(&number.to_string());
            names.learn("0");
        }
        assert_eq!(names.0.len(), MOST_NAMES);
        assert!(names.know("0") && !names.know(&MOST_NAMES.to_string()));
    }
}
