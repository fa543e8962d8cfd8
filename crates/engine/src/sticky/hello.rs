//! What a TLS client says before anything is secret: the host name that it wants (RFC 8446, 4.1.2; RFC 6066, 3).

use super::request::Found;

const RECORD_HANDSHAKE: u8 = 22;
const CLIENT_HELLO: u8 = 1;
const EXTENSION_SERVER_NAME: usize = 0;
const HOST_NAME: u8 = 0;

/// Finds the server name of a `ClientHello`.
pub(super) fn server_name(bytes: &[u8]) -> Found<'_> {
    let mut rest = Reader(bytes);
    match rest.byte() {
        Some(RECORD_HANDSHAKE) => {}
        Some(_other) => return Found::Absent,
        None => return Found::Unfinished,
    }
    if rest.byte().is_some_and(|major| major != 3) {
        return Found::Absent;
    }
    // Clients send their hello in one record; one that is cut in two goes by its address.
    let record = rest.take(1).and_then(|_minor| rest.vector(2));
    record.map_or(Found::Unfinished, |record| in_record(record).into())
}

fn in_record(record: &[u8]) -> Option<&[u8]> {
    let mut record = Reader(record);
    if record.byte()? != CLIENT_HELLO {
        return None;
    }
    let mut hello = Reader(record.vector(3)?);
    let _version_and_random = hello.take(2 + 32)?;
    let _session = hello.vector(1)?;
    let _cipher_suites = hello.vector(2)?;
    let _compressions = hello.vector(1)?;
    let mut extensions = Reader(hello.vector(2)?);
    loop {
        let kind = extensions.number(2)?;
        let extension = extensions.vector(2)?;
        if kind == EXTENSION_SERVER_NAME {
            let mut names = Reader(Reader(extension).vector(2)?);
            return (names.byte()? == HOST_NAME).then(|| names.vector(2))?;
        }
    }
}

/// Reads from the front; what is not there is `None`.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, length: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(taken)
    }

    fn byte(&mut self) -> Option<u8> {
        self.take(1)?.first().copied()
    }

    /// Reads a number of so many bytes, the highest first.
    fn number(&mut self, length: usize) -> Option<usize> {
        Some(self.take(length)?.iter().fold(0, |number, byte| number << 8 | usize::from(*byte)))
    }

    /// Reads bytes with their number in front, which has so many bytes.
    fn vector(&mut self, length: usize) -> Option<&'a [u8]> {
        let number = self.number(length)?;
        self.take(number)
    }
}
