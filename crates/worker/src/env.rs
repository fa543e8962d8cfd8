//! Takes the channel over from the environment, once, before the process has a second thread.

use std::env;
use std::fs;
use std::io;
use std::os::fd::{BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::net::{AddressFamily, SocketType, sockopt};
use thiserror::Error;

use crate::link::Extension;

const CHANNEL: &str = "NODE_CHANNEL_FD";
const SERIALIZATION: &str = "NODE_CHANNEL_SERIALIZATION_MODE";
const UNIQUE_ID: &str = "NODE_UNIQUE_ID";
const SLOT: &str = "WORKSONG_SLOT";
const APP: &str = "WORKSONG_APP";

/// What a primary left in the environment of its worker.
#[derive(Debug)]
pub(crate) struct Inherited {
    /// The worker's end of the channel, non-blocking and close-on-exec.
    pub(crate) socket: OwnedFd,
    /// The worker's number, from 1.
    pub(crate) id: u64,
    /// The worker's slot; a Node primary has none.
    pub(crate) slot: Option<u32>,
    /// Announced to a primary of ours: a Node primary would only skip it.
    pub(crate) extension: Extension,
}

/// Why the environment's channel cannot be used.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum EnvironmentError {
    /// A variable of the primary holds something else than it should.
    #[error("{name}={value:?} is not {expected}; only a primary sets it, unset it to run alone")]
    Variable {
        /// The variable's name.
        name: &'static str,
        /// What it holds.
        value: String,
        /// What it should hold.
        expected: &'static str,
    },
    /// The primary wants V8's serialization.
    #[error(
        "the primary speaks the \"{mode}\" serialization and Rust workers only \"json\"; \
         set serialization: 'json' in cluster.setupPrimary()"
    )]
    Serialization {
        /// The mode that the primary asked for.
        mode: String,
    },
    /// The descriptor is not open, or it is no Unix stream socket.
    #[error("descriptor {fd} of NODE_CHANNEL_FD is no channel; start this program from its primary")]
    NotAChannel {
        /// The descriptor's number.
        fd: RawFd,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// Other threads run already, so that the environment cannot be changed any more.
    #[error("{threads} threads run already; take the worker from the environment first thing in main")]
    Threads {
        /// How many there are.
        threads: usize,
    },
    /// The threads of this process could not be counted.
    #[error("could not count the threads in /proc/self/task; mount /proc for workers")]
    Proc {
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The channel was taken before; it has one owner.
    #[error("this process has taken its channel already; clone the first Worker instead")]
    Taken,
    /// The channel could not be made non-blocking.
    #[error("could not prepare the channel")]
    Channel {
        /// What the system said.
        #[source]
        source: io::Error,
    },
}

/// Set once the channel has its owner in this process.
static TAKEN: AtomicBool = AtomicBool::new(false);

/// Returns true in a process that a primary started as its worker, also after the channel was taken.
#[must_use]
pub fn is_worker() -> bool {
    TAKEN.load(Ordering::Acquire) || (variable(UNIQUE_ID).is_some() && variable(CHANNEL).is_some())
}

/// Takes the channel, or returns `None` when no primary started this process.
pub(crate) fn take() -> Result<Option<Inherited>, EnvironmentError> {
    if TAKEN.load(Ordering::Acquire) {
        return Err(EnvironmentError::Taken);
    }
    // `fork()` of Node's child_process sets a channel but no id: its child is no worker of a cluster.
    let (Some(id), Some(fd)) = (variable(UNIQUE_ID), variable(CHANNEL)) else {
        return Ok(None);
    };
    let id = number(UNIQUE_ID, &id, "a worker's number")?;
    let fd: RawFd = number(CHANNEL, &fd, "a descriptor")?;
    let extension = if variable(APP).is_some() { Extension::Announced } else { Extension::Unspoken };
    let slot = variable(SLOT).map(|slot| number(SLOT, &slot, "a slot's number")).transpose()?;
    if let Some(mode) = variable(SERIALIZATION).filter(|mode| mode != "json") {
        return Err(EnvironmentError::Serialization { mode });
    }
    let threads = threads().map_err(|source| EnvironmentError::Proc { source })?;
    if threads != 1 {
        return Err(EnvironmentError::Threads { threads });
    }
    let socket = adopt(fd)?;
    TAKEN.store(true, Ordering::Release);
    // Else a Node program that this worker starts would take our channel for its own.
    for name in [CHANNEL, SERIALIZATION, UNIQUE_ID] {
        // SAFETY: the environment may not be changed while another thread uses it, and this is the only thread
        // (counted above; only this thread could start another).
        unsafe {
            env::remove_var(name);
        }
    }
    Ok(Some(Inherited { socket, id, slot, extension }))
}

fn variable(name: &str) -> Option<String> {
    env::var_os(name).map(|value| value.to_string_lossy().into_owned()).filter(|value| !value.is_empty())
}

fn number<T: std::str::FromStr>(
    name: &'static str,
    value: &str,
    expected: &'static str,
) -> Result<T, EnvironmentError> {
    value.parse().map_err(|_| EnvironmentError::Variable { name, value: value.to_owned(), expected })
}

fn threads() -> io::Result<usize> {
    fs::read_dir("/proc/self/task").map(Iterator::count)
}

/// Becomes the owner of an inherited descriptor, after looking what it is.
fn adopt(fd: RawFd) -> Result<OwnedFd, EnvironmentError> {
    let not_a_channel = |source: io::Error| EnvironmentError::NotAChannel { fd, source };
    // The standard streams have an owner already.
    if fd < 3 {
        return Err(not_a_channel(io::ErrorKind::InvalidInput.into()));
    }
    // SAFETY: not -1, and used in this function only. Whether it is open is what the next call asks the kernel.
    let looked_at = unsafe { BorrowedFd::borrow_raw(fd) };
    let family = sockopt::socket_domain(looked_at).map_err(|error| not_a_channel(error.into()))?;
    let kind = sockopt::socket_type(looked_at).map_err(|error| not_a_channel(error.into()))?;
    if family != AddressFamily::UNIX || kind != SocketType::STREAM {
        return Err(not_a_channel(io::ErrorKind::InvalidInput.into()));
    }
    // SAFETY: open, as the calls above showed. The environment names it as this worker's channel, which the primary
    // made for nobody else, and `TAKEN` keeps a second call from owning it again.
    let socket = unsafe { OwnedFd::from_raw_fd(fd) };
    let channel = |error: rustix::io::Errno| EnvironmentError::Channel { source: error.into() };
    rustix::io::fcntl_setfd(&socket, rustix::io::FdFlags::CLOEXEC).map_err(channel)?;
    rustix::io::ioctl_fionbio(&socket, true).map_err(channel)?;
    Ok(socket)
}
