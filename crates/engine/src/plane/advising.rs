//! Policies of a program's own: how they see connections, and what becomes of those that panic.

use std::any::Any;
use std::fmt;
use std::mem::ManuallyDrop;
use std::os::fd::OwnedFd;
use std::panic::{AssertUnwindSafe, catch_unwind};

use socket2::SockRef;

use super::looking::peek;
use super::{Fact, Plane, tell};
use crate::balance::{Balance, Candidate, Connection};
use crate::spec::Custom;
use crate::sticky::Look;

/// A policy of the program's own at one listener.
///
/// `serving → failed, untold → failed, told`; a failed one is never asked again.
pub(super) enum Adviser {
    Serving {
        balance: Own,
        /// It wants to see the first bytes of connections.
        looks: bool,
    },
    Failed {
        /// What it panicked with, until that is told.
        reason: Option<String>,
    },
}

/// The program's own value, whose end may panic, too.
pub(super) struct Own(Option<Box<dyn Balance>>);

impl Drop for Own {
    fn drop(&mut self) {
        let own = self.0.take();
        // Its last word is of no use to anybody.
        std::mem::forget(catch_unwind(AssertUnwindSafe(|| drop(own))));
    }
}

impl Adviser {
    pub(super) fn new(custom: &Custom) -> Self {
        let made = catch_unwind(AssertUnwindSafe(|| {
            let mut balance = custom.make();
            let looks = balance.wants_more(&[]);
            Self::Serving { balance: Own(Some(balance)), looks }
        }));
        made.unwrap_or_else(Self::failed)
    }

    /// Looks at what a connection has sent so far.
    pub(super) fn look(&mut self, connection: &OwnedFd) -> Look {
        if !self.looks() {
            return Look::Anyone;
        }
        let wants_more = peek(connection, |bytes, is_all| {
            let mut wants_more = || self.ask(|balance| balance.wants_more(bytes)).unwrap_or(false);
            !is_all && (bytes.is_empty() || wants_more())
        });
        if wants_more { Look::More } else { Look::Anyone }
    }

    /// Returns its choice.
    pub(super) fn choose(&mut self, connection: &OwnedFd, workers: &[Candidate]) -> Option<usize> {
        let socket = SockRef::from(connection);
        let client = socket.peer_addr().ok().and_then(|address| address.as_socket());
        let local = socket.local_addr().ok().and_then(|address| address.as_socket());
        let looks = self.looks();
        let mut choose = |first_bytes: &[u8]| {
            let connection = Connection { client, local, first_bytes };
            self.ask(|balance| balance.choose(&connection, workers)).flatten()
        };
        if looks { peek(connection, |bytes, _is_all| choose(bytes)) } else { choose(&[]) }
    }

    fn looks(&self) -> bool {
        match self {
            Self::Serving { looks, .. } => *looks,
            Self::Failed { .. } => false,
        }
    }

    fn ask<R>(&mut self, ask: impl FnOnce(&mut dyn Balance) -> R) -> Option<R> {
        let Self::Serving { balance: Own(Some(balance)), .. } = self else { return None };
        match catch_unwind(AssertUnwindSafe(|| ask(balance.as_mut()))) {
            Ok(answer) => Some(answer),
            Err(panic) => {
                *self = Self::failed(panic);
                None
            }
        }
    }

    /// Returns the failure that a panic is, and leaves the panic itself alone: to drop it might be the next one.
    fn failed(panic: Box<dyn Any + Send>) -> Self {
        let panic = ManuallyDrop::new(panic);
        let text = panic.downcast_ref::<&str>().copied();
        let text = text.or_else(|| panic.downcast_ref::<String>().map(String::as_str));
        Self::Failed { reason: Some(text.unwrap_or("a panic without a message").to_owned()) }
    }

    /// Takes the reason of a failure that is not told yet.
    fn take_failure(&mut self) -> Option<String> {
        match self {
            Self::Serving { .. } => None,
            Self::Failed { reason } => reason.take(),
        }
    }
}

impl fmt::Debug for Adviser {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Serving { .. } => "Serving",
            Self::Failed { .. } => "Failed",
        })
    }
}

impl Plane {
    /// Tells of policies that have panicked.
    pub(super) fn tell_failed_policies(&mut self) {
        for port in self.ports.iter_mut().flatten() {
            if let Some(reason) = port.adviser_mut().and_then(Adviser::take_failure) {
                let (app, address) = (port.app, port.listener.address.to_string());
                tell(&self.facts, Fact::PolicyFailed { app, address, reason });
            }
        }
    }
}
