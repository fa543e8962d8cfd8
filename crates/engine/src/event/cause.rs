//! Why workers leave, are replaced, and how they end.

use std::fmt;
use std::time::Duration;

use serde::{Serialize, Serializer};

use super::json::milliseconds;

/// Why a worker has to leave.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum DrainCause {
    /// A successor took its slot.
    Reload,
    /// The app stops.
    Stop,
    /// The app was given fewer slots.
    Resize,
    /// It was not ready in time for a reload.
    NotReady,
    /// It asked to leave by itself (`cluster.worker.disconnect()`, `kill()`).
    Asked,
    /// A successor took its slot because it was to be replaced; the event `recycling` has said why.
    Recycle,
    /// It was started to serve connections that waited for one that is gone, and does so.
    Rescued,
    /// It was to be the successor of one worker, and a reload replaces them all, or that one was paused.
    Superseded,
}

/// Why a worker is to be replaced although it serves.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "reason", rename_all = "snake_case")]
#[non_exhaustive]
pub enum RecycleReason {
    /// It has taken as many connections as it may.
    Connections {
        /// How many it has taken.
        connections: u64,
        /// This worker's limit.
        limit: u64,
    },
    /// It is as old as it may become.
    Age {
        /// Since its start.
        #[serde(rename = "age_ms", serialize_with = "milliseconds")]
        age: Duration,
        /// This worker's limit.
        #[serde(rename = "limit_ms", serialize_with = "milliseconds")]
        limit: Duration,
    },
    /// It has more resident memory than it may.
    Memory {
        /// How much it has.
        resident_bytes: u64,
        /// This worker's limit.
        limit_bytes: u64,
    },
    /// It asked for a successor (`process.send({cmd: 'disconnect'})`).
    Asked,
}

/// How a worker ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ExitCause {
    /// What the kernel reported.
    #[serde(flatten)]
    pub status: ExitStatus,
    /// True when the worker was asked to leave, or said before that it would (`exitedAfterDisconnect`).
    pub voluntary: bool,
    /// The last lines that it wrote to stderr, oldest first.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub stderr: Vec<String>,
}

/// What the kernel reported of a process that ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ExitStatus {
    /// It returned this code.
    Code(i32),
    /// It was ended by this signal; as JSON its name, as Node's `exit` event has it.
    Signal(#[serde(serialize_with = "by_name")] i32),
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde calls it with a reference")]
fn by_name<S: Serializer>(number: &i32, serializer: S) -> Result<S::Ok, S::Error> {
    match signal_name(*number) {
        Some(name) => serializer.serialize_str(name),
        None => serializer.collect_str(number),
    }
}

impl fmt::Display for ExitStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Code(code) => write!(f, "exit code {code}"),
            Self::Signal(number) => match signal_name(number) {
                Some(name) => write!(f, "{name}"),
                None => write!(f, "signal {number}"),
            },
        }
    }
}

/// Returns the name of a signal of this system, `SIGKILL` for 9.
#[must_use]
pub fn signal_name(number: i32) -> Option<&'static str> {
    Some(match number {
        libc::SIGHUP => "SIGHUP",
        libc::SIGINT => "SIGINT",
        libc::SIGQUIT => "SIGQUIT",
        libc::SIGILL => "SIGILL",
        libc::SIGTRAP => "SIGTRAP",
        libc::SIGABRT => "SIGABRT",
        libc::SIGBUS => "SIGBUS",
        libc::SIGFPE => "SIGFPE",
        libc::SIGKILL => "SIGKILL",
        libc::SIGUSR1 => "SIGUSR1",
        libc::SIGSEGV => "SIGSEGV",
        libc::SIGUSR2 => "SIGUSR2",
        libc::SIGPIPE => "SIGPIPE",
        libc::SIGALRM => "SIGALRM",
        libc::SIGTERM => "SIGTERM",
        libc::SIGXCPU => "SIGXCPU",
        libc::SIGXFSZ => "SIGXFSZ",
        libc::SIGVTALRM => "SIGVTALRM",
        libc::SIGWINCH => "SIGWINCH",
        libc::SIGPROF => "SIGPROF",
        libc::SIGSYS => "SIGSYS",
        _ => return None,
    })
}
