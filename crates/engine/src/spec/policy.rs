//! How a connection finds its worker, and how people write that.

use std::fmt;
use std::str::FromStr;

use crate::listen::Spread;

/// How a connection finds its worker.
///
/// As text: `round-robin` or `rr`, `shared` or `none`, `kernel`, `kernel:random`, `kernel:cpu`, `kernel:ip`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Policy {
    /// The primary accepts and hands over in turn (Node's `SCHED_RR`).
    #[default]
    RoundRobin,
    /// The workers accept from one shared socket (Node's `SCHED_NONE`).
    Shared,
    /// Each worker accepts from a TCP socket of its own, and the kernel chooses between them; Unix sockets go round
    /// robin. Fastest for many short connections, uneven for few long ones.
    Kernel(Spread),
}

/// A text that is no policy.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "no policy is called {0:?}; there are round-robin, shared, kernel, kernel:random, kernel:cpu and kernel:ip"
)]
pub struct PolicyError(String);

impl Policy {
    /// Returns true when the primary accepts connections, or takes part in it.
    #[must_use]
    pub fn hands_over(self) -> bool {
        match self {
            Self::RoundRobin | Self::Kernel(_) => true,
            Self::Shared => false,
        }
    }
}

impl FromStr for Policy {
    type Err = PolicyError;

    fn from_str(text: &str) -> Result<Self, PolicyError> {
        match text {
            "round-robin" | "rr" => Ok(Self::RoundRobin),
            "shared" | "none" => Ok(Self::Shared),
            "kernel" => Ok(Self::Kernel(Spread::Hash)),
            "kernel:random" => Ok(Self::Kernel(Spread::Random)),
            "kernel:cpu" => Ok(Self::Kernel(Spread::Cpu)),
            "kernel:ip" => Ok(Self::Kernel(Spread::ClientAddress)),
            _ => Err(PolicyError(text.to_owned())),
        }
    }
}

impl fmt::Display for Policy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::RoundRobin => "round-robin",
            Self::Shared => "shared",
            Self::Kernel(Spread::Hash) => "kernel",
            Self::Kernel(Spread::Random) => "kernel:random",
            Self::Kernel(Spread::Cpu) => "kernel:cpu",
            Self::Kernel(Spread::ClientAddress) => "kernel:ip",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_policy_is_written_as_it_is_read() {
        for text in ["round-robin", "shared", "kernel", "kernel:random", "kernel:cpu", "kernel:ip"] {
            assert_eq!(text.parse::<Policy>().map(|policy| policy.to_string()).as_deref(), Ok(text));
        }
        assert_eq!("rr".parse(), Ok(Policy::RoundRobin));
        assert_eq!("none".parse(), Ok(Policy::Shared));
        let error = "fastest".parse::<Policy>().expect_err("no policy");
        assert!(error.to_string().starts_with("no policy is called \"fastest\"; there are round-robin,"));
    }
}
