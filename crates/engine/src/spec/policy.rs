//! How a connection finds its worker, and how people write that.

mod custom;

use std::fmt;
use std::str::FromStr;

use crate::balance::Balance;
use crate::listen::Spread;
use crate::sticky::{StickyBy, StickyError};

pub use self::custom::Custom;

/// How a connection finds its worker.
///
/// As text: `round-robin` or `rr`, `least`, `shared` or `none`, `kernel`, `kernel:random`, `kernel:cpu`, `kernel:ip`, and `sticky:KEY`
/// with a [`StickyBy`] for KEY. A policy of your own has no text that could be read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Policy {
    /// The primary accepts and hands over in turn (Node's `SCHED_RR`).
    #[default]
    RoundRobin,
    /// The primary accepts and hands over to the worker with the fewest connections that answers promptly; of several, to
    /// the quickest. A worker that blocks gets nothing new after some milliseconds.
    Least,
    /// The workers accept from one shared socket (Node's `SCHED_NONE`).
    Shared,
    /// Each worker accepts from a TCP socket of its own, or reads from a UDP socket of its own, and the kernel chooses between
    /// them; Unix sockets go round robin. Fastest for many short connections, uneven for few long ones.
    Kernel(Spread),
    /// The primary accepts, looks at the first bytes, and hands over to the worker where the connection belongs.
    Sticky(StickyBy),
    /// The primary accepts and hands over to the worker that a policy of the program's own chooses; made by
    /// [`Policy::custom`].
    Custom(Custom),
}

/// A text that is no policy.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PolicyError {
    /// There is none of this name.
    #[error(
        "no policy is called {0:?}; there are round-robin, least, shared, kernel, kernel:random, kernel:cpu, kernel:ip and sticky:KEY"
    )]
    Unknown(String),
    /// It is what a sticky policy keeps together.
    #[error("no policy is called {0:?}; write sticky:{0}")]
    OnlyKey(String),
    /// What it should keep together is not understood.
    #[error(transparent)]
    Sticky(StickyError),
}

impl Policy {
    /// Returns a policy of the program's own; `make` is called once for each listener that goes by it, on the thread
    /// through which all connections go.
    pub fn custom<B: Balance + 'static>(make: impl Fn() -> B + Send + Sync + 'static) -> Self {
        Self::Custom(Custom::new(make))
    }

    /// Returns how the kernel spreads connections over workers that accept by themselves; `None`: they share one socket.
    #[must_use]
    pub fn for_own_sockets(&self) -> Option<Spread> {
        match self {
            Self::Kernel(spread) => Some(*spread),
            Self::Shared => None,
            Self::RoundRobin | Self::Least | Self::Sticky(_) | Self::Custom(_) => Some(Spread::Hash),
        }
    }

    /// Returns true when every connection passes through the primary, which knows of all of them therefore.
    #[must_use]
    pub fn hands_over_all(&self) -> bool {
        match self {
            Self::RoundRobin | Self::Least | Self::Sticky(_) | Self::Custom(_) => true,
            Self::Kernel(_) | Self::Shared => false,
        }
    }

    /// Returns true when connections belong to slots.
    pub(crate) fn is_sticky(&self) -> bool {
        matches!(self, Self::Sticky(_))
    }

    /// Returns how the kernel chooses, where it does.
    pub(crate) fn spread(&self) -> Option<Spread> {
        match self {
            Self::Kernel(spread) => Some(*spread),
            Self::RoundRobin | Self::Least | Self::Shared | Self::Sticky(_) | Self::Custom(_) => None,
        }
    }

    /// Returns true when it matters how many connections each worker has open.
    #[must_use]
    pub fn counts_open(&self) -> bool {
        match self {
            Self::Least | Self::Custom(_) => true,
            Self::RoundRobin | Self::Shared | Self::Kernel(_) | Self::Sticky(_) => false,
        }
    }

    /// Returns true when the primary accepts connections, or takes part in it.
    #[must_use]
    pub fn hands_over(&self) -> bool {
        match self {
            Self::RoundRobin | Self::Least | Self::Kernel(_) | Self::Sticky(_) | Self::Custom(_) => true,
            Self::Shared => false,
        }
    }
}

impl FromStr for Policy {
    type Err = PolicyError;

    fn from_str(text: &str) -> Result<Self, PolicyError> {
        let (name, rest) = text.split_once(':').map_or((text, None), |(name, rest)| (name, Some(rest)));
        match (name, rest) {
            ("round-robin" | "rr", None) => Ok(Self::RoundRobin),
            ("least", None) => Ok(Self::Least),
            ("shared" | "none", None) => Ok(Self::Shared),
            ("kernel", None) => Ok(Self::Kernel(Spread::Hash)),
            ("kernel", Some("random")) => Ok(Self::Kernel(Spread::Random)),
            ("kernel", Some("cpu")) => Ok(Self::Kernel(Spread::Cpu)),
            ("kernel", Some("ip")) => Ok(Self::Kernel(Spread::ClientAddress)),
            ("sticky", Some(by)) => by.parse().map(Self::Sticky).map_err(PolicyError::Sticky),
            _ if text.parse::<StickyBy>().is_ok() => Err(PolicyError::OnlyKey(text.to_owned())),
            _ => Err(PolicyError::Unknown(text.to_owned())),
        }
    }
}

impl fmt::Display for Policy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::RoundRobin => "round-robin",
            Self::Least => "least",
            Self::Shared => "shared",
            Self::Kernel(Spread::Hash) => "kernel",
            Self::Kernel(Spread::Random) => "kernel:random",
            Self::Kernel(Spread::Cpu) => "kernel:cpu",
            Self::Kernel(Spread::ClientAddress) => "kernel:ip",
            Self::Sticky(by) => return write!(f, "sticky:{by}"),
            Self::Custom(_) => "custom",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_policy_is_written_as_it_is_read() {
        for text in [
            "round-robin",
            "least",
            "shared",
            "kernel",
            "kernel:random",
            "kernel:cpu",
            "kernel:ip",
            "sticky:ip",
            "sticky:cookie:session",
            "sticky:cookie:cart[id]",
            "sticky:cookie:a:b",
            "sticky:header:X-User",
            "sticky:query:sid",
            "sticky:path:2",
            "sticky:sni",
            "sticky:proxy",
            "sticky:socket.io",
            "sticky:forwarded-for:10.0.0.0/8,2001:db8::/32",
        ] {
            assert_eq!(text.parse::<Policy>().map(|policy| policy.to_string()).as_deref(), Ok(text));
        }
        assert_eq!("rr".parse(), Ok(Policy::RoundRobin));
        assert_eq!("none".parse(), Ok(Policy::Shared));
        assert_eq!("sticky:path".parse(), "sticky:path:1".parse::<Policy>());
        for wrong in ["", "kernel:", "rr:x", "least:x", "sticky", "kernel:fast"] {
            assert_eq!(wrong.parse::<Policy>(), Err(PolicyError::Unknown(wrong.to_owned())));
        }
        for wrong in [
            "sticky:",
            "sticky:cookie",
            "sticky:cookie:",
            "sticky:cookie:a=b",
            "sticky:cookie:a;b",
            "sticky:cookie:a b",
            "sticky:header:X-User:",
            "sticky:header:X User",
            "sticky:header:X[User]",
            "sticky:query:a&b",
            "sticky:query:ü",
            "sticky:path:0",
            "sticky:forwarded-for:x",
        ] {
            assert!(matches!(wrong.parse::<Policy>(), Err(PolicyError::Sticky(_))), "{wrong}");
        }
        assert_eq!("cookie:sid".parse::<Policy>(), Err(PolicyError::OnlyKey("cookie:sid".to_owned())));
        let error = "fastest".parse::<Policy>().expect_err("no policy");
        assert!(error.to_string().starts_with("no policy is called \"fastest\"; there are round-robin,"));
    }
}
