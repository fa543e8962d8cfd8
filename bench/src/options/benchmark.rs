//! The benchmarks by name, and what each does when nothing is said.

use std::time::Duration;

use crate::system::System;

/// A benchmark.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Benchmark {
    /// New connections.
    Accept,
    /// Requests on open connections.
    KeepAlive,
    /// Memory of the primary.
    Memory,
    /// Time to ready.
    Start,
    /// How evenly connections are spread.
    Fairness,
    /// How long connections wait while a worker is busy.
    Skew,
    /// What it costs to look at the first bytes.
    Peek,
    /// Whether keys stay where they belong.
    Affinity,
    /// Whether connections wait while the control plane is blocked.
    Stall,
    /// Whether connections wait while others say nothing.
    Slow,
}

impl Benchmark {
    /// Every benchmark, in the order of `all`.
    pub(crate) const ALL: [Self; 10] = [
        Self::Accept,
        Self::KeepAlive,
        Self::Memory,
        Self::Start,
        Self::Fairness,
        Self::Skew,
        Self::Peek,
        Self::Affinity,
        Self::Stall,
        Self::Slow,
    ];

    /// Returns what is typed for it; its file of results is named after it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Accept => "accept",
            Self::KeepAlive => "keepalive",
            Self::Memory => "memory",
            Self::Start => "start",
            Self::Fairness => "fairness",
            Self::Skew => "skew",
            Self::Peek => "peek",
            Self::Affinity => "affinity",
            Self::Stall => "stall",
            Self::Slow => "slow",
        }
    }

    /// Returns the systems that it compares when none are named.
    pub(crate) fn default_systems(self) -> Vec<&'static System> {
        let names: &[&str] = match self {
            Self::Accept => &[
                "node-rr",
                "node-none",
                "worksong",
                "worksong-least",
                "worksong-shared",
                "worksong-kernel",
                "worksong-rust",
                "worksong-rust-kernel",
            ],
            Self::KeepAlive => {
                &["node-rr", "node-none", "worksong", "worksong-shared", "worksong-kernel", "worksong-rust"]
            }
            Self::Memory | Self::Start => {
                &["node-rr", "node-none", "worksong", "worksong-shared", "worksong-rust"]
            }
            Self::Fairness => &[
                "node-rr",
                "node-none",
                "worksong",
                "worksong-least",
                "worksong-shared",
                "worksong-kernel",
                "worksong-kernel-random",
                "worksong-sticky-query",
            ],
            Self::Skew => &[
                "node-rr",
                "node-none",
                "worksong",
                "worksong-least",
                "worksong-shared",
                "worksong-kernel",
                "worksong-sticky-query",
                "nginx",
            ],
            Self::Peek => &["worksong", "worksong-sticky-ip", "worksong-sticky"],
            Self::Affinity => &["worksong-sticky"],
            Self::Stall => &["worksong-library", "worksong-library-stalled"],
            Self::Slow => &["worksong", "worksong-sticky"],
        };
        names.iter().filter_map(|name| System::named(name)).collect()
    }

    /// Returns the numbers of workers that it measures one after the other.
    pub(crate) fn default_workers(self) -> &'static [u32] {
        match self {
            Self::Accept => &[2, 4],
            Self::KeepAlive | Self::Peek | Self::Stall | Self::Slow => &[2],
            Self::Memory => &[2, 64],
            Self::Start => &[2, 8, 32],
            Self::Fairness => &[8],
            Self::Skew => &[4],
            Self::Affinity => &[2, 8, 4],
        }
    }

    /// Returns how often it measures each system.
    pub(crate) fn default_rounds(self) -> usize {
        match self {
            Self::Accept | Self::Start | Self::Peek => 7,
            Self::KeepAlive | Self::Stall | Self::Slow => 5,
            Self::Memory | Self::Fairness | Self::Skew => 3,
            Self::Affinity => 1,
        }
    }

    /// Returns how long each measurement takes.
    pub(crate) fn default_measure(self) -> Duration {
        match self {
            Self::Accept | Self::KeepAlive | Self::Memory | Self::Start | Self::Peek => {
                Duration::from_millis(1500)
            }
            Self::Fairness | Self::Skew | Self::Affinity | Self::Slow => Duration::from_secs(2),
            // Twice as long as it takes to be blocked and free again.
            Self::Stall => Duration::from_secs(4),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn default_systems_are_known_and_differ() {
        for benchmark in Benchmark::ALL {
            let systems = benchmark.default_systems();
            let mut names: Vec<_> = systems.iter().map(|system| system.name).collect();
            names.dedup();
            assert_eq!(names.len(), systems.len(), "{}", benchmark.name());
        }
        assert_eq!(Benchmark::Skew.default_systems().len(), 8);
    }
}
