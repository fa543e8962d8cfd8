//! What can go wrong, for the program that runs as a worker.

use std::convert::Infallible;
use std::fmt;
use std::io;

use thiserror::Error;

use crate::address::AddressError;
use crate::env::EnvironmentError;

/// Any error, which is what a program may end with: `?` makes it of whatever error there is.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// Why a worker does not listen.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ListenError {
    /// The address cannot be read.
    #[error(transparent)]
    Address(#[from] AddressError),
    /// The host name has no address.
    #[error("could not find an address for host {host:?}")]
    Resolve {
        /// The host name.
        host: String,
        /// What the resolver said.
        #[source]
        source: io::Error,
    },
    /// The socket could not be bound, by the primary or, without one, by this process.
    #[error("could not bind {address}")]
    Bind {
        /// The address.
        address: String,
        /// What the system said, such as [`AddrInUse`](io::ErrorKind::AddrInUse).
        #[source]
        source: io::Error,
    },
    /// The primary bound the socket, but this process cannot accept from it.
    #[error("could not listen on the socket that the primary shares for {address}")]
    Shared {
        /// The address.
        address: String,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The primary's answer does not fit the question.
    #[error("the primary gave no usable answer for {address}")]
    Answer {
        /// The address.
        address: String,
    },
    /// The channel to the primary cannot be watched.
    #[error("could not watch the channel to the primary")]
    Channel {
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The worker leaves, or its primary is gone: no new servers.
    #[error("could not listen on {address}")]
    Draining {
        /// The address.
        address: String,
        /// Why: the worker drains.
        #[source]
        source: Drained,
    },
}

impl From<Infallible> for ListenError {
    fn from(never: Infallible) -> Self {
        match never {}
    }
}

/// Why a message to the primary was not sent.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum SendError {
    /// The value cannot be written as JSON.
    #[error("the message cannot be written as JSON")]
    Encode(#[source] EncodeError),
    /// The primary does not read its channel.
    #[error("the primary does not read its channel: {queued} bytes wait already")]
    Full {
        /// How many bytes wait.
        queued: usize,
    },
    /// The channel is closed.
    #[error("the channel to the primary is closed")]
    Closed,
}

/// Why a value is no JSON, or a message not of the expected shape.
#[derive(Debug, Error)]
#[error(transparent)]
pub struct EncodeError(pub(crate) serde_json::Error);

/// The error inside the [`io::Error`] of `accept()` on a worker that drains: no further connection comes. It is also
/// the cause of [`ListenError::Draining`].
///
/// [`run`](crate::run) takes a program that ends with it for a program that ended well.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("the worker is draining: no further connection comes")]
pub struct Drained;

impl Drained {
    /// Returns true when `error`, or one of its causes, is this one.
    #[must_use]
    pub fn caused(error: &(dyn std::error::Error + 'static)) -> bool {
        std::iter::successors(Some(error), |error| error.source()).any(|error| {
            let wrapped = error.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
            error.is::<Self>() || wrapped.is_some_and(<dyn std::error::Error + Send + Sync>::is::<Self>)
        })
    }
}

impl From<Drained> for io::Error {
    fn from(drained: Drained) -> Self {
        Self::new(io::ErrorKind::NotConnected, drained)
    }
}

/// Why [`run`](crate::run) failed. Its `Debug` form is meant for people, because `main` prints that one.
#[non_exhaustive]
pub enum RunError {
    /// The environment names a channel that cannot be used.
    Environment(EnvironmentError),
    /// The runtime, or the channel in it, could not be started.
    Runtime(io::Error),
    /// The program itself ended with an error.
    Program(BoxError),
}

impl fmt::Display for RunError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Environment(_) => f.write_str("could not become a worker"),
            Self::Runtime(_) => f.write_str("could not start the worker's runtime"),
            Self::Program(error) => error.fmt(f),
        }
    }
}

impl fmt::Debug for RunError {
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

impl std::error::Error for RunError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Environment(error) => Some(error),
            Self::Runtime(error) => Some(error),
            // Its text is ours already.
            Self::Program(error) => error.source(),
        }
    }
}
