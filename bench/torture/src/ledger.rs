//! What happened to requests and connections.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::class::Class;

/// What became of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Fate {
    /// Answered rightly.
    Served,
    /// Not taken by a server that had said so: `Connection: close` on an earlier answer of the pipeline, GOAWAY, or
    /// close code 1001. A client sends it again.
    Declined,
    /// The connection could not be opened.
    Refused,
    /// The connection was reset before the first byte of the answer.
    ResetBefore,
    /// The connection was closed before the first byte of the answer.
    ClosedBefore,
    /// The connection was reset within the answer.
    ResetWithin,
    /// The connection was closed within the answer.
    ClosedWithin,
    /// The answer had a wrong status.
    WrongStatus,
    /// The answer had a wrong body or checksum, or was not what the protocol permits.
    WrongAnswer,
    /// There was no whole answer in time.
    TimedOut,
    /// Sent in a pipeline behind a request that failed, and lost with it.
    Unanswered,
}

impl Fate {
    /// All, in the order of the table.
    pub const ALL: [Self; 11] = [
        Self::Served,
        Self::Declined,
        Self::Refused,
        Self::ResetBefore,
        Self::ClosedBefore,
        Self::ResetWithin,
        Self::ClosedWithin,
        Self::WrongStatus,
        Self::WrongAnswer,
        Self::TimedOut,
        Self::Unanswered,
    ];

    /// Returns its name in tables.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Served => "served",
            Self::Declined => "declined",
            Self::Refused => "refused",
            Self::ResetBefore => "reset before",
            Self::ClosedBefore => "closed before",
            Self::ResetWithin => "reset within",
            Self::ClosedWithin => "closed within",
            Self::WrongStatus => "wrong status",
            Self::WrongAnswer => "wrong answer",
            Self::TimedOut => "timed out",
            Self::Unanswered => "unanswered",
        }
    }

    /// Returns true when a user would call it an error.
    #[must_use]
    pub fn is_failure(self) -> bool {
        !matches!(self, Self::Served | Self::Declined)
    }
}

/// How a connection ended that its client would have kept; each has one end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Ending {
    /// It said so: `Connection: close`, GOAWAY or close code 1001.
    Polite,
    /// It closed or reset it while it was idle. The client connects again, and a request that was just being sent
    /// would have been lost.
    Idle,
    /// It ended, or was given up, with a request on it that failed; a WebSocket without a word.
    Lost,
}

/// A request that failed, and what was known of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// When, since the start of the population.
    pub at: Duration,
    /// Whose request.
    pub class: Class,
    /// In what way.
    pub fate: Fate,
    /// Age of its connection; `None` when it never had one.
    pub age: Option<Duration>,
    /// How long the request had waited for its answer to be whole; nothing when it was never sent.
    pub waited: Duration,
    /// How many requests had been served on the connection before.
    pub served_before: u64,
    /// What was done to the system then, such as `reload 3, 212 ms after its begin`.
    pub during: String,
    /// The error of the system, or what was wrong.
    pub detail: String,
}

/// What is known of an open connection.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Course {
    pub(crate) opened: Instant,
    /// When the request was sent that waits for its answer, or the latest that did.
    pub(crate) asked: Instant,
    /// How many requests were served on it.
    pub(crate) served: u64,
}

impl Course {
    pub(crate) fn new() -> Self {
        let now = Instant::now();
        Self { opened: now, asked: now, served: 0 }
    }
}

/// The counts of one class.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Connections that were opened.
    pub opened: u64,
    fates: BTreeMap<Fate, u64>,
    endings: BTreeMap<Ending, u64>,
}

impl Tally {
    /// Returns how many requests had this fate.
    #[must_use]
    pub fn fate(&self, fate: Fate) -> u64 {
        self.fates.get(&fate).copied().unwrap_or_default()
    }

    /// Returns how many connections ended so.
    #[must_use]
    pub fn ending(&self, ending: Ending) -> u64 {
        self.endings.get(&ending).copied().unwrap_or_default()
    }

    /// Returns the number of all requests.
    #[must_use]
    pub fn requests(&self) -> u64 {
        self.fates.values().sum()
    }

    /// Returns how many requests failed.
    #[must_use]
    pub fn failed(&self) -> u64 {
        self.fates.iter().filter(|(fate, _)| fate.is_failure()).map(|(_, count)| count).sum()
    }

    /// Adds the counts of another.
    pub(crate) fn add(&mut self, other: &Self) {
        self.opened += other.opened;
        for (fate, count) in &other.fates {
            *self.fates.entry(*fate).or_default() += count;
        }
        for (ending, count) in &other.endings {
            *self.endings.entry(*ending).or_default() += count;
        }
    }
}

/// Every class's counts, and every failure.
#[derive(Clone, Debug, Default)]
pub struct Ledger {
    tallies: BTreeMap<Class, Tally>,
    failures: Vec<Failure>,
}

impl Ledger {
    /// Returns the counts of a class.
    #[must_use]
    pub fn class(&self, class: Class) -> Tally {
        self.tallies.get(&class).cloned().unwrap_or_default()
    }

    /// Returns the counts of all classes together.
    #[must_use]
    pub fn total(&self) -> Tally {
        let mut total = Tally::default();
        for tally in self.tallies.values() {
            total.add(tally);
        }
        total
    }

    /// Returns the failures in the order of time.
    #[must_use]
    pub fn failures(&self) -> &[Failure] {
        &self.failures
    }
}

/// The ledger while it is written, and what its failures are attributed to.
#[derive(Debug)]
pub(crate) struct Book {
    started: Instant,
    page: Mutex<Page>,
    served: Condvar,
}

#[derive(Debug)]
struct Page {
    ledger: Ledger,
    during: (String, Instant),
    /// When the latest of the fresh connections that were served was opened.
    served_fresh: Option<Instant>,
}

impl Book {
    pub(crate) fn new() -> Self {
        let now = Instant::now();
        let page =
            Page { ledger: Ledger::default(), during: ("the start".to_owned(), now), served_fresh: None };
        Self { started: now, page: Mutex::new(page), served: Condvar::new() }
    }

    fn page(&self) -> MutexGuard<'_, Page> {
        self.page.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Says what begins to be done to the system; failures from now on are attributed to it.
    pub(crate) fn begin(&self, what: String) {
        self.page().during = (what, Instant::now());
    }

    pub(crate) fn opened(&self, class: Class) {
        self.page().ledger.tallies.entry(class).or_default().opened += 1;
    }

    pub(crate) fn ended(&self, class: Class, ending: Ending) {
        let mut page = self.page();
        *page.ledger.tallies.entry(class).or_default().endings.entry(ending).or_default() += 1;
    }

    pub(crate) fn served(&self, class: Class, opened: Instant) {
        let mut page = self.page();
        page.count(class, Fate::Served);
        if class == Class::Fresh {
            page.served_fresh = page.served_fresh.max(Some(opened));
            self.served.notify_all();
        }
    }

    pub(crate) fn declined(&self, class: Class) {
        self.page().count(class, Fate::Declined);
    }

    /// Counts a failure, on this connection if there was one.
    pub(crate) fn failed(&self, class: Class, fate: Fate, course: Option<Course>, detail: String) {
        let now = Instant::now();
        let mut page = self.page();
        page.count(class, fate);
        let (what, begun) = &page.during;
        let failure = Failure {
            at: now - self.started,
            class,
            fate,
            age: course.map(|course| now - course.opened),
            waited: course.map_or(Duration::ZERO, |course| now - course.asked),
            served_before: course.map_or(0, |course| course.served),
            during: format!("{what}, {} ms after its begin", (now - *begun).as_millis()),
            detail,
        };
        page.ledger.failures.push(failure);
    }

    /// Waits until a fresh connection that was opened after this moment is served; false when that takes too long.
    pub(crate) fn wait_served(&self, moment: Instant, patience: Duration) -> bool {
        let waiting = |page: &mut Page| page.served_fresh.is_none_or(|opened| opened < moment);
        let waited = self.served.wait_timeout_while(self.page(), patience, waiting);
        let (_page, timeout) = waited.unwrap_or_else(PoisonError::into_inner);
        !timeout.timed_out()
    }

    /// Returns a copy of what is written until now.
    pub(crate) fn ledger(&self) -> Ledger {
        self.page().ledger.clone()
    }
}

impl Page {
    fn count(&mut self, class: Class, fate: Fate) {
        *self.ledger.tallies.entry(class).or_default().fates.entry(fate).or_default() += 1;
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { at, class, fate, age, waited, served_before, during, detail } = self;
        write!(formatter, "{:8.3} s  {class}  {}  ", at.as_secs_f64(), fate.name())?;
        match age {
            Some(age) => {
                write!(formatter, "connection of {:.3} s, {served_before} served on it", age.as_secs_f64())?;
            }
            None => formatter.write_str("no connection")?,
        }
        write!(formatter, ", waited {:.3} s; during {during}: {detail}", waited.as_secs_f64())
    }
}
