//! What the clients talk to.

use std::net::SocketAddr;

/// A server under torture.
#[derive(Clone, Debug)]
pub struct Target {
    /// Where it speaks HTTP/1.1.
    pub http: SocketAddr,
    /// Where it speaks HTTP/2 without TLS, if it does.
    pub http2: Option<SocketAddr>,
    /// What it answers.
    pub contract: Contract,
}

/// What can be expected of answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Contract {
    /// The server offers what each class needs: `/say`, `/bytes`, `/upload`, `/stream`, `/ws`. Bodies are checked.
    Full,
    /// Any server: this path is asked for by GET, and an answer is right when it is whole and its status is below 500.
    Any {
        /// The `Host` of the requests.
        host: String,
        /// The path with its query.
        path: String,
    },
}
