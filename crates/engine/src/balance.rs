//! Policies of a program's own: what they are told, and what they decide.

use std::net::SocketAddr;
use std::time::Duration;

use crate::ids::Slot;

/// Chooses the worker of each connection, in place of a policy of worksong's own.
///
/// It is called on the thread through which all connections go. So **it must not block**: no files, no locks that others hold
/// for long, no requests to anybody. What takes a millisecond here costs every client of every listener a millisecond.
///
/// One that panics is told of in an event and not asked again; its listener goes round robin from then on. (A program
/// built with `panic = "abort"` ends.)
///
/// # Examples
/// Clients of this machine are served by slot 0, all others by whichever other worker has fewest connections:
/// ```
/// use worksong_engine::balance::{Balance, Candidate, Connection};
///
/// struct OwnSlot;
///
/// impl Balance for OwnSlot {
///     fn choose(&mut self, connection: &Connection<'_>, workers: &[Candidate]) -> Option<usize> {
///         let is_local = connection.client.is_some_and(|client| client.ip().is_loopback());
///         let fit = workers.iter().enumerate().filter(|(_, worker)| (worker.slot.0 == 0) == is_local);
///         fit.min_by_key(|(_, worker)| worker.unanswered as u64 + worker.open).map(|(index, _)| index)
///     }
/// }
/// ```
pub trait Balance: Send {
    /// Returns the index of the worker in `workers` that gets the connection.
    ///
    /// `workers` are those that can take one now: in rotation, answering, below their limits. There is at least one. The one
    /// whose turn it is comes first, so `Some(0)` is round robin. `None`, or an index that is none, leaves the choice to round
    /// robin, which also passes by those that are late or much busier than others.
    ///
    /// A connection is asked about again when its worker refuses it, ends, or gives it back while it is idle.
    fn choose(&mut self, connection: &Connection<'_>, workers: &[Candidate]) -> Option<usize>;

    /// Returns true to see more of what a client sends before it chooses. Default: false, it looks at nothing.
    ///
    /// It is asked with no bytes when a listener opens: `false` means that it never looks there. Otherwise it is asked for each
    /// connection with all the bytes that have come so far, each time when there are more, and chooses when it returns false,
    /// after 5 s, or after 16 KiB. The bytes stay where they are: the worker reads them.
    #[expect(unused_variables, reason = "the name is for those who write their own")]
    fn wants_more(&mut self, first_bytes: &[u8]) -> bool {
        false
    }
}

/// A connection that needs a worker.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Connection<'a> {
    /// The address of the client; nothing for a Unix socket.
    pub client: Option<SocketAddr>,
    /// The address that it connected to; nothing for a Unix socket.
    pub local: Option<SocketAddr>,
    /// What it has sent so far; empty unless [`Balance::wants_more`] has asked for it.
    pub first_bytes: &'a [u8],
}

/// A worker that can take a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Candidate {
    /// Its place in the app, which it shares with its predecessors and successors.
    pub slot: Slot,
    /// Its number in the app: the greater, the newer.
    pub number: u32,
    /// How many connections it was given and has not answered.
    pub unanswered: usize,
    /// How many connections it has open besides; estimated where it does not tell. It may be 50 ms old.
    pub open: u64,
    /// How long it took for its last answers, smoothed.
    pub delay: Duration,
    /// Whether it leaves something unanswered for so long that it may be blocked, while others answer.
    pub is_late: bool,
}

impl Candidate {
    /// Returns an idle worker, for tests of policies.
    #[must_use]
    pub fn idle(slot: u32, number: u32) -> Self {
        let slot = Slot(slot);
        Self { slot, number, unanswered: 0, open: 0, delay: Duration::ZERO, is_late: false }
    }
}
