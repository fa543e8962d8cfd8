//! Bytes in, whole lines out.

use std::mem;

/// A line without its line feed, or a piece of one that is longer than the limit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    /// The bytes as they were printed.
    pub bytes: Vec<u8>,
    /// True when the line goes on in the next piece.
    pub continued: bool,
}

/// Cuts what a worker prints into lines, however the bytes arrive.
///
/// Where a line is cut depends on the bytes alone, not on how they were grouped into reads. At most one line of
/// [`LineSplitter::DEFAULT_LIMIT`] bytes is kept in memory.
///
/// # Examples
/// ```
/// use worksong_engine::output::LineSplitter;
/// let mut splitter = LineSplitter::default();
/// let mut lines = Vec::new();
/// splitter.push(b"one\ntw", |line| lines.push(line.bytes));
/// splitter.push(b"o", |line| lines.push(line.bytes));
/// lines.extend(splitter.finish().map(|line| line.bytes));
/// assert_eq!(lines, [b"one", b"two"]);
/// ```
#[derive(Clone, Debug)]
pub struct LineSplitter {
    partial: Vec<u8>,
    limit: usize,
}

impl Default for LineSplitter {
    fn default() -> Self {
        Self::with_limit(Self::DEFAULT_LIMIT)
    }
}

impl LineSplitter {
    /// The longest line that is passed on in one piece: 1 MiB.
    pub const DEFAULT_LIMIT: usize = 1024 * 1024;

    /// The longest UTF-8 character; a smaller limit could not cut between characters.
    const LEAST_LIMIT: usize = 4;

    /// Returns an empty splitter whose pieces have at most `limit` bytes; at least 4.
    #[must_use]
    pub fn with_limit(limit: usize) -> Self {
        Self { partial: Vec::new(), limit: limit.max(Self::LEAST_LIMIT) }
    }

    /// Takes the next bytes and emits every line that they complete, in order.
    pub fn push(&mut self, mut bytes: &[u8], mut emit: impl FnMut(Line)) {
        while !bytes.is_empty() {
            // One byte more than fits: a line feed there ends a line of exactly the limit.
            let room = self.limit + 1 - self.partial.len();
            let window = &bytes[..bytes.len().min(room)];
            if let Some(end) = window.iter().position(|&byte| byte == b'\n') {
                self.partial.extend_from_slice(&bytes[..end]);
                bytes = &bytes[end + 1..];
                emit(Line { bytes: mem::take(&mut self.partial), continued: false });
                continue;
            }
            self.partial.extend_from_slice(window);
            bytes = &bytes[window.len()..];
            if self.partial.len() > self.limit {
                let rest = self.partial.split_off(character_start(&self.partial, self.limit));
                emit(Line { bytes: mem::replace(&mut self.partial, rest), continued: true });
            }
        }
    }

    /// Returns the last line when the output ended without a line feed; the splitter is empty afterwards.
    pub fn finish(&mut self) -> Option<Line> {
        let bytes = mem::take(&mut self.partial);
        (!bytes.is_empty()).then_some(Line { bytes, continued: false })
    }
}

/// Returns the greatest place up to `at` where no UTF-8 character is cut; `at` itself when the bytes are not UTF-8.
fn character_start(bytes: &[u8], at: usize) -> usize {
    let is_inner = |place: &usize| bytes[*place] & 0b1100_0000 == 0b1000_0000;
    (at.saturating_sub(3).max(1)..=at).rev().find(|place| !is_inner(place)).unwrap_or(at)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn split(limit: usize, chunks: &[&[u8]]) -> Vec<Line> {
        let mut splitter = LineSplitter::with_limit(limit);
        let mut lines = Vec::new();
        for chunk in chunks {
            splitter.push(chunk, |line| lines.push(line));
        }
        lines.extend(splitter.finish());
        assert_eq!(splitter.finish(), None);
        lines
    }

    fn line(text: &str) -> Line {
        Line { bytes: text.into(), continued: false }
    }

    fn piece(text: &str) -> Line {
        Line { bytes: text.into(), continued: true }
    }

    #[test]
    fn lines_are_whole_however_they_arrive() {
        assert_eq!(split(80, &[b"a", b"b\n\nc\r\n"]), [line("ab"), line(""), line("c\r")]);
        assert_eq!(split(80, &[b"no line feed"]), [line("no line feed")]);
        assert_eq!(split(80, &[]), []);
    }

    #[test]
    fn a_line_of_exactly_the_limit_is_not_cut() {
        assert_eq!(split(4, &[b"abcd", b"\nx"]), [line("abcd"), line("x")]);
        assert_eq!(split(4, &[b"abcd"]), [line("abcd")]);
        assert_eq!(split(4, &[b"abcde\n"]), [piece("abcd"), line("e")]);
    }

    #[test]
    fn no_character_is_cut() {
        assert_eq!(split(4, &["abc\u{e9}\n".as_bytes()]), [piece("abc"), line("\u{e9}")]);
        assert_eq!(split(4, &["\u{1f3b5}\u{1f3b5}".as_bytes()]), [piece("\u{1f3b5}"), line("\u{1f3b5}")]);
        let inner_bytes = vec![0x80; 10];
        let pieces = split(4, &[&inner_bytes]);
        assert_eq!(pieces.iter().map(|piece| piece.bytes.len()).collect::<Vec<_>>(), [4, 4, 2]);
    }

    proptest! {
        /// Nothing is lost, added or reordered, no piece is too long, and reads do not show.
        #[test]
        fn pieces_make_up_the_input(
            chunks in prop::collection::vec(
                prop::collection::vec(prop_oneof![Just(b'\n'), Just(b'a'), Just(0xc3), Just(0xa9), any::<u8>()], 0..30),
                0..12,
            ),
            limit in 4_usize..20,
        ) {
            let borrowed: Vec<&[u8]> = chunks.iter().map(Vec::as_slice).collect();
            let input = chunks.concat();
            let lines = split(limit, &borrowed);
            prop_assert_eq!(&lines, &split(limit, &[&input]));

            let mut rebuilt = Vec::new();
            for line in &lines {
                prop_assert!(line.bytes.len() <= limit);
                prop_assert!(!line.bytes.contains(&b'\n'));
                prop_assert!(!(line.continued && line.bytes.is_empty()));
                rebuilt.extend_from_slice(&line.bytes);
                if !line.continued {
                    rebuilt.push(b'\n');
                }
            }
            let mut expected = input;
            if expected.last().is_some_and(|&byte| byte != b'\n') {
                expected.push(b'\n');
            }
            prop_assert_eq!(rebuilt, expected);
        }
    }
}
