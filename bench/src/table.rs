//! Markdown tables, and how figures are written in them.

use std::fmt::Write;

use crate::stats::Spread;

/// A table under construction.
#[derive(Debug)]
pub(crate) struct Table {
    headers: Vec<String>,
    rows: Vec<Vec<String>>,
}

impl Table {
    /// Begins a table with these column headers.
    pub(crate) fn new<'h>(headers: impl IntoIterator<Item = &'h str>) -> Self {
        Self { headers: headers.into_iter().map(str::to_owned).collect(), rows: Vec::new() }
    }

    /// Adds a row; it has one cell per header.
    pub(crate) fn row(&mut self, cells: Vec<String>) {
        debug_assert_eq!(cells.len(), self.headers.len());
        self.rows.push(cells);
    }

    /// Returns the table as Markdown; names to the left, figures to the right.
    pub(crate) fn to_markdown(&self, title: &str) -> String {
        let mut text = format!("### {title}\n\n| {} |\n|---|", self.headers.join(" | "));
        text.extend(self.headers.iter().skip(1).map(|_| "---:|"));
        text.push('\n');
        for row in &self.rows {
            writeln!(text, "| {} |", row.join(" | ")).expect("invariant: a string takes all text");
        }
        text
    }
}

/// Returns `median [min–max]` with this many decimals, a dash for nothing.
pub(crate) fn spread(spread: Option<Spread>, decimals: usize) -> String {
    spread.map_or_else(
        || "–".to_owned(),
        |Spread { median, min, max }| format!("{median:.decimals$} [{min:.decimals$}–{max:.decimals$}]"),
    )
}

/// Returns the median alone with this many decimals, a dash for nothing.
pub(crate) fn median(spread: Option<Spread>, decimals: usize) -> String {
    spread.map_or_else(|| "–".to_owned(), |spread| format!("{:.decimals$}", spread.median))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn markdown_has_a_title_a_head_and_rows() {
        let mut table = Table::new(["system", "rate"]);
        table.row(vec!["ours".to_owned(), "2".to_owned()]);
        assert_eq!(table.to_markdown("Rates"), "### Rates\n\n| system | rate |\n|---|---:|\n| ours | 2 |\n");
    }

    #[test]
    fn figures_carry_their_spread() {
        let value = Some(Spread { median: 1.26, min: 1.0, max: 2.0 });
        assert_eq!(spread(value, 1), "1.3 [1.0–2.0]");
        assert_eq!(median(value, 2), "1.26");
        assert_eq!(spread(None, 1), "–");
    }
}
