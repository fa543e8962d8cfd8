//! What serves, and how it is reloaded.

mod custom;
mod node;
mod pm2;
mod worksong;

use std::path::PathBuf;
use std::time::Duration;

use crate::class::{Class, Crowd};
use crate::target::Target;

pub use custom::Custom;

/// Something that serves. Dropping it ends it.
pub trait System {
    /// Returns what clients talk to.
    fn target(&self) -> Target;

    /// Returns the clients of a crowd that it has something for.
    fn crowd(&self, crowd: Crowd) -> Crowd {
        crowd
    }

    /// Replaces all workers and returns when it says that this is done.
    ///
    /// # Errors
    ///
    /// What it said when it could not.
    fn reload(&mut self) -> Result<(), String>;

    /// Returns the processes that serve; none when that cannot be known.
    fn workers(&self) -> Vec<u32>;

    /// Returns how many connections it says that its reloads have cut, once all old workers are gone; `None` when it
    /// does not count them.
    fn cut(&self) -> Option<u64> {
        None
    }

    /// Returns what it has said of workers that ended or stood still without being asked to, if it says such things.
    fn incidents(&self) -> Vec<String> {
        Vec::new()
    }
}

/// The systems that are started by name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// worksong with unmodified Node workers.
    WorksongNode,
    /// The same, which accept from sockets of their own (`--policy kernel`).
    WorksongKernel,
    /// worksong with Rust workers.
    WorksongRust,
    /// worksong with gunicorn, threaded workers.
    WorksongPython,
    /// PM2 in cluster mode.
    Pm2,
    /// The same, with a program that closes its server when PM2 asks it to end.
    Pm2Graceful,
    /// recluster.
    Recluster,
    /// Node's cluster with a rolling restart written by hand.
    NodeCluster,
}

/// With what a system is started.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Number of workers.
    pub workers: usize,
    /// Major version of Node: 18, 20, 22 or 24.
    pub node: String,
    /// The worksong executable; the one of this build otherwise.
    pub worksong: Option<PathBuf>,
    /// How long a worker that is replaced may finish what it has, in whole seconds.
    pub deadline: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Self { workers: 2, node: "24".to_owned(), worksong: None, deadline: Duration::from_secs(5) }
    }
}

impl Kind {
    /// All, in the order of the tables.
    pub const ALL: [Self; 8] = [
        Self::WorksongNode,
        Self::WorksongKernel,
        Self::WorksongRust,
        Self::WorksongPython,
        Self::Pm2,
        Self::Pm2Graceful,
        Self::Recluster,
        Self::NodeCluster,
    ];

    /// Returns its name on the command line and in tables.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::WorksongNode => "worksong-node",
            Self::WorksongKernel => "worksong-kernel",
            Self::WorksongRust => "worksong-rust",
            Self::WorksongPython => "worksong-python",
            Self::Pm2 => "pm2",
            Self::Pm2Graceful => "pm2-graceful",
            Self::Recluster => "recluster",
            Self::NodeCluster => "node-cluster",
        }
    }

    /// Returns the kind of this name.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.name() == name)
    }

    /// Starts a system and waits until it serves.
    ///
    /// # Panics
    ///
    /// When it does not start; everything that it wrote is printed then.
    #[must_use = "dropping it ends the system"]
    pub fn start(self, settings: &Settings) -> Box<dyn System> {
        match self {
            Self::WorksongNode => Box::new(worksong::Worksong::node(settings, "round-robin")),
            Self::WorksongKernel => Box::new(worksong::Worksong::node(settings, "kernel")),
            Self::WorksongRust => Box::new(worksong::Worksong::rust(settings)),
            Self::WorksongPython => Box::new(worksong::Worksong::python(settings)),
            Self::Pm2 => Box::new(pm2::Pm2::start(settings, false)),
            Self::Pm2Graceful => Box::new(pm2::Pm2::start(settings, true)),
            Self::Recluster => Box::new(node::Primary::start("recluster.js", settings)),
            Self::NodeCluster => Box::new(node::Primary::start("cluster.js", settings)),
        }
    }
}

/// What any HTTP/1.1 server can have something for.
const HTTP1: [Class; 7] = [
    Class::Fresh,
    Class::KeepAlive,
    Class::Pipelined,
    Class::SlowReader,
    Class::Upload,
    Class::Stream,
    Class::Silent,
];

/// Reads the line in which the server of `apps/node/torture.js` says its ports.
fn ports(line: &str) -> Option<(u16, u16)> {
    let (http, http2) = line.strip_prefix("ports ")?.split_once(' ')?;
    Some((http.parse().ok()?, http2.parse().ok()?))
}
