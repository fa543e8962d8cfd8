//! The last lines of a worker, kept for the day it ends.

use std::collections::VecDeque;

/// The last lines that a worker wrote to stderr, as evidence of how it ended.
///
/// At most [`LastLines::COUNT`] lines are kept, each of at most [`LastLines::LENGTH`] bytes, so a worker that floods
/// its stderr costs no memory.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LastLines {
    lines: VecDeque<String>,
}

impl LastLines {
    /// How many lines are kept.
    pub const COUNT: usize = 40;
    /// How many bytes of a line are kept.
    pub const LENGTH: usize = 500;

    /// Adds a line, in place of the oldest when all places are taken.
    pub fn push(&mut self, line: &[u8]) {
        if self.lines.len() == Self::COUNT {
            self.lines.pop_front();
        }
        let mut text = String::from_utf8_lossy(&line[..line.len().min(Self::LENGTH)]).into_owned();
        // A replacement character is longer than the byte that it stands for, so the text can have grown.
        text.truncate(text.floor_char_boundary(Self::LENGTH));
        text.truncate(text.trim_end_matches('\r').len());
        self.lines.push_back(text);
    }

    /// Returns the lines, oldest first.
    #[must_use]
    pub fn to_vec(&self) -> Vec<String> {
        self.lines.iter().cloned().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_lines_stay_in_order() {
        let mut last = LastLines::default();
        for number in 0..50 {
            last.push(format!("line {number}\r").as_bytes());
        }
        let lines = last.to_vec();
        assert_eq!(lines.len(), LastLines::COUNT);
        assert_eq!(lines.first().map(String::as_str), Some("line 10"));
        assert_eq!(lines.last().map(String::as_str), Some("line 49"));
    }

    #[test]
    fn long_and_odd_lines_are_cut_to_text() {
        let mut last = LastLines::default();
        last.push(&[b'x'; 2000]);
        last.push(&[0xff; 2000]);
        last.push("\u{e9}".repeat(400).as_bytes());
        for line in last.to_vec() {
            assert!(
                line.len() <= LastLines::LENGTH && line.len() > LastLines::LENGTH - 4,
                "{} bytes",
                line.len()
            );
        }
    }
}
