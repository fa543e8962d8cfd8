//! How a worker is asked whether it is ready, and which workers can be asked.

use std::fmt;

use super::{AppSpec, Dialect, NodeFlavour};

/// A request that shows whether a worker is ready.
///
/// It reaches exactly that worker: the primary hands it a connection of its own for the server that the app opened
/// first, or connects to the worker's own port ([`Dialect::Port`]).
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Probe {
    /// The worker takes a connection.
    Tcp,
    /// The worker answers `GET` of this path with a status from 200 to 399. It speaks HTTP without TLS.
    Http(String),
}

impl Probe {
    /// Checks that a worker of the app can be asked, and no other one answers in its place.
    ///
    /// # Errors
    ///
    /// See [`ProbeError`]; each says what to use instead.
    pub fn check(&self, spec: &AppSpec) -> Result<(), ProbeError> {
        match self {
            Self::Http(path) if !is_path(path) => return Err(ProbeError::Path { path: path.clone() }),
            Self::Http(_) | Self::Tcp => {}
        }
        match (spec.dialect, &spec.policies) {
            (Dialect::Port { base: Some(_) }, _) => Ok(()),
            (Dialect::Port { base: None }, _) => Err(ProbeError::UnknownPort),
            (Dialect::Activation, _) => Err(ProbeError::Inherited),
            (Dialect::Capture { .. }, _) => Err(ProbeError::Captured),
            (Dialect::Node(NodeFlavour::Bun), _) => Err(ProbeError::Bun),
            (Dialect::Node(NodeFlavour::Node | NodeFlavour::Deno) | Dialect::Native, policies) => {
                if policies.hands_over() { Ok(()) } else { Err(ProbeError::Shared) }
            }
        }
    }
}

impl fmt::Display for Probe {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp => f.write_str("a connection"),
            Self::Http(path) => write!(f, "GET {path}"),
        }
    }
}

/// Anything else would end the request line early, or need an encoding that nobody has chosen.
fn is_path(path: &str) -> bool {
    path.starts_with('/') && path.bytes().all(|byte| byte.is_ascii_graphic())
}

/// Why the workers of an app cannot be probed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ProbeError {
    /// The path cannot stand in a request.
    #[error(
        "a probe cannot ask for {path:?}; write a path that begins with / and has no spaces: http:/healthz"
    )]
    Path {
        /// As it was given.
        path: String,
    },
    /// All workers accept from the same `--listen` sockets.
    #[error(
        "the workers share the sockets of --listen, so another one could answer the probe; use --port 9000 in place \
         of --listen (each worker gets a port of its own), --dialect node or native if the program can speak with \
         the primary, or --ready started"
    )]
    Inherited,
    /// The workers share their port, and the kernel chooses between them.
    #[error(
        "the kernel chooses which worker takes a connection, so another one could answer the probe; use --dialect port \
         with --port 9000 (each worker gets a port of its own), --dialect node or native if the program can speak with \
         the primary, or --ready listening"
    )]
    Captured,
    /// All workers accept from the same socket.
    #[error(
        "with --policy shared another worker could answer the probe; use --policy round-robin, or --ready listening \
         or message"
    )]
    Shared,
    /// All workers bind the same port by themselves.
    #[error(
        "Bun opens its port by itself, so another worker could answer the probe; use --ready listening or message"
    )]
    Bun,
    /// Nobody knows where the worker listens.
    #[error(
        "a probe has to know the worker's port; add --port 9000 (PORT is 9000 + slot), or use --ready started"
    )]
    UnknownPort,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_fits_into_a_request_line_is_a_path() {
        for path in ["/", "/healthz", "/ready?deep=1&x=%20"] {
            assert!(is_path(path), "{path}");
        }
        for path in ["", "healthz", "/a b", "/a\r\nX: y", "/ü", "http://x/"] {
            assert!(!is_path(path), "{path:?}");
        }
    }
}
