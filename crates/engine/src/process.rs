//! Processes: starting them, ending whole trees, reaping.
//!
//! Every worker is the leader of its own process group, carries a mark in its environment that its descendants
//! inherit, and dies with the primary (`PR_SET_PDEATHSIG`). Together with a subreaper this makes "nothing is left
//! over" a fact that can be looked up in `/proc`, also for programs that fork twice and call `setsid`.

pub(crate) mod connections;
pub(crate) mod descriptors;
pub(crate) mod launch;
pub(crate) mod mark;
pub(crate) mod notifier;
pub(crate) mod spawn;
mod stat;
pub(crate) mod tree;
pub(crate) mod waiting;
