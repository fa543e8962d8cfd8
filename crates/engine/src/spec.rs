//! What an app is: its program, its sockets, and how its workers are kept.

use std::ffi::OsString;
use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

mod capture;
mod limits;
mod policies;
mod policy;
mod probe;
mod stop_signal;

pub(crate) use self::capture::is_abstract;
pub use self::capture::{
    CaptureAddress, CaptureAddressError, CaptureError, CapturePolicyError, check_capture,
    check_capture_policies,
};
pub use self::limits::{LimitError, OpenLimits, Overload, OverloadError};
pub use self::policies::Policies;
pub use self::policy::{Custom, Policy, PolicyError};
pub use self::probe::{Probe, ProbeError};
pub use self::stop_signal::{StopSignal, StopSignalError};
pub use crate::listen::Spread;

/// Everything that the engine has to know to run one app.
#[derive(Clone, Debug)]
pub struct AppSpec {
    /// The name that people and events call the app by.
    pub name: String,
    /// What is executed for each worker, already resolved to an executable.
    pub command: Command,
    /// How many slots the app has; at least 1.
    pub instances: u32,
    /// How a worker gets its sockets.
    pub dialect: Dialect,
    /// How connections find their workers, at each of the listeners that workers ask for.
    pub policies: Policies,
    /// Sockets that the primary opens before the first worker starts (`--listen`).
    pub listen: Vec<ListenAddress>,
    /// With [`Dialect::Capture`]: the addresses that are taken from programs which bind them; none: every TCP port but 0.
    /// Paths are relative to the command's working directory.
    pub capture: Vec<CaptureAddress>,
    /// When a new worker counts as ready.
    pub ready: Ready,
    /// The deadlines of a worker's life.
    pub deadlines: Deadlines,
    /// What asks a worker to leave that no message does.
    pub stop_signal: StopSignal,
    /// How a worker that ended by itself comes back.
    pub restart: RestartPolicy,
    /// Node workers preload worksong's agent, which moves idle connections instead of closing them and answers pings.
    /// Default true.
    pub agent: bool,
    /// How many workers are replaced at a time.
    pub replacement: Replacement,
    /// After what a worker is replaced although it serves.
    pub recycle: RecycleLimits,
    /// How many connections may be open at a time.
    pub limits: OpenLimits,
}

impl AppSpec {
    /// Returns how the kernel spreads the connections of a `--listen` address over sockets that workers inherit, one for
    /// each; `None`: it is one socket for all.
    #[must_use]
    pub fn spread_at(&self, address: &ListenAddress) -> Option<Spread> {
        let is_path = matches!(address, ListenAddress::Unix(_));
        let policy = self.policies.of(Some(address));
        (self.dialect == Dialect::Activation && !is_path).then(|| policy.spread()).flatten()
    }

    /// Returns true when workers inherit sockets of their own.
    #[must_use]
    pub fn has_own_sockets(&self) -> bool {
        self.listen.iter().any(|address| self.spread_at(address).is_some())
    }
}

/// An executable with its arguments, environment and working directory.
#[derive(Clone, Debug, Default)]
pub struct Command {
    /// The executable: an absolute path, or relative to the primary's working directory.
    pub program: PathBuf,
    /// The arguments after `argv[0]`.
    pub args: Vec<OsString>,
    /// The working directory of the workers; `None` keeps the primary's.
    pub cwd: Option<PathBuf>,
    /// Variables set for the workers on top of the primary's environment.
    pub env: Vec<(OsString, OsString)>,
}

/// How a worker of an app gets its sockets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dialect {
    /// Node's cluster protocol: `NODE_CHANNEL_FD`, `NODE_UNIQUE_ID`; the program asks by `queryServer`.
    Node(NodeFlavour),
    /// The same messages, spoken by the `worksong-worker` crate.
    Native,
    /// Listening sockets are inherited the way systemd passes them: `LISTEN_FDS`, `LISTEN_PID`, `LISTEN_FDNAMES`.
    Activation,
    /// The program binds by itself, and gets sockets of ours in place of its own: see [`check_capture`].
    Capture {
        /// Whether it is offered a channel besides, for it may be a Rust worker.
        channel: bool,
    },
    /// Each worker binds a port of its own: `PORT` = base + slot. With no base, `PORT` is left alone.
    Port {
        /// The port of slot 0.
        base: Option<u16>,
    },
}

impl Dialect {
    /// Returns true when workers of this dialect talk to the primary over a channel.
    #[must_use]
    pub fn has_channel(self) -> bool {
        matches!(self, Self::Node(_) | Self::Native | Self::Capture { channel: true })
    }

    /// Returns true when workers of this dialect get sockets of ours where they bind.
    #[must_use]
    pub fn captures(self) -> bool {
        matches!(self, Self::Capture { .. })
    }

    /// Returns true when it is seen that a worker listens.
    #[must_use]
    pub fn tells_listening(self) -> bool {
        self.has_channel() || self.captures()
    }
}

/// Which runtime speaks Node's protocol; they differ in what they survive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NodeFlavour {
    /// Node.js 16 and newer.
    Node,
    /// Deno loses the descriptor of a handle message that follows unread plain data: one handle in flight.
    Deno,
    /// Bun binds by itself with `SO_REUSEPORT`; internal messages carry a `0x02` prefix.
    Bun,
}

/// An address that the primary listens on by itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ListenAddress {
    /// A TCP address; port 0 lets the kernel choose.
    Tcp(SocketAddr),
    /// A TCP port on all interfaces, IPv6 and IPv4, as a Node server without a host listens.
    AnyInterface(u16),
    /// A UDP address; port 0 lets the kernel choose.
    Udp(SocketAddr),
    /// A UDP port on all interfaces, IPv6 and IPv4.
    AnyInterfaceUdp(u16),
    /// A Unix stream socket at this path.
    Unix(PathBuf),
}

impl ListenAddress {
    /// Returns true when datagrams come there, and no connections.
    #[must_use]
    pub fn is_udp(&self) -> bool {
        match self {
            Self::Udp(_) | Self::AnyInterfaceUdp(_) => true,
            Self::Tcp(_) | Self::AnyInterface(_) | Self::Unix(_) => false,
        }
    }
}

impl fmt::Display for ListenAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(f),
            Self::AnyInterface(port) => write!(f, "port {port}"),
            Self::Udp(address) => write!(f, "udp {address}"),
            Self::AnyInterfaceUdp(port) => write!(f, "udp port {port}"),
            Self::Unix(path) => path.display().fmt(f),
        }
    }
}

/// When a new worker counts as ready.
///
/// Where the worker itself shows it (`Listening`, `Message`, `Probe`), a successor must also listen where its
/// predecessor did, up to a second after that was ready: the clients are there.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Ready {
    /// `Listening` for dialects with a channel, `Started` for the others.
    #[default]
    Auto,
    /// At its first `listening` message.
    Listening,
    /// When it says so: `process.send('ready')`, `{cmd: 'ready'}`, or the Rust worker's `ready()`.
    Message,
    /// As soon as it runs; at a reload when it has listened, or lived for a second.
    Started,
    /// As `Started` until a worker of the app has listened over its channel, and as `Listening` from then on: for
    /// programs of which nothing is known.
    Observed,
    /// When it answers a request that no other worker can answer.
    Probe(Probe),
}

/// The deadlines of a worker's life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Deadlines {
    /// From start to ready. Default 30 s.
    pub ready: Duration,
    /// From the request to leave until SIGTERM. Default 30 s.
    pub drain: Duration,
    /// From SIGTERM until SIGKILL. Default 5 s.
    pub kill: Duration,
    /// How long a handed-over connection may stay unanswered before the worker counts as hung and is
    /// replaced. Default 30 s.
    pub hung: Duration,
    /// How long connections wait while the app has no ready worker; then they are closed and counted. Zero: for
    /// ever. Default 60 s.
    pub hold: Duration,
}

impl Default for Deadlines {
    fn default() -> Self {
        Self {
            ready: Duration::from_secs(30),
            drain: Duration::from_secs(30),
            kill: Duration::from_secs(5),
            hung: Duration::from_secs(30),
            hold: Duration::from_mins(1),
        }
    }
}

/// How a worker that ended by itself comes back: exponential back-off per slot, with jitter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RestartPolicy {
    /// The delay after the first failure; doubled by each further one. Default 100 ms.
    pub min_delay: Duration,
    /// The longest delay. Default 15 s.
    pub max_delay: Duration,
    /// A worker that was up for this long resets the slot's failures. Default 30 s.
    pub stable_after: Duration,
    /// After this many failures in a row a slot is given up as errored. Default 16.
    pub max_failures: u32,
}

impl Default for RestartPolicy {
    fn default() -> Self {
        Self {
            min_delay: Duration::from_millis(100),
            max_delay: Duration::from_secs(15),
            stable_after: Duration::from_secs(30),
            max_failures: 16,
        }
    }
}

/// How many workers are replaced at a time, for whatever planned reason: reload or recycle.
///
/// No choice lowers capacity: a successor is ready before its predecessor is asked to leave. More at a time is faster and
/// takes more memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Replacement {
    /// How many successors may be on their way to ready at a time; 0 counts as 1. Default 1.
    pub surge: u32,
    /// How many replacements may be under way at a time, each from the start of the successor until the predecessor is
    /// gone; 0 counts as 1. Default: as many as there are slots, so that a slow client of one worker holds up no other,
    /// and no slot has more than two workers that have served.
    pub parallel: Option<u32>,
}

impl Default for Replacement {
    fn default() -> Self {
        Self { surge: 1, parallel: None }
    }
}

/// After what a worker is replaced although it serves; nothing by default.
///
/// Each worker has limits of its own that differ from these by up to a tenth, so that workers of one age do not go
/// together. A worker is replaced no earlier than one second after it was ready.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RecycleLimits {
    /// So many connections that the primary handed over to it. Those that it accepts by itself are not counted.
    pub max_connections: Option<u64>,
    /// So long after its start.
    pub max_age: Option<Duration>,
    /// So much resident memory of its process, which is looked at every few seconds.
    pub max_memory_bytes: Option<u64>,
}
