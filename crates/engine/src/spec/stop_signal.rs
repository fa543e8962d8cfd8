//! The signal that asks a worker to leave, and how people write it.

use std::fmt;
use std::str::FromStr;

use crate::event::signal_name;

/// What can be chosen: signals that programs handle to end gracefully.
const CHOICES: [i32; 7] =
    [libc::SIGTERM, libc::SIGINT, libc::SIGQUIT, libc::SIGHUP, libc::SIGUSR1, libc::SIGUSR2, libc::SIGWINCH];

/// The signal that asks a worker to finish what it has and end, where no message does.
///
/// SIGTERM, the default, goes to the worker and to all that it started. Any other one is a word of this one program, as
/// SIGQUIT is of nginx: only the worker's first process gets it, and tells its own children what it wants of them.
///
/// As text: `SIGQUIT`, `QUIT` or `quit`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StopSignal(i32);

/// A text that is no signal which a program could end gracefully at.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no signal that asks a program to leave; write TERM, INT, QUIT, HUP, USR1, USR2 or WINCH")]
pub struct StopSignalError(String);

impl StopSignal {
    /// SIGTERM.
    pub const TERMINATE: Self = Self(libc::SIGTERM);

    /// Returns the number of the signal.
    #[must_use]
    pub fn number(self) -> i32 {
        self.0
    }

    /// Returns whether all processes of a worker get it, not only its first one.
    #[must_use]
    pub fn is_for_the_tree(self) -> bool {
        self == Self::TERMINATE
    }
}

impl Default for StopSignal {
    fn default() -> Self {
        Self::TERMINATE
    }
}

impl FromStr for StopSignal {
    type Err = StopSignalError;

    fn from_str(text: &str) -> Result<Self, StopSignalError> {
        let upper = text.to_ascii_uppercase();
        let name = upper.strip_prefix("SIG").unwrap_or(&upper);
        let is_meant =
            |number: &i32| signal_name(*number).is_some_and(|full| full.strip_prefix("SIG") == Some(name));
        CHOICES.into_iter().find(is_meant).map(Self).ok_or_else(|| StopSignalError(text.to_owned()))
    }
}

impl fmt::Display for StopSignal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(signal_name(self.0).unwrap_or("a signal"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals_are_read_with_and_without_their_prefix() {
        for text in ["SIGQUIT", "QUIT", "quit", "sigquit"] {
            assert_eq!(text.parse(), Ok(StopSignal(libc::SIGQUIT)), "{text}");
        }
        for number in CHOICES {
            let signal = StopSignal(number);
            assert_eq!(signal.to_string().parse(), Ok(signal), "what is printed can be typed");
        }
    }

    #[test]
    fn what_no_program_can_handle_or_would_not_end_at_is_refused() {
        for text in ["", "KILL", "SIGSTOP", "SIGSEGV", "15", "SIGSIGTERM"] {
            let error = text.parse::<StopSignal>().unwrap_err().to_string();
            assert!(error.contains("write TERM, INT, QUIT"), "{text}: {error}");
        }
    }
}
