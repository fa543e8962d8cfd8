//! Tables in Markdown.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::time::Duration;

use crate::class::Class;
use crate::ledger::{Ending, Failure, Fate, Ledger};
use crate::scenario::Outcome;

/// How many single failures of a class are listed, and how many incidents.
const LISTED: usize = 20;

/// Returns the report of some systems that the same clients used: side by side, then each by itself.
#[must_use]
pub fn report(outcomes: &[(String, Outcome)]) -> String {
    let mut text = side_by_side(outcomes);
    for (name, outcome) in outcomes {
        text.push_str(&alone(name, outcome));
    }
    text
}

/// One column for each system: failed of all requests.
fn side_by_side(outcomes: &[(String, Outcome)]) -> String {
    let names: Vec<String> = outcomes.iter().map(|(name, _)| name.clone()).collect();
    let mut table = Table::new("failed of requests", &names);
    let cell = |ledger: &Ledger, class| {
        let tally = ledger.class(class);
        match (tally.requests(), tally.opened) {
            (0, 0) => String::new(),
            (0, opened) => format!("{} ended of {opened}", tally.ending(Ending::Idle)),
            (requests, _) => format!("{} of {requests}", emphasized(tally.failed())),
        }
    };
    for class in Class::ALL {
        table.row(class.name(), outcomes.iter().map(|(_, outcome)| cell(&outcome.ledger, class)));
    }
    let totals = outcomes.iter().map(|(_, outcome)| outcome.ledger.total());
    let total = |tally: crate::Tally| format!("{} of {}", emphasized(tally.failed()), tally.requests());
    table.row("**all**", totals.clone().map(total));
    table.row("refused", totals.clone().map(|tally| tally.fate(Fate::Refused).to_string()));
    for (name, ending) in [
        ("connections ended politely", Ending::Polite),
        ("connections ended while idle", Ending::Idle),
        ("connections lost", Ending::Lost),
    ] {
        table.row(name, totals.clone().map(|tally| tally.ending(ending).to_string()));
    }
    let cut = |outcome: &Outcome| outcome.cut.map(|cut| cut.to_string()).unwrap_or_default();
    table.row("cut, as it says itself", outcomes.iter().map(|(_, outcome)| cut(outcome)));
    table.row("steps", outcomes.iter().map(|(_, outcome)| steps(&outcome.steps)));
    format!("{}\n", table.text)
}

fn emphasized(failed: u64) -> String {
    if failed == 0 { "0".to_owned() } else { format!("**{failed}**") }
}

fn steps(steps: &[Duration]) -> String {
    let mut sorted = steps.to_vec();
    sorted.sort_unstable();
    match (sorted.get(sorted.len() / 2), sorted.last()) {
        (Some(median), Some(longest)) => {
            format!(
                "{}, median {:.1} s, longest {:.1} s",
                sorted.len(),
                median.as_secs_f64(),
                longest.as_secs_f64()
            )
        }
        _ => "0".to_owned(),
    }
}

/// Class × fate of one system, then its failures.
fn alone(name: &str, outcome: &Outcome) -> String {
    let ledger = &outcome.ledger;
    let total = ledger.total();
    // Columns in which nothing happened say nothing.
    let fates: Vec<Fate> =
        Fate::ALL.into_iter().filter(|fate| *fate == Fate::Served || total.fate(*fate) > 0).collect();
    let names = fates.iter().map(|fate| fate.name().to_owned());
    let names: Vec<String> =
        names.chain(["idle ends", "polite ends", "lost", "connections"].map(str::to_owned)).collect();
    let mut table = Table::new(name, &names);
    let rows = Class::ALL.map(|class| (class.name(), ledger.class(class)));
    for (class, tally) in rows.into_iter().chain([("**all**", total.clone())]) {
        let counts = fates.iter().map(|fate| tally.fate(*fate));
        let ends = [Ending::Idle, Ending::Polite, Ending::Lost].map(|ending| tally.ending(ending));
        table.row(class, counts.chain(ends).chain([tally.opened]).map(|count| count.to_string()));
    }
    let mut text = format!("## {name}\n\n{}\n", table.text);
    if let Some(reason) = &outcome.ended_by {
        let _infallible = write!(text, "Ended early: {reason}\n\n");
    }
    text.push_str(&failures(ledger.failures()));
    text.push_str(&incidents(&outcome.incidents));
    text
}

fn incidents(incidents: &[String]) -> String {
    let mut text = String::new();
    for incident in incidents.iter().take(LISTED) {
        let _infallible = writeln!(text, "    {incident}");
    }
    if !incidents.is_empty() {
        let _infallible = writeln!(text, "\nIncidents that the system tells of: {}\n", incidents.len());
    }
    text
}

/// The kinds of failures with their numbers, and the first of them one by one.
fn failures(failures: &[Failure]) -> String {
    let mut text = String::new();
    let mut kinds: BTreeMap<(Class, Fate, &str), u64> = BTreeMap::new();
    for failure in failures {
        *kinds.entry((failure.class, failure.fate, &failure.detail)).or_default() += 1;
    }
    for ((class, fate, detail), count) in kinds.iter().take(LISTED) {
        let _infallible = writeln!(text, "- {count} × {class} {}: {detail}", fate.name());
    }
    if !failures.is_empty() {
        text.push('\n');
    }
    // Of each class: the many that were expected must not hide the few that were not.
    for class in Class::ALL {
        let of_class = || failures.iter().filter(|failure| failure.class == class);
        for failure in of_class().take(LISTED) {
            let _infallible = writeln!(text, "    {failure}");
        }
        if let Some(more) = of_class().count().checked_sub(LISTED).filter(|more| *more > 0) {
            let _infallible = writeln!(text, "    … and {more} more of {class}");
        }
    }
    if !failures.is_empty() {
        text.push('\n');
    }
    text
}

/// A table that grows by rows.
struct Table {
    text: String,
}

impl Table {
    fn new(corner: &str, columns: &[String]) -> Self {
        let rule = format!("|---|{}\n", "---:|".repeat(columns.len()));
        Self { text: format!("| {corner} | {} |\n{rule}", columns.join(" | ")) }
    }

    fn row(&mut self, name: &str, cells: impl Iterator<Item = String>) {
        let cells: Vec<String> = cells.collect();
        let _infallible = writeln!(self.text, "| {name} | {} |", cells.join(" | "));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ledger::Book;

    fn outcome(write: impl FnOnce(&Book), steps: &[u64], cut: Option<u64>) -> Outcome {
        let book = Book::new();
        write(&book);
        Outcome {
            ledger: book.ledger(),
            steps: steps.iter().copied().map(Duration::from_millis).collect(),
            cut,
            incidents: Vec::new(),
            ended_by: None,
        }
    }

    #[test]
    fn systems_stand_side_by_side() {
        let good = outcome(
            |book| {
                book.opened(Class::Fresh);
                book.served(Class::Fresh, std::time::Instant::now());
                book.opened(Class::Silent);
                book.ended(Class::Silent, Ending::Polite);
            },
            &[100, 300, 200],
            Some(0),
        );
        let bad = outcome(
            |book| {
                book.failed(Class::Fresh, Fate::Refused, None, "refused".to_owned());
                book.opened(Class::Silent);
                book.ended(Class::Silent, Ending::Idle);
                book.opened(Class::Pipelined);
                book.served(Class::Pipelined, std::time::Instant::now());
                book.failed(Class::Pipelined, Fate::ClosedBefore, None, "end".to_owned());
                book.failed(Class::Pipelined, Fate::Unanswered, None, "behind".to_owned());
                book.ended(Class::Pipelined, Ending::Lost);
            },
            &[],
            None,
        );
        let table = side_by_side(&[("good".to_owned(), good), ("bad".to_owned(), bad)]);
        let expected = "\
            | failed of requests | good | bad |\n\
            |---|---:|---:|\n\
            | new | 0 of 1 | **1** of 1 |\n\
            | keep-alive |  |  |\n\
            | pipelined |  | **2** of 3 |\n\
            | slow-reader |  |  |\n\
            | upload |  |  |\n\
            | stream |  |  |\n\
            | websocket |  |  |\n\
            | http2 |  |  |\n\
            | silent | 0 ended of 1 | 1 ended of 1 |\n\
            | **all** | 0 of 1 | **3** of 4 |\n\
            | refused | 0 | 1 |\n\
            | connections ended politely | 1 | 0 |\n\
            | connections ended while idle | 0 | 1 |\n\
            | connections lost | 0 | 1 |\n\
            | cut, as it says itself | 0 |  |\n\
            | steps | 3, median 0.2 s, longest 0.3 s | 0 |\n\n";
        assert_eq!(table, expected);
    }
}
