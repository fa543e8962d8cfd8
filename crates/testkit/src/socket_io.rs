//! Real clients of Socket.IO, in a process of their own.

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;

use crate::paths::{fixture, node};
use crate::program::Program;
use serde_json::Value;

/// How clients reach the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Long polling, each request on a connection of its own, from another address.
    Polling,
    /// The same, and then a WebSocket.
    Upgrade,
    /// A WebSocket from the beginning.
    WebSocket,
    /// Long polling through a proxy, which has one address and says for whom it speaks.
    Proxied,
    /// Long polling of all clients over one pool of connections that stay open, as the tabs of a browser have it.
    Pool,
}

impl Kind {
    fn name(self) -> &'static str {
        match self {
            Self::Polling => "polling",
            Self::Upgrade => "upgrade",
            Self::WebSocket => "websocket",
            Self::Proxied => "proxied",
            Self::Pool => "pool",
        }
    }
}

/// Where a client is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    /// The slot of its worker.
    pub slot: u32,
    /// The process of its worker.
    pub pid: u32,
}

/// So many clients that go on asking until this is dropped.
#[derive(Debug)]
pub struct Clients {
    program: Program,
    count: usize,
}

impl Clients {
    /// Starts them; each of them begins with an echo of so many bytes.
    #[must_use]
    #[track_caller]
    pub fn start(port: u16, kind: Kind, count: usize, bytes: usize) -> Self {
        let mut command = Command::new(node("22"));
        command.arg(fixture("node/socket-io/client.js")).args([port.to_string(), kind.name().to_owned()]);
        command.args([count.to_string(), bytes.to_string()]);
        Self { program: Program::start(&mut command), count }
    }

    /// Waits until every client has been answered by one of these workers, or of all; returns where they are then.
    #[track_caller]
    pub fn wait_answers(&self, by: Option<&BTreeSet<u32>>) -> BTreeMap<u64, Place> {
        let mut places = BTreeMap::new();
        let mut answered = BTreeSet::new();
        self.program.wait_line("answers for all clients", |line| {
            let Ok(said) = serde_json::from_str::<Value>(line) else { panic!("a client said {line}") };
            let client = said["client"].as_u64().expect("a client");
            match said["event"].as_str() {
                Some("connected") => {
                    places.insert(client, Place { slot: number(&said["slot"]), pid: number(&said["pid"]) });
                }
                Some("echoed") if by.is_none_or(|pids| pids.contains(&number(&said["pid"]))) => {
                    answered.insert(client);
                }
                Some("disconnected") => drop((places.remove(&client), answered.remove(&client))),
                _ => {}
            }
            (answered.len() == self.count).then_some(())
        });
        places
    }

    /// Returns which transports the clients have used, by what they said when they were connected.
    #[must_use]
    pub fn transports(&self) -> BTreeSet<String> {
        let connected = self.said().into_iter().filter(|said| said["event"] == "connected");
        connected.filter_map(|said| Some(said["transport"].as_str()?.to_owned())).collect()
    }

    /// Returns the clients that had to connect again.
    #[must_use]
    pub fn interrupted(&self) -> BTreeSet<u64> {
        let ended = self.said().into_iter().filter(|said| said["event"] == "disconnected");
        ended.filter_map(|said| said["client"].as_u64()).collect()
    }

    /// Asserts that nothing was refused, lost, or answered wrong.
    #[track_caller]
    pub fn assert_unharmed(&self) {
        let harm = |said: &Value| !matches!(said["event"].as_str(), Some("connected" | "echoed"));
        let harm: Vec<_> = self.said().into_iter().filter(harm).collect();
        assert!(harm.is_empty(), "{harm:?}");
    }

    /// Asserts that no answer was wrong; clients may have had to connect again.
    #[track_caller]
    pub fn assert_nothing_failed(&self) {
        let failed: Vec<_> = self.said().into_iter().filter(|said| said["event"] == "failed").collect();
        assert!(failed.is_empty(), "{failed:?}");
    }

    fn said(&self) -> Vec<Value> {
        self.program.lines().iter().filter_map(|line| serde_json::from_str(&line.text).ok()).collect()
    }
}

fn number(value: &Value) -> u32 {
    value.as_u64().and_then(|number| u32::try_from(number).ok()).expect("a number")
}
