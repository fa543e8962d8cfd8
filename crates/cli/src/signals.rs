//! Signals of the terminal, the service manager and the operator.

use std::io::{self, IsTerminal};
use std::time::{Duration, Instant};

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
    /// The signal that asked for the end, and when.
    stopping: Option<(Signal, Instant)>,
}

/// The same signal again within this time is an echo, not impatience: `timeout`, `npm` and a terminal send a signal
/// to the process and to its group, and so twice to the process.
const ECHO: Duration = Duration::from_millis(100);

impl Wishes {
    /// Returns what a signal asks for; `terminal` is what has become of the terminal that worksong was started on.
    pub(crate) fn on(&mut self, signal: Signal, terminal: Terminal, now: Instant) -> Request {
        let reason = match (signal, self.stopping) {
            (Signal::Terminate | Signal::Interrupt, Some((first, at))) => {
                let echo = signal == first && now.saturating_duration_since(at) < ECHO;
                return if echo { Request::Nothing } else { Request::StopNow { signal } };
            }
            (Signal::HangUp | Signal::User2, Some(_)) => return Request::Nothing,
            (Signal::Terminate | Signal::Interrupt, None) => signal.name(),
            (Signal::HangUp, None) if terminal == Terminal::Closed => "the terminal was closed",
            (Signal::HangUp | Signal::User2, None) => return Request::Reload,
        };
        self.stopping = Some((signal, now));
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
        let (mut wishes, now) = (Wishes::default(), Instant::now());
        assert_eq!(wishes.on(Signal::HangUp, Terminal::None, now), Request::Reload);
        assert_eq!(wishes.on(Signal::User2, Terminal::Open, now), Request::Reload);
        assert_eq!(wishes.on(Signal::Interrupt, Terminal::Open, now), Request::Stop { reason: "SIGINT" });
        assert_eq!(wishes.on(Signal::HangUp, Terminal::Open, now), Request::Nothing);
        assert_eq!(
            wishes.on(Signal::Terminate, Terminal::Open, now),
            Request::StopNow { signal: Signal::Terminate }
        );
        assert_eq!(Signal::Terminate.number(), 15);
    }

    #[test]
    fn a_closed_terminal_stops_the_app() {
        let (mut wishes, now) = (Wishes::default(), Instant::now());
        assert_eq!(wishes.on(Signal::User2, Terminal::Closed, now), Request::Reload);
        assert_eq!(
            wishes.on(Signal::HangUp, Terminal::Closed, now),
            Request::Stop { reason: "the terminal was closed" }
        );
        assert_eq!(wishes.on(Signal::HangUp, Terminal::Closed, now), Request::Nothing);
    }

    #[test]
    fn an_echo_of_the_first_signal_forces_nothing() {
        let (mut wishes, now) = (Wishes::default(), Instant::now());
        let stop = Request::Stop { reason: "SIGTERM" };
        assert_eq!(wishes.on(Signal::Terminate, Terminal::None, now), stop);
        let echo = now + ECHO / 2;
        assert_eq!(wishes.on(Signal::Terminate, Terminal::None, echo), Request::Nothing);
        let forced = |signal| Request::StopNow { signal };
        assert_eq!(wishes.on(Signal::Interrupt, Terminal::None, echo), forced(Signal::Interrupt));
        assert_eq!(wishes.on(Signal::Terminate, Terminal::None, now + ECHO), forced(Signal::Terminate));
    }
}
