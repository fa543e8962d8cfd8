//! The session shared between the program and the task that reads the channel.
//!
//! The session stands behind a mutex, not behind a queue of commands: taking a connection and telling the primary so
//! must be one step of the same poll, else a cancelled `accept()` could lose a connection on its way. The lock is held
//! for one step and never across an await.

use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::{future, io};

use tokio::io::Interest;
use tokio::net::UnixStream;
use tokio::runtime::Handle;
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, sleep_until};
use worksong_channel::channel::{Progress, READ_BUFFER};
use worksong_channel::message::Ability;

use crate::session::{Phase, Session};

/// How often the task reads before it lets the program's tasks run.
const READS_PER_TURN: usize = 64;
const READ_AND_WRITE: Interest = Interest::READABLE.add(Interest::WRITABLE);

/// A session, its task and its waiters.
#[derive(Debug)]
pub(crate) struct Link {
    session: Mutex<Session>,
    /// The socket for the task to wait on, until there is a task.
    unstarted: Mutex<Option<OwnedFd>>,
    phase: watch::Sender<Phase>,
    /// Rung when the task has to look at the session again.
    attention: Notify,
    /// Rung when a message of the primary waits, or none will come any more.
    pub(crate) messages: Notify,
    /// Set by the panic hook, which must not take the lock: its thread may hold it.
    panicked: AtomicBool,
    outlives_primary: AtomicBool,
    extension: Extension,
    #[cfg(feature = "serve")]
    awaited: Arc<AtomicBool>,
}

/// Whether the primary is told that this worker understands worksong's own messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Extension {
    Announced,
    Unspoken,
}

impl Link {
    /// Takes a connected, non-blocking channel and says `online` on it.
    pub(crate) fn new(socket: OwnedFd, extension: Extension) -> io::Result<Self> {
        let watched = socket.try_clone()?;
        let session = Session::start(socket);
        #[cfg(feature = "serve")]
        let awaited = session.awaited();
        let (phase, _) = watch::channel(session.phase());
        Ok(Self {
            session: Mutex::new(session),
            unstarted: Mutex::new(Some(watched)),
            phase,
            attention: Notify::new(),
            messages: Notify::new(),
            panicked: AtomicBool::new(false),
            outlives_primary: AtomicBool::new(false),
            extension,
            #[cfg(feature = "serve")]
            awaited,
        })
    }

    /// Starts the task that reads the channel, in the current runtime, unless it runs already.
    pub(crate) fn ensure_task(self: &Arc<Self>) -> io::Result<()> {
        let runtime = Handle::try_current().map_err(io::Error::other)?;
        let unstarted = self.unstarted.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(socket) = unstarted {
            let socket = UnixStream::from_std(socket.into())?;
            // Not earlier: from here on pings are answered.
            self.greet(&[Ability::Ping]);
            runtime.spawn(Arc::clone(self).drive(socket));
        }
        Ok(())
    }

    /// Tells the primary what this worker understands, if the primary would.
    pub(crate) fn greet(&self, can: &[Ability]) {
        match self.extension {
            Extension::Announced => self.step(|session| session.greet(can)),
            Extension::Unspoken => {}
        }
    }

    /// Does one step on the session.
    pub(crate) fn step<R>(&self, step: impl FnOnce(&mut Session) -> R) -> R {
        let mut session = self.lock();
        let before = session.watched();
        let result = step(&mut session);
        let (phase, watched) = (session.phase(), session.watched());
        drop(session);
        if self.publish(phase) || watched != before {
            self.attention.notify_one();
        }
        result
    }

    /// Returns a watch on the worker's way out.
    pub(crate) fn phase(&self) -> watch::Receiver<Phase> {
        self.phase.subscribe()
    }

    /// Waits on a worker that drains until the connections it took last had time to send their first request.
    pub(crate) async fn first_requests(&self) {
        let Some(until) = self.step(|session| session.finishes_at()) else { return };
        let mut phase = self.phase();
        tokio::select! {
            () = sleep_until(until) => {}
            // A worker without a primary does not wait.
            _ = phase.wait_for(|phase| *phase >= Phase::Closed) => {}
        }
    }

    /// Returns true while a connection that becomes idle should claim the primary's request.
    #[cfg(feature = "serve")]
    pub(crate) fn awaits_idle(&self) -> bool {
        self.awaited.load(Ordering::SeqCst)
    }

    /// Notes a panic somewhere in this process; takes no lock.
    pub(crate) fn note_panic(&self) {
        self.panicked.store(true, Ordering::Release);
        self.attention.notify_one();
    }

    /// Leaves the process alone when the primary is gone.
    pub(crate) fn outlive_primary(&self) {
        self.outlives_primary.store(true, Ordering::Release);
    }

    fn lock(&self) -> MutexGuard<'_, Session> {
        // A step that panicked leaves a session that is at worst a message short; the worker is leaving anyway.
        self.session.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tells the waiters how far the worker is; returns true when they did not know yet.
    fn publish(&self, phase: Phase) -> bool {
        if *self.phase.borrow() >= phase {
            return false;
        }
        let news = self.phase.send_if_modified(|known| {
            let news = *known < phase;
            *known = phase.max(*known);
            news
        });
        if news {
            self.messages.notify_waiters();
        }
        news
    }

    /// Owns the reading half until the channel is closed.
    async fn drive(self: Arc<Self>, socket: UnixStream) {
        let mut scratch = vec![0; READ_BUFFER];
        loop {
            if self.panicked.swap(false, Ordering::AcqRel) {
                self.step(|session| session.leave(Instant::now()));
            }
            // Not by `step()`, which would ring for this task again.
            let (phase, wants_write, wakes_at) = {
                let session = self.lock();
                (session.phase(), session.wants_write(), session.wakes_at(Instant::now()))
            };
            self.publish(phase);
            match phase {
                Phase::Serving | Phase::Draining | Phase::Parting => {}
                Phase::Closed => return,
                Phase::Lost => return self.on_primary_gone(),
            }
            let interest = if wants_write { READ_AND_WRITE } else { Interest::READABLE };
            tokio::select! {
                ready = socket.ready(interest) => {
                    let Ok(ready) = ready else { return self.step(Session::close) };
                    // `try_io` forgets the readiness when there is none left.
                    if ready.is_writable() {
                        let _empty = socket.try_io(Interest::WRITABLE, || self.flush());
                    }
                    if ready.is_readable() {
                        let _empty = socket.try_io(Interest::READABLE, || self.read(&mut scratch));
                    }
                    self.after_reading().await;
                }
                () = self.attention.notified() => {}
                () = at(wakes_at) => self.step(|session| session.on_time(Instant::now())),
            }
        }
    }

    /// Reads until nothing is left, or until it is the program's turn.
    fn read(&self, scratch: &mut [u8]) -> io::Result<()> {
        let mut incoming = Vec::new();
        let mut session = self.lock();
        for _ in 0..READS_PER_TURN {
            match session.receive(scratch, &mut incoming, Instant::now()) {
                Progress::Read | Progress::ReadAll => {}
                Progress::WouldBlock => return Err(io::ErrorKind::WouldBlock.into()),
                Progress::Closed => break,
            }
        }
        Ok(())
    }

    /// Writes until nothing is left, or until the primary has to read first.
    fn flush(&self) -> io::Result<()> {
        let mut session = self.lock();
        session.flush();
        if session.wants_write() { Err(io::ErrorKind::WouldBlock.into()) } else { Ok(()) }
    }

    async fn after_reading(&self) {
        let (messages, answers) =
            self.step(|session| (session.mailbox().has_unread(), session.owes_answers()));
        if messages {
            self.messages.notify_one();
        }
        if answers {
            // A program that waits in accept() writes them together with its own answer.
            tokio::task::yield_now().await;
            self.step(Session::flush);
        }
    }

    fn on_primary_gone(&self) {
        if !self.outlives_primary.load(Ordering::Acquire) {
            end_process();
        }
    }
}

/// Ends the process as Node ends a worker that has lost its primary: at once, and with success.
#[expect(
    clippy::exit,
    clippy::disallowed_methods,
    reason = "the protocol: workers never outlive their primary"
)]
fn end_process() -> ! {
    std::process::exit(0)
}

async fn at(instant: Option<Instant>) {
    match instant {
        Some(instant) => sleep_until(instant).await,
        None => future::pending().await,
    }
}
