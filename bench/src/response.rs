//! Checks answers: a benchmark that counts wrong answers measures nothing.

/// What the bytes of an answer amount to so far.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Answer {
    /// More has to come.
    Partial,
    /// The whole answer is there.
    Whole {
        /// How many bytes it has.
        length: usize,
        /// The process that says it gave the answer.
        pid: u32,
    },
    /// It is not what a worker of ours answers.
    Wrong(&'static str),
}

const HEAD_END: &[u8] = b"\r\n\r\n";

/// Reads an answer `200` with a `Content-Length` and the body `hello PID\n`.
pub(crate) fn read(bytes: &[u8]) -> Answer {
    let Some(head_length) = bytes.windows(HEAD_END.len()).position(|window| window == HEAD_END) else {
        return Answer::Partial;
    };
    let mut lines = bytes[..head_length].split(|byte| *byte == b'\n');
    if !lines.next().is_some_and(|status| status.starts_with(b"HTTP/1.1 200 ")) {
        return Answer::Wrong("the status is not 200");
    }
    let Some(body_length) = lines.find_map(content_length) else {
        return Answer::Wrong("it has no usable content-length");
    };
    let body = &bytes[head_length + HEAD_END.len()..];
    if body.len() < body_length {
        return Answer::Partial;
    }
    match pid(&body[..body_length]) {
        Some(pid) => Answer::Whole { length: head_length + HEAD_END.len() + body_length, pid },
        None => Answer::Wrong("the body is not `hello PID`"),
    }
}

fn content_length(line: &[u8]) -> Option<usize> {
    const NAME: &[u8] = b"content-length:";
    let (name, value) = line.split_at_checked(NAME.len())?;
    if !name.eq_ignore_ascii_case(NAME) {
        return None;
    }
    std::str::from_utf8(value).ok()?.trim().parse().ok()
}

fn pid(body: &[u8]) -> Option<u32> {
    let digits = body.strip_prefix(b"hello ")?.strip_suffix(b"\n")?;
    std::str::from_utf8(digits).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const NODE: &[u8] = b"HTTP/1.1 200 OK\r\nDate: Sat, 21 Nov 2026 01:00:00 GMT\r\nConnection: close\r\n\
                          Content-Length: 10\r\n\r\nhello 123\n";

    #[test]
    fn a_whole_answer_names_its_process() {
        assert_eq!(read(NODE), Answer::Whole { length: NODE.len(), pid: 123 });
    }

    #[test]
    fn every_cut_of_an_answer_is_partial() {
        for length in 0..NODE.len() {
            assert_eq!(read(&NODE[..length]), Answer::Partial, "{length} bytes");
        }
    }

    #[test]
    fn bytes_after_the_answer_are_not_part_of_it() {
        let twice = [NODE, NODE].concat();
        assert_eq!(read(&twice), Answer::Whole { length: NODE.len(), pid: 123 });
    }

    #[test]
    fn header_names_have_no_case() {
        let lower = b"HTTP/1.1 200 OK\r\ncontent-length: 8\r\n\r\nhello 7\n";
        assert_eq!(read(lower), Answer::Whole { length: lower.len(), pid: 7 });
    }

    #[test]
    fn other_answers_are_wrong() {
        for bytes in [
            &b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 8\r\n\r\nhello 7\n"[..],
            b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nhello 7\n",
            b"HTTP/1.1 200 OK\r\nContent-Length: many\r\n\r\nhello 7\n",
            b"HTTP/1.1 200 OK\r\nContent-Length: 8\r\n\r\nhallo 7\n",
            b"\r\n\r\n",
        ] {
            assert!(matches!(read(bytes), Answer::Wrong(_)), "{}", String::from_utf8_lossy(bytes));
        }
    }
}
