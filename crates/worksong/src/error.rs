//! What [`Builder::run`](crate::Builder::run) and the handle of a cluster can fail with.

use std::fmt;
use std::io;

use worksong_worker::{BoxError, RunError};

/// The result of [`Builder::run`](crate::Builder::run).
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why a cluster, or one of its workers, ended with an error.
///
/// Its `Debug` form is the text with all causes on one line, because that is what `main` prints.
#[non_exhaustive]
pub enum Error {
    /// This process is a worker, and the worker failed.
    Worker(RunError),
    /// The program's own executable could not be found.
    Executable(io::Error),
    /// The primary could not be started.
    Primary(BoxError),
    /// Every worker failed too often in a row.
    Errored {
        /// The name of the cluster.
        name: String,
        /// How the last of them ended.
        last: Option<String>,
    },
    /// The primary lost its data plane by a fault of its own, and ended all workers. Its last words are on stderr.
    EngineFailed {
        /// The name of the cluster.
        name: String,
    },
    /// A second signal asked to end at once; what workers were doing was cut.
    Interrupted {
        /// The signal's name.
        signal: &'static str,
    },
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Worker(error) => error.fmt(f),
            Self::Executable(_) => {
                f.write_str("could not find the executable of this program, to start its workers")
            }
            Self::Primary(_) => f.write_str("could not start the primary"),
            Self::Errored { name, last: Some(last) } => {
                write!(f, "the workers of {name} failed too often in a row; the last ended with {last}")
            }
            Self::Errored { name, last: None } => {
                write!(f, "the workers of {name} failed too often in a row")
            }
            Self::EngineFailed { name } => {
                write!(
                    f,
                    "the primary of {name} failed by a fault of its own, which stderr tells; please report it"
                )
            }
            Self::Interrupted { signal } => write!(f, "ended at once by a second signal, {signal}"),
        }
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)?;
        let mut cause = std::error::Error::source(self);
        while let Some(error) = cause {
            write!(f, ": {error}")?;
            cause = error.source();
        }
        Ok(())
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            // Its text is ours already.
            Self::Worker(error) => error.source(),
            Self::Executable(error) => Some(error),
            Self::Primary(error) => Some(&**error),
            Self::Errored { .. } | Self::EngineFailed { .. } | Self::Interrupted { .. } => None,
        }
    }
}

/// Why the primary did not take a request of its own program.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum NotSent {
    /// The value cannot be written as JSON.
    #[error("the message cannot be written as JSON")]
    Encode(#[source] BoxError),
    /// Too many requests wait already.
    #[error("{limit} requests wait for the primary already")]
    Full {
        /// How many may.
        limit: usize,
    },
    /// The cluster has ended.
    #[error("the cluster has ended")]
    Ended,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn main_prints_the_text_and_every_cause_once() {
        let cause = io::Error::other("it is gone");
        let error = Error::Executable(cause);
        assert_eq!(
            format!("{error:?}"),
            "could not find the executable of this program, to start its workers: it is gone"
        );
        let program: BoxError = "no database".into();
        assert_eq!(format!("{:?}", Error::Worker(RunError::Program(program))), "no database");
    }
}
