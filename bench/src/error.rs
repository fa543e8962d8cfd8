//! What can go wrong in a benchmark, with the values that a reader needs to go on.

use std::io;
use std::time::Duration;

/// The result of everything here that can fail.
pub(crate) type Result<T> = std::result::Result<T, Error>;

/// Why a benchmark stopped.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// The command line is wrong.
    #[error("{0}; `worksong-bench help` lists what can be typed")]
    Usage(String),
    /// The system refused something.
    #[error("could not {what}")]
    System {
        /// What was tried: a verb and its object.
        what: String,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// A system did not come up.
    #[error(
        "{system}: {listening} of {workers} workers listened {}; its last output:\n{}",
        when(*.after, *.ended),
        evidence.join("\n")
    )]
    NotReady {
        /// The system's name.
        system: &'static str,
        /// How many workers it should have.
        workers: u32,
        /// How many listened.
        listening: usize,
        /// How long it had.
        after: Duration,
        /// True when its event stream ended, which is when it ended itself.
        ended: bool,
        /// The last lines that were no events.
        evidence: Vec<String>,
    },
    /// A process of a system ended while it was measured.
    #[error("{system}: process {pid} ended while it was measured, so the figures of this run mean nothing")]
    Gone {
        /// The system's name.
        system: &'static str,
        /// The process that is gone.
        pid: u32,
    },
    /// A system that runs did not do in time what it was told.
    #[error("{system}: waited a minute for {what}, in vain")]
    Late {
        /// The system's name.
        system: &'static str,
        /// What was waited for.
        what: String,
    },
    /// What has to hold did not.
    #[error("{0}")]
    Broken(String),
    /// So many requests failed that a rate would be a lie.
    #[error("{failed} requests to 127.0.0.1:{port} failed, the first: {first}")]
    Load {
        /// The port that was loaded.
        port: u16,
        /// How many failed.
        failed: u64,
        /// How the first failed.
        first: String,
    },
}

impl Error {
    /// Returns a closure for `map_err` that says what was tried.
    pub(crate) fn system<E: Into<io::Error>>(what: impl Into<String>) -> impl FnOnce(E) -> Self {
        move |source| Self::System { what: what.into(), source: source.into() }
    }
}

fn when(after: Duration, ended: bool) -> String {
    if ended {
        format!("when it ended after {} ms", after.as_millis())
    } else {
        format!("within {} s", after.as_secs())
    }
}
