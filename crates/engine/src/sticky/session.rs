//! What the first request of a connection says about the session of Socket.IO that it belongs to.

use super::request::{self, Found, Room};

/// Headers by which a proxy says that a request is not its own.
const PROXIED: [&str; 2] = ["x-forwarded-for", "forwarded"];

/// The session that a connection belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Session<'a> {
    /// The one with this id.
    Is(&'a [u8]),
    /// None yet, and the connections of one client need not stay together.
    Begins,
    /// None.
    None,
    /// It may be told yet.
    Unfinished,
}

/// Finds the session in the first bytes of a connection.
pub(super) fn find(bytes: &[u8]) -> Session<'_> {
    match request::query("sid", bytes) {
        Found::Value(id) => return Session::Is(id),
        Found::Unfinished => return Session::Unfinished,
        Found::Absent => {}
    }
    if request::query("transport", bytes) == Found::Value(b"websocket") {
        return Session::Begins;
    }
    match request::head(bytes, &mut Room::new()) {
        // A proxy's connections are of many clients. One that keeps them for several requests mixes sessions anyway.
        Ok(head) if PROXIED.iter().any(|name| head.values(name).next().is_some()) => Session::Begins,
        Ok(_) | Err(Found::Absent | Found::Value(_)) => Session::None,
        Err(Found::Unfinished) => Session::Unfinished,
    }
}
