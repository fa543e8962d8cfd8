//! How many connections may be open, and for which apps that can be kept.

use std::fmt;
use std::str::FromStr;

use super::{AppSpec, Dialect, NodeFlavour};

/// How many connections may be open at a time, and what becomes of those that are too many; no limit by default.
///
/// Open connections and those handed over to a worker and not yet taken are never more than this, except where idle ones
/// move between workers: those count, and always find a place. With [`Policy::Kernel`](super::Policy::Kernel), where workers accept by
/// themselves, a limit is kept as well as their reports allow, which come every 50 ms.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct OpenLimits {
    /// In each worker. One that has so many gets no new ones.
    pub per_worker: Option<u64>,
    /// In all workers of the app together.
    pub per_app: Option<u64>,
    /// What becomes of new connections while nobody may take one.
    pub overload: Overload,
}

/// What becomes of new connections while as many are open as may be.
///
/// As text: `wait`, `reset`, `503`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Overload {
    /// They wait in the kernel's queue, as long as [`Deadlines::hold`](super::Deadlines::hold) says; when that is full, clients
    /// try again by themselves.
    #[default]
    Wait,
    /// They are reset at once.
    Reset,
    /// HTTP/1 requests are answered `503 Service Unavailable` with `Retry-After: 1`; what speaks something else, or nothing
    /// within a second, is reset.
    Unavailable,
}

/// A text that is no [`Overload`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("nothing is called {0:?} that can be done with too many connections; there are wait, reset and 503")]
pub struct OverloadError(String);

impl FromStr for Overload {
    type Err = OverloadError;

    fn from_str(text: &str) -> Result<Self, OverloadError> {
        match text {
            "wait" => Ok(Self::Wait),
            "reset" => Ok(Self::Reset),
            "503" => Ok(Self::Unavailable),
            _ => Err(OverloadError(text.to_owned())),
        }
    }
}

impl fmt::Display for Overload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Wait => "wait",
            Self::Reset => "reset",
            Self::Unavailable => "503",
        })
    }
}

/// Why an app's open connections cannot be limited.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum LimitError {
    /// Not even one connection would be let in.
    #[error("a limit of 0 open connections lets nobody in; use at least 1")]
    Zero,
    /// Workers accept by themselves.
    #[error(
        "open connections cannot be limited where workers accept them from {from}; leave --max-open and --max-open-app out{}",
        alternative(*.instead)
    )]
    AcceptedByWorkers {
        /// What they accept from.
        from: &'static str,
        /// What to use instead, if there is something.
        instead: Option<&'static str>,
    },
    /// Workers do not say how many they have.
    #[error(
        "open connections cannot be limited where workers do not say how many they have: {why}; leave --max-open and \
         --max-open-app out{}",
        alternative(*.instead)
    )]
    Uncounted {
        /// Why they do not.
        why: &'static str,
        /// What to use instead, if there is something.
        instead: Option<&'static str>,
    },
}

fn alternative(instead: Option<&'static str>) -> String {
    instead.map(|instead| format!(", or {instead}")).unwrap_or_default()
}

impl OpenLimits {
    /// Returns true when there is one.
    #[must_use]
    pub fn is_any(&self) -> bool {
        self.per_worker.is_some() || self.per_app.is_some()
    }

    /// Checks that the limits can be kept for this app.
    ///
    /// # Errors
    ///
    /// See [`LimitError`]; each says what to do instead. Rust workers that do not use `worksong::serve` are found out when
    /// they take their first connection, which is an event.
    pub fn check(&self, spec: &AppSpec) -> Result<(), LimitError> {
        if !self.is_any() {
            return Ok(());
        }
        if self.per_worker == Some(0) || self.per_app == Some(0) {
            return Err(LimitError::Zero);
        }
        let accepted_from = |from, instead| Err(LimitError::AcceptedByWorkers { from, instead });
        let uncounted = |why, instead| Err(LimitError::Uncounted { why, instead });
        match spec.dialect {
            Dialect::Activation => accepted_from(
                "the sockets of --listen",
                Some("use --dialect node or native if the program can speak with the primary"),
            ),
            Dialect::Capture { .. } => accepted_from(
                "ports that they bind by themselves",
                Some("use --dialect native if the program is a Rust worker"),
            ),
            Dialect::Port { .. } => accepted_from("ports of their own", None),
            Dialect::Node(NodeFlavour::Bun) => accepted_from("a port that Bun opens by itself", None),
            Dialect::Node(NodeFlavour::Deno) => uncounted("Deno loads no agent", None),
            Dialect::Node(NodeFlavour::Node) if !spec.agent => {
                uncounted("Node workers do it by the agent", Some("leave --no-agent out"))
            }
            Dialect::Node(NodeFlavour::Node) | Dialect::Native => {
                if spec.policies.hands_over() {
                    Ok(())
                } else {
                    accepted_from("one shared socket", Some("use --policy round-robin"))
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_done_with_too_many_is_written_as_it_is_read() {
        for text in ["wait", "reset", "503"] {
            assert_eq!(text.parse::<Overload>().map(|overload| overload.to_string()).as_deref(), Ok(text));
        }
        let error = "drop".parse::<Overload>().expect_err("it is none");
        assert!(error.to_string().ends_with("there are wait, reset and 503"), "{error}");
    }
}
