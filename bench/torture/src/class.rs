//! The classes of clients, and how many there are of each.

use std::fmt;
use std::time::Duration;

/// What a client does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Class {
    /// A connection for each request, with `Connection: close`.
    Fresh,
    /// One request after the other on one connection.
    KeepAlive,
    /// Several requests at once on one connection, without waiting for answers.
    Pipelined,
    /// Large answers, read slowly.
    SlowReader,
    /// Uploads of 10 MB, whose checksum is the answer.
    Upload,
    /// Answers in numbered chunks over a second.
    Stream,
    /// Numbered messages over WebSocket, echoed.
    WebSocket,
    /// Several requests at once on one HTTP/2 connection.
    Http2,
    /// Open connections that never say anything.
    Silent,
}

impl Class {
    /// All, in the order of the table.
    pub const ALL: [Self; 9] = [
        Self::Fresh,
        Self::KeepAlive,
        Self::Pipelined,
        Self::SlowReader,
        Self::Upload,
        Self::Stream,
        Self::WebSocket,
        Self::Http2,
        Self::Silent,
    ];

    /// Returns its name on the command line and in tables.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Fresh => "new",
            Self::KeepAlive => "keep-alive",
            Self::Pipelined => "pipelined",
            Self::SlowReader => "slow-reader",
            Self::Upload => "upload",
            Self::Stream => "stream",
            Self::WebSocket => "websocket",
            Self::Http2 => "http2",
            Self::Silent => "silent",
        }
    }

    /// Returns the class of this name.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|class| class.name() == name)
    }

    /// Returns the mean of the pauses between two requests of one client.
    pub(crate) fn pause(self) -> Duration {
        Duration::from_millis(match self {
            Self::Fresh | Self::KeepAlive => 40,
            Self::Pipelined | Self::WebSocket => 60,
            Self::SlowReader | Self::Upload | Self::Stream | Self::Http2 => 100,
            Self::Silent => 1000,
        })
    }
}

impl fmt::Display for Class {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.pad(self.name())
    }
}

/// How many clients of each class there are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Crowd([(Class, usize); Class::ALL.len()]);

impl Default for Crowd {
    /// Returns 78 clients of all classes, about 1000 requests per second.
    fn default() -> Self {
        Self(Class::ALL.map(|class| {
            let count = match class {
                Class::Fresh | Class::Stream | Class::WebSocket => 8,
                Class::KeepAlive => 32,
                Class::Pipelined | Class::SlowReader | Class::Http2 | Class::Silent => 4,
                Class::Upload => 2,
            };
            (class, count)
        }))
    }
}

impl Crowd {
    /// Returns nobody.
    #[must_use]
    pub fn nobody() -> Self {
        Self(Class::ALL.map(|class| (class, 0)))
    }

    /// Changes how many there are of a class.
    #[must_use]
    pub fn with(mut self, class: Class, count: usize) -> Self {
        for entry in &mut self.0 {
            if entry.0 == class {
                entry.1 = count;
            }
        }
        self
    }

    /// Leaves only the clients of these classes.
    #[must_use]
    pub fn only(mut self, classes: &[Class]) -> Self {
        for (class, count) in &mut self.0 {
            if !classes.contains(class) {
                *count = 0;
            }
        }
        self
    }

    /// Returns each class with its number of clients.
    pub fn iter(&self) -> impl Iterator<Item = (Class, usize)> + '_ {
        self.0.iter().copied()
    }
}
