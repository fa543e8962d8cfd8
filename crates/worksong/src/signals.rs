//! Signals of the primary, the same as those of `worksong run`.

use std::io;

use tokio::signal::unix::{self, Signal, SignalKind};

/// What a signal asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wish {
    Stop { signal: &'static str },
    Reload,
}

/// The signals of this process from now on.
#[derive(Debug)]
pub(crate) struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hang_up: Signal,
    user2: Signal,
}

impl Signals {
    pub(crate) fn listen() -> io::Result<Self> {
        Ok(Self {
            terminate: unix::signal(SignalKind::terminate())?,
            interrupt: unix::signal(SignalKind::interrupt())?,
            hang_up: unix::signal(SignalKind::hangup())?,
            user2: unix::signal(SignalKind::user_defined2())?,
        })
    }

    /// Returns what the next signal asks for. No signal is lost when the future is dropped.
    pub(crate) async fn next(&mut self) -> Wish {
        tokio::select! {
            Some(()) = self.terminate.recv() => Wish::Stop { signal: "SIGTERM" },
            Some(()) = self.interrupt.recv() => Wish::Stop { signal: "SIGINT" },
            Some(()) = self.hang_up.recv() => Wish::Reload,
            Some(()) = self.user2.recv() => Wish::Reload,
            // The streams of tokio never end.
            else => std::future::pending().await,
        }
    }
}
