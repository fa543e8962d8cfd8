//! How many connections a worker has open.

/// No process has more open: Linux knows no more descriptors. It keeps sums of what workers say within bounds.
const MOST: u64 = 1 << 31;

/// The number of a worker's open connections, or more: never less than there are.
///
/// A worker that counts reports the number, and each connection that it takes adds to its last report. The channel keeps
/// the order: a connection whose `accepted` is read before a report is in that report. So the number lags only with
/// connections that were closed, and not for longer than the worker waits between two reports.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct OpenCount {
    reported: u64,
    /// What it has taken since.
    taken: u64,
    /// It reports. Of a worker that does not, only what it has ever taken is known.
    pub(crate) is_reported: bool,
}

impl OpenCount {
    /// Returns how many connections are open at most.
    pub(crate) fn most(self) -> u64 {
        self.reported + self.taken
    }

    /// Adds a connection that the worker took.
    pub(super) fn add(&mut self) {
        self.taken += 1;
    }

    /// Believes what the worker says, if it can be.
    pub(super) fn report(&mut self, count: u64) {
        *self = Self { reported: count.min(MOST), taken: 0, is_reported: true };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_taken_since_the_last_report_adds_to_it() {
        let mut open = OpenCount::default();
        open.add();
        assert_eq!((open.most(), open.is_reported), (1, false));
        open.report(7);
        assert_eq!((open.most(), open.is_reported), (7, true));
        open.add();
        open.add();
        assert_eq!(open.most(), 9);
        open.report(2);
        assert_eq!(open.most(), 2);
    }
}
