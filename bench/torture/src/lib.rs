//! A hostile client population, and what happened to each of its requests.
//!
//! A [`Population`] is a crowd of clients in one thread: some open a connection per request, some keep theirs, some
//! read slowly, upload, stream, speak WebSocket or HTTP/2, or open a connection and say nothing. Each draws its
//! pauses and sizes from a generator of its own, seeded by the plan, so one seed makes one schedule. The [`Ledger`]
//! has the [`Fate`] of every request, and for each failure what was known of it.
//!
//! A [`System`] is something that serves and can be reloaded: worksong, PM2, recluster, Node's cluster, or whatever a
//! URL and a command describe. A [`Scenario`] is what is done to it meanwhile.
#![forbid(unsafe_code)]

mod class;
mod client;
mod ledger;
mod population;
mod random;
mod report;
mod scenario;
mod system;
mod target;

pub use class::{Class, Crowd};
pub use ledger::{Ending, Failure, Fate, Ledger, Tally};
pub use population::{Plan, Population};
pub use report::report;
pub use scenario::{Outcome, Scenario};
pub use system::{Custom, Kind, Settings, System};
pub use target::{Contract, Target};
