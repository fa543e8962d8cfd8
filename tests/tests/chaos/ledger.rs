//! Which worker had which connection, and what follows from that for a connection that failed.

use std::collections::HashMap;
use std::fmt;
use std::fs;
use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;
use std::time::{Duration, Instant};

use crate::client::{ConnectionId, Exchange, Outcome};

/// How far a connection had come into a worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Grip {
    /// The worker's process had it and had not begun to say so: it is still the primary's.
    Received,
    /// The worker was in the system call that writes `accepted: true`, right before or right after it.
    Accepting,
    /// The worker had written `accepted: true`.
    Accepted,
}

/// What is known of the workers' connections.
#[derive(Debug, Default)]
pub(crate) struct Ledger(HashMap<ConnectionId, HashMap<u32, Grip>>);

impl Ledger {
    /// Reads what the workers of `apps/node/chaos.js` recorded.
    pub(crate) fn read(folder: &Path) -> Self {
        let mut ledger = Self::default();
        for entry in fs::read_dir(folder).expect("the folder of the records").flatten() {
            let name = entry.file_name();
            let worker = name.to_str().and_then(|name| name.parse().ok()).expect("a worker's number");
            let records = fs::read_to_string(entry.path()).expect("a record of whole lines");
            for line in records.lines() {
                let (what, address) = line.split_once(' ').expect("a record has two fields");
                let grip = match what {
                    "received" => Grip::Received,
                    "accepting" => Grip::Accepting,
                    "accepted" => Grip::Accepted,
                    other => panic!("an unknown record: {other}"),
                };
                // A connection that is gone already has no address.
                if let Some(id) = address.parse().ok().and_then(to_v4).and_then(ConnectionId::of) {
                    ledger.note(id, worker, grip);
                }
            }
        }
        ledger
    }

    /// Notes that a worker had a connection.
    pub(crate) fn note(&mut self, id: ConnectionId, worker: u32, grip: Grip) {
        let known = self.0.entry(id).or_default().entry(worker).or_insert(grip);
        *known = grip.max(*known);
    }

    /// Sums up what became of connections while these workers were killed, each at its time.
    ///
    /// A connection that failed is the worker's own only when the worker was dead by then.
    pub(crate) fn judge(&self, exchanges: &[Exchange], killed: &HashMap<u32, Instant>) -> Report {
        let mut report = Report { opened: exchanges.len(), ..Report::default() };
        for Exchange { id, outcome, took, ended } in exchanges {
            let was_killed = |worker: u32| killed.get(&worker).is_some_and(|at| at <= ended);
            match outcome {
                Outcome::Served { worker } => {
                    report.served += 1;
                    let others = self.grip(*id, |holder| holder != *worker && was_killed(holder));
                    report.rescued += usize::from(others.is_some());
                    report.longest = report.longest.max(*took);
                }
                Outcome::Refused(error) => {
                    report.violate(Violation::Refused, self.describe(*id, &error.to_string()));
                }
                Outcome::Lost => report.violate(Violation::Lost, self.describe(*id, "no end")),
                Outcome::Reset(_) | Outcome::Cut => match self.grip(*id, was_killed) {
                    Some(Grip::Accepted) => report.accepted_by_killed += 1,
                    Some(Grip::Accepting) => report.accepting_by_killed += 1,
                    Some(Grip::Received) | None => {
                        let how = match outcome {
                            Outcome::Reset(error) => error.to_string(),
                            _ => "cut".to_owned(),
                        };
                        report.violate(Violation::Reset, self.describe(*id, &how));
                    }
                },
            }
        }
        report
    }

    fn describe(&self, id: ConnectionId, how: &str) -> String {
        let holders = self.0.get(&id);
        format!("{id:?}: {how}; by worker: {holders:?}")
    }

    /// Returns how far the connection had come into a worker that the predicate takes, at most.
    fn grip(&self, id: ConnectionId, predicate: impl Fn(u32) -> bool) -> Option<Grip> {
        let holders = self.0.get(&id)?.iter();
        holders.filter(|(worker, _)| predicate(**worker)).map(|(_, grip)| *grip).max()
    }
}

/// Something that must not happen to a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Violation {
    /// It could not be opened.
    Refused,
    /// It ended without its answer, although no killed worker had accepted it.
    Reset,
    /// It had no end at all.
    Lost,
}

/// What became of the connections of a run.
#[derive(Debug, Default)]
pub(crate) struct Report {
    pub(crate) opened: usize,
    pub(crate) served: usize,
    pub(crate) violations: Vec<(Violation, String)>,
    /// Died with a worker that had written `accepted: true`.
    pub(crate) accepted_by_killed: usize,
    /// Died with a worker that was writing it at that moment.
    pub(crate) accepting_by_killed: usize,
    /// A killed worker had received them, and another one served them.
    pub(crate) rescued: usize,
    /// How long a served connection took at most.
    pub(crate) longest: Duration,
}

impl Report {
    fn violate(&mut self, violation: Violation, what: String) {
        self.violations.push((violation, what));
    }

    fn count(&self, violation: Violation) -> usize {
        self.violations.iter().filter(|(found, _)| *found == violation).count()
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} opened, {} served (at most {:.1?}): {} refused, {} reset, {} lost; died with a worker that had \
             accepted them: {}, that was just accepting them: {}; served by another worker than the killed one \
             that had received them: {}",
            self.opened,
            self.served,
            self.longest,
            self.count(Violation::Refused),
            self.count(Violation::Reset),
            self.count(Violation::Lost),
            self.accepted_by_killed,
            self.accepting_by_killed,
            self.rescued,
        )
    }
}

fn to_v4(address: IpAddr) -> Option<Ipv4Addr> {
    match address.to_canonical() {
        IpAddr::V4(address) => Some(address),
        IpAddr::V6(_) => None,
    }
}
