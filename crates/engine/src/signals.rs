//! Signals of the terminal, the service manager and the operator: what they ask the primary for.
//!
//! The first SIGTERM or SIGINT drains, a second one ends everything at once; SIGHUP and SIGUSR2 reload. The
//! command line and the library obey the same rules, which are here.

use std::io::{self, IsTerminal};
use std::time::{Duration, Instant};

use tokio::signal::unix::{self, SignalKind};

/// The same signal again within this time is an echo, not impatience: `timeout`, `npm` and a terminal send a signal
/// to the process and to its group, and so twice to the process. When a session ends, SIGTERM comes with the end of its
/// terminal.
const ECHO: Duration = Duration::from_millis(100);

/// A signal that the primary acts on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Signal {
    /// SIGTERM.
    Terminate,
    /// SIGINT, Ctrl-C in a terminal.
    Interrupt,
    /// SIGHUP.
    HangUp,
    /// SIGUSR2.
    User2,
}

impl Signal {
    /// Returns its name, `SIGTERM`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Terminate => "SIGTERM",
            Self::Interrupt => "SIGINT",
            Self::HangUp => "SIGHUP",
            Self::User2 => "SIGUSR2",
        }
    }

    /// Returns its number, from which the exit code of a forced end is made.
    #[must_use]
    pub fn number(self) -> i32 {
        self.kind().as_raw_value()
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

/// What a signal asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wish {
    /// Drain all workers and end.
    Stop {
        /// Why, such as `SIGTERM`.
        reason: &'static str,
    },
    /// End all workers at once: somebody has lost patience.
    StopNow {
        /// The signal that says so.
        signal: Signal,
    },
    /// Replace all workers.
    Reload,
}

/// The signals of this process from now on. Dropping it leaves them without effect.
#[derive(Debug)]
pub struct Signals {
    terminate: unix::Signal,
    interrupt: unix::Signal,
    hang_up: unix::Signal,
    user2: unix::Signal,
    terminal: Terminal,
    wishes: Wishes,
}

impl Signals {
    /// Takes the signals over from their default actions; it needs a Tokio runtime with I/O.
    ///
    /// # Errors
    ///
    /// When the system has no descriptors left.
    pub fn listen() -> io::Result<Self> {
        let listen = |signal: Signal| unix::signal(signal.kind());
        Ok(Self {
            terminate: listen(Signal::Terminate)?,
            interrupt: listen(Signal::Interrupt)?,
            hang_up: listen(Signal::HangUp)?,
            user2: listen(Signal::User2)?,
            terminal: Terminal::at_start(),
            wishes: Wishes::default(),
        })
    }

    /// Waits for a signal that asks for something.
    ///
    /// # Cancel safety
    ///
    /// No signal is lost when the future is dropped.
    pub async fn next(&mut self) -> Wish {
        loop {
            let signal = self.signal().await;
            if let Some(wish) = self.wishes.on(signal, self.terminal.now(), Instant::now()) {
                return wish;
            }
        }
    }

    async fn signal(&mut self) -> Signal {
        tokio::select! {
            Some(()) = self.terminate.recv() => Signal::Terminate,
            Some(()) = self.interrupt.recv() => Signal::Interrupt,
            Some(()) = self.hang_up.recv() => Signal::HangUp,
            Some(()) = self.user2.recv() => Signal::User2,
            // The streams of Tokio never end.
            else => std::future::pending().await,
        }
    }
}

/// What signals mean, which depends on those before.
#[derive(Debug, Default)]
struct Wishes {
    /// The signal that asked for the end, and when.
    stopping: Option<(Signal, Instant)>,
}

impl Wishes {
    /// Returns what a signal asks for; `terminal` is what has become of the one that this process was started on.
    fn on(&mut self, signal: Signal, terminal: Terminal, now: Instant) -> Option<Wish> {
        let reason = match (signal, self.stopping) {
            (Signal::Terminate | Signal::Interrupt, Some((first, at))) => {
                let repeats = signal == first || first == Signal::HangUp;
                let is_echo = repeats && now.saturating_duration_since(at) < ECHO;
                return (!is_echo).then_some(Wish::StopNow { signal });
            }
            // It ends: there is nothing to replace.
            (Signal::HangUp | Signal::User2, Some(_)) => return None,
            (Signal::Terminate | Signal::Interrupt, None) => signal.name(),
            (Signal::HangUp, None) if terminal == Terminal::Closed => "the terminal was closed",
            (Signal::HangUp | Signal::User2, None) => return Some(Wish::Reload),
        };
        self.stopping = Some((signal, now));
        Some(Wish::Stop { reason })
    }
}

/// What has become of the terminal that this process was started on.
///
/// SIGHUP means reload by custom, but it is also what the kernel sends when a terminal window is closed; a server
/// that nobody can see or stop any more is not what was meant then.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Terminal {
    /// There was none.
    None,
    /// It is there.
    Open,
    /// It was closed.
    Closed,
}

impl Terminal {
    /// Returns whether this process prints to a terminal.
    fn at_start() -> Self {
        if io::stderr().is_terminal() { Self::Open } else { Self::None }
    }

    /// Returns what has become of it: the question whether it is a terminal fails on one that was closed.
    fn now(self) -> Self {
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

    /// A primary that was started on no terminal is told signals, each so many milliseconds after the first.
    fn wishes<const N: usize>(signals: [(Signal, u64); N]) -> [Option<Wish>; N] {
        wishes_at(Terminal::None, signals)
    }

    fn wishes_at<const N: usize>(terminal: Terminal, signals: [(Signal, u64); N]) -> [Option<Wish>; N] {
        let (mut wishes, start) = (Wishes::default(), Instant::now());
        signals.map(|(signal, after)| wishes.on(signal, terminal, start + Duration::from_millis(after)))
    }

    #[test]
    fn the_first_drains_and_the_second_forces() {
        for (second, number) in [(Signal::Terminate, 15), (Signal::Interrupt, 2)] {
            let signals = [
                (Signal::HangUp, 0),
                (Signal::User2, 1),
                (Signal::Interrupt, 2),
                (Signal::HangUp, 3),
                (second, 200),
            ];
            assert_eq!(
                wishes(signals),
                [
                    Some(Wish::Reload),
                    Some(Wish::Reload),
                    Some(Wish::Stop { reason: "SIGINT" }),
                    None,
                    Some(Wish::StopNow { signal: second }),
                ]
            );
            assert_eq!(second.number(), number);
        }
    }

    #[test]
    fn a_closed_terminal_stops_the_app() {
        let signals = [(Signal::User2, 0), (Signal::HangUp, 1), (Signal::HangUp, 2)];
        let closed = Some(Wish::Stop { reason: "the terminal was closed" });
        assert_eq!(wishes_at(Terminal::Closed, signals), [Some(Wish::Reload), closed, None]);
        assert_eq!(wishes_at(Terminal::Open, signals), [Some(Wish::Reload); 3]);
    }

    #[test]
    fn the_end_of_a_session_forces_nothing() {
        let signals = [(Signal::HangUp, 0), (Signal::Terminate, 5), (Signal::Terminate, 100)];
        let closed = Some(Wish::Stop { reason: "the terminal was closed" });
        let forced = Some(Wish::StopNow { signal: Signal::Terminate });
        assert_eq!(wishes_at(Terminal::Closed, signals), [closed, None, forced]);
    }

    #[test]
    fn an_echo_of_the_first_signal_forces_nothing() {
        let stop = Some(Wish::Stop { reason: "SIGTERM" });
        let forced = |signal| Some(Wish::StopNow { signal });
        for (second, expected) in [
            ((Signal::Terminate, 99), None),
            ((Signal::Terminate, 100), forced(Signal::Terminate)),
            ((Signal::Interrupt, 1), forced(Signal::Interrupt)),
        ] {
            assert_eq!(wishes([(Signal::Terminate, 0), second]), [stop, expected]);
        }
    }
}
