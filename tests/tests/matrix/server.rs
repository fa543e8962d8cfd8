//! What a row of the matrix says about its server.

use crate::client::Protocol;

/// A server, and how to treat it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Server {
    /// What people call it.
    pub(crate) name: &'static str,
    /// A command of the shell that prints its version.
    pub(crate) version: &'static str,
    /// A command of the shell that is run before, once.
    pub(crate) before: &'static str,
    /// A command of the shell that becomes it: `$PORT` is its port, `$SOCKET` the path of its Unix socket, `$CONFIG` its configuration, `$FOLDER` where it may
    /// write, `$SERVERS` and `$APPS` the folders of the fixtures.
    pub(crate) command: &'static str,
    /// A file of `apps/servers` in which `@PORT@` and `@FOLDER@` are filled in.
    pub(crate) config: Option<&'static str>,
    /// The signal at which it finishes what it has and ends, if that is not SIGTERM.
    pub(crate) stop_signal: Option<&'static str>,
    pub(crate) protocol: Protocol,
    /// Whether it listens on `$PORT` of IPv6 and on `$OTHER_PORT` as well.
    pub(crate) listens_more_than_once: bool,
    /// Whether it reads datagrams at `$PORT` as well.
    pub(crate) reads_datagrams: bool,
    /// What it makes impossible.
    pub(crate) limit: Option<Limit>,
    /// What the reader has to know.
    pub(crate) note: &'static str,
}

/// What a program makes impossible.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Limit {
    /// It connects to its address before it binds it, and goes elsewhere or gives up when that succeeds.
    ConnectsFirst,
    /// At its signal it closes connections whose question it has not read.
    ClosesUnread,
}

impl Server {
    /// A server of HTTP that needs nothing special.
    pub(crate) const HTTP: Self = Self {
        name: "",
        version: "",
        before: ":",
        command: "",
        config: None,
        stop_signal: None,
        protocol: Protocol::Http { pauses: false },
        listens_more_than_once: false,
        reads_datagrams: false,
        limit: None,
        note: "",
    };

    /// One that answers `/?ms=N` after N ms.
    pub(crate) const PAUSING: Self = Self { protocol: Protocol::Http { pauses: true }, ..Self::HTTP };
}
