//! What the head of an HTTP/1 request says.

use std::mem::MaybeUninit;

use httparse::{Header, Request, Status};

/// How many headers a request may have; one with more is served all the same, and goes by its client's address.
const MOST_HEADERS: usize = 128;

/// What was looked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Found<'a> {
    Value(&'a [u8]),
    /// It is not there, or not in something of this kind.
    Absent,
    /// It may come yet.
    Unfinished,
}

impl<'a> From<Option<&'a [u8]>> for Found<'a> {
    fn from(value: Option<&'a [u8]>) -> Self {
        value.filter(|value| !value.is_empty()).map_or(Self::Absent, Self::Value)
    }
}

/// Room for the headers of a request; what is not needed of it is never written to.
#[derive(Debug)]
pub(super) struct Room<'a>([MaybeUninit<Header<'a>>; MOST_HEADERS]);

impl Room<'_> {
    pub(super) fn new() -> Self {
        Self([const { MaybeUninit::uninit() }; MOST_HEADERS])
    }
}

/// The headers of a request.
#[derive(Debug)]
pub(super) struct Head<'r, 'a> {
    headers: &'r [Header<'a>],
}

impl<'a> Head<'_, 'a> {
    /// Returns the values of all headers of this name, in their order.
    pub(super) fn values<'s>(&'s self, name: &'s str) -> impl DoubleEndedIterator<Item = &'a [u8]> + 's {
        let named = move |header: &&Header<'a>| header.name.eq_ignore_ascii_case(name);
        self.headers.iter().filter(named).map(|header| header.value)
    }
}

/// Reads the whole head of a request.
pub(super) fn head<'r, 'a>(bytes: &'a [u8], room: &'r mut Room<'a>) -> Result<Head<'r, 'a>, Found<'a>> {
    let mut request = Request::new(&mut []);
    match request.parse_with_uninit_headers(bytes, &mut room.0) {
        Ok(Status::Complete(_)) => Ok(Head { headers: request.headers }),
        Ok(Status::Partial) => Err(Found::Unfinished),
        Err(_malformed) => Err(Found::Absent),
    }
}

/// Finds the value of a header, the first one of this name.
pub(super) fn header<'a>(name: &str, bytes: &'a [u8]) -> Found<'a> {
    match head(bytes, &mut Room::new()) {
        Ok(head) => head.values(name).next().into(),
        Err(found) => found,
    }
}

/// Finds the value of a cookie, as it stands there.
pub(super) fn cookie<'a>(name: &str, bytes: &'a [u8]) -> Found<'a> {
    let mut room = Room::new();
    let head = match head(bytes, &mut room) {
        Ok(head) => head,
        Err(found) => return found,
    };
    let pairs = head.values("cookie").flat_map(|value| value.split(|byte| *byte == b';'));
    value_of(name, pairs.map(<[u8]>::trim_ascii)).into()
}

/// Finds the value of a query parameter, as it stands there.
pub(super) fn query<'a>(name: &str, bytes: &'a [u8]) -> Found<'a> {
    match target(bytes) {
        Ok(target) => {
            let query = target.splitn(2, |byte| *byte == b'?').nth(1).unwrap_or_default();
            value_of(name, query.split(|byte| *byte == b'&')).into()
        }
        Err(found) => found,
    }
}

/// Finds the first segments of the path.
pub(super) fn path(segments: u8, bytes: &[u8]) -> Found<'_> {
    match target(bytes) {
        Ok(target) => {
            let path = without_host(target).split(|byte| *byte == b'?').next().unwrap_or_default();
            // `OPTIONS *`, `CONNECT host:port`, and HTTP/2, which begins with `PRI *`.
            if !path.starts_with(b"/") {
                return Found::Absent;
            }
            let slashes = path.iter().enumerate().filter(|(_, byte)| **byte == b'/').map(|(at, _)| at);
            let end = slashes.skip(1).nth(usize::from(segments.max(1)) - 1).unwrap_or(path.len());
            path.get(..end).into()
        }
        Err(found) => found,
    }
}

/// Finds what a request is for, as it stands in its first line, and waits for nothing after that.
fn target(bytes: &[u8]) -> Result<&[u8], Found<'_>> {
    let mut request = Request::new(&mut []);
    let parsed = request.parse(bytes);
    match (request.path, parsed) {
        (Some(target), _) => Ok(target.as_bytes()),
        (None, Ok(Status::Partial)) => Err(Found::Unfinished),
        (None, Ok(Status::Complete(_)) | Err(_)) => Err(Found::Absent),
    }
}

/// Takes scheme and host from a target in absolute form, as clients of a proxy send it (RFC 9112, 3.2.2).
fn without_host(target: &[u8]) -> &[u8] {
    let Some(scheme) = target.windows(3).position(|three| three == b"://") else { return target };
    if target.starts_with(b"/") {
        return target;
    }
    let after = &target[scheme + 3..];
    let path = after.iter().position(|byte| matches!(byte, b'/' | b'?')).unwrap_or(after.len());
    &after[path..]
}

fn value_of<'a>(name: &str, mut pairs: impl Iterator<Item = &'a [u8]>) -> Option<&'a [u8]> {
    pairs.find_map(|pair| pair.strip_prefix(name.as_bytes())?.strip_prefix(b"="))
}
