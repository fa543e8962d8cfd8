//! What the kernel counts of connections that no queue had room for. It counts for the whole machine, or the container's
//! network.

use std::fs;

const NETSTAT: &str = "/proc/net/netstat";

/// How many connections found a full queue since the machine started.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Overflows(u64);

impl Overflows {
    /// Reads the kernel's counter; `None` where it has none.
    pub(super) fn read() -> Option<Self> {
        let text = fs::read_to_string(NETSTAT).ok()?;
        counter(&text, "TcpExt:", "ListenOverflows").map(Self)
    }

    pub(super) fn since(self, before: Self) -> u64 {
        self.0.saturating_sub(before.0)
    }
}

/// Finds a number below its name: lines come in pairs, names and then numbers.
fn counter(text: &str, group: &str, name: &str) -> Option<u64> {
    let mut lines = text.lines().filter(|line| line.starts_with(group));
    let (names, numbers) = (lines.next()?, lines.next()?);
    let at = names.split(' ').position(|one| one == name)?;
    numbers.split(' ').nth(at)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_is_found_below_its_name() {
        let text =
            "TcpExt: SyncookiesSent ListenOverflows ListenDrops\nTcpExt: 1 22 333\nIpExt: A\nIpExt: 4\n";
        assert_eq!(counter(text, "TcpExt:", "ListenOverflows"), Some(22));
        assert_eq!(counter(text, "TcpExt:", "Nothing"), None);
        assert_eq!(counter("", "TcpExt:", "ListenOverflows"), None);
        assert!(Overflows::read().is_some(), "this kernel counts");
    }
}
