//! Signals of the terminal, the service manager and the operator.

use std::io::{self, IsTerminal};

use tokio::signal::unix::{self, SignalKind};

/// A signal that worksong acts on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Signal {
    Terminate,
    Interrupt,
    HangUp,
    User2,
}

impl Signal {
    /// Returns its name, `SIGTERM`.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Terminate => "SIGTERM",
            Self::Interrupt => "SIGINT",
            Self::HangUp => "SIGHUP",
            Self::User2 => "SIGUSR2",
        }
    }

    /// Returns its number, from which the exit code of a forced end is made.
    pub(crate) fn number(self) -> u8 {
        let kind = self.kind().as_raw_value();
        u8::try_from(kind).expect("invariant: signals have small numbers")
    }

    fn kind(self) -> SignalKind {
        match self {
            Self::Terminate => SignalKind::terminate(),
            Self::Interrupt => SignalKind::interrupt(),
            Self::HangUp => SignalKind::hangup(),
            Self::User2 => SignalKind::user_defined2(),
        }
    }
}

/// The signals of this process from now on.
#[derive(Debug)]
pub(crate) struct Signals {
    terminate: unix::Signal,
    interrupt: unix::Signal,
    hang_up: unix::Signal,
    user2: unix::Signal,
}

impl Signals {
    /// Takes the signals over from their default actions; it needs a tokio runtime with I/O.
    pub(crate) fn listen() -> io::Result<Self> {
        let listen = |signal: Signal| unix::signal(signal.kind());
        Ok(Self {
            terminate: listen(Signal::Terminate)?,
            interrupt: listen(Signal::Interrupt)?,
            hang_up: listen(Signal::HangUp)?,
            user2: listen(Signal::User2)?,
        })
    }

    /// Returns the next signal.
    ///
    /// # Cancel safety
    /// No signal is lost when the future is dropped.
    pub(crate) async fn next(&mut self) -> Signal {
        tokio::select! {
            Some(()) = self.terminate.recv() => Signal::Terminate,
            Some(()) = self.interrupt.recv() => Signal::Interrupt,
            Some(()) = self.hang_up.recv() => Signal::HangUp,
            Some(()) = self.user2.recv() => Signal::User2,
            // The streams of tokio never end.
            else => std::future::pending().await,
        }
    }
}

/// What a signal asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Request {
    /// Drain all workers and end.
    Stop { reason: &'static str },
    /// End all workers at once; the exit code says by which signal.
    StopNow { signal: Signal },
    /// Replace all workers.
    Reload,
    /// Nothing: the app ends already.
    Nothing,
}

/// What signals mean, which depends on those before.
#[derive(Debug, Default)]
pub(crate) struct Wishes {
    stopping: bool,
}

impl Wishes {
    /// Returns what a signal asks for; `terminal` is what has become of the terminal that worksong was started on.
    pub(crate) fn on(&mut self, signal: Signal, terminal: Terminal) -> Request {
        let reason = match (signal, terminal) {
            (Signal::Terminate | Signal::Interrupt, _) if self.stopping => {
                return Request::StopNow { signal };
            }
            (Signal::Terminate | Signal::Interrupt, _) => signal.name(),
            (Signal::HangUp | Signal::User2, _) if self.stopping => return Request::Nothing,
            (Signal::HangUp, Terminal::Closed) => "the terminal was closed",
            (Signal::HangUp, Terminal::Open | Terminal::None) | (Signal::User2, _) => return Request::Reload,
        };
        self.stopping = true;
        Request::Stop { reason }
    }
}

/// What has become of the terminal that worksong was started on.
///
/// SIGHUP means reload by custom, but it is also what the kernel sends when a terminal window is closed; a server
/// that nobody can see or stop any more is not what was meant then.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Terminal {
    /// There was none.
    None,
    /// It is there.
    Open,
    /// It was closed.
    Closed,
}

impl Terminal {
    /// Returns whether this process prints to a terminal.
    pub(crate) fn at_start() -> Self {
        if io::stderr().is_terminal() { Self::Open } else { Self::None }
    }

    /// Returns what has become of it: the question whether it is a terminal fails on one that was closed.
    pub(crate) fn now(self) -> Self {
        match self {
            Self::None => Self::None,
            Self::Open | Self::Closed if io::stderr().is_terminal() => Self::Open,
            Self::Open | Self::Closed => Self::Closed,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_drains_and_the_second_forces() {
        let mut wishes = Wishes::default();
        assert_eq!(wishes.on(Signal::HangUp, Terminal::None), Request::Reload);
        assert_eq!(wishes.on(Signal::User2, Terminal::Open), Request::Reload);
        assert_eq!(wishes.on(Signal::Interrupt, Terminal::Open), Request::Stop { reason: "SIGINT" });
        assert_eq!(wishes.on(Signal::HangUp, Terminal::Open), Request::Nothing);
        assert_eq!(
            wishes.on(Signal::Terminate, Terminal::Open),
            Request::StopNow { signal: Signal::Terminate }
        );
        assert_eq!(Signal::Terminate.number(), 15);
    }

    #[test]
    fn a_closed_terminal_stops_the_app() {
        let mut wishes = Wishes::default();
        assert_eq!(wishes.on(Signal::User2, Terminal::Closed), Request::Reload);
        assert_eq!(
            wishes.on(Signal::HangUp, Terminal::Closed),
            Request::Stop { reason: "the terminal was closed" }
        );
        assert_eq!(wishes.on(Signal::HangUp, Terminal::Closed), Request::Nothing);
    }
}
