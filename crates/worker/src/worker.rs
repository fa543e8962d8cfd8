//! The handle that a program has on its worker.

use std::future::Future;
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;
use tokio::sync::watch;
use tokio::time::{Instant, timeout};

use crate::address::Address;
use crate::env::{self, EnvironmentError};
use crate::error::{EncodeError, ListenError, SendError};
use crate::link::{Extension, Link};
use crate::listen;
use crate::listener::{Listener, UdpSocket, UnixListener};
use crate::message::Message;
use crate::session::{Phase, Session};

/// How long a worker that leaves waits for its primary to take note.
const LEAVE_DEADLINE: Duration = Duration::from_secs(5);

/// This process as a worker: its sockets, its messages, its end.
///
/// Clones are handles on the same worker. Dropping them changes nothing: like a Node worker, the process stays one
/// until [`run`](crate::run) returns, the process ends, or the primary closes the channel.
///
/// The channel is read by a task on the Tokio runtime in which the worker is first used.
#[derive(Clone, Debug)]
pub struct Worker {
    id: u64,
    slot: Option<u32>,
    primary: Primary,
}

#[derive(Clone, Debug)]
pub(crate) enum Primary {
    Linked(Arc<Link>),
    /// The program was started by hand: it binds its own sockets.
    Absent(watch::Sender<Phase>),
}

impl Worker {
    /// Takes this process's place as a worker, or returns `None` when no primary started it.
    ///
    /// Call it first thing in `main`: it takes the channel's variables out of the environment, so that processes
    /// which this one starts do not take the channel for theirs, and that is sound only before there is a second
    /// thread. The primary learns at once that the worker is up. [`run`](crate::run) does all of it for you.
    ///
    /// # Errors
    /// When the variables do not name a channel, when other threads run already, or when it is called twice.
    pub fn from_env() -> Result<Option<Self>, EnvironmentError> {
        env::take()?
            .map(|inherited| {
                let link = Link::new(inherited.socket, inherited.extension)
                    .map_err(|source| EnvironmentError::Channel { source })?;
                let primary = Primary::Linked(Arc::new(link));
                Ok(Self { id: inherited.id, slot: inherited.slot, primary })
            })
            .transpose()
    }

    /// Returns the worker on the other end of a channel that was made by
    /// [`worksong_channel::pair`], for primaries in the same process, such as in tests.
    pub fn on_channel(socket: OwnedFd, id: u64) -> io::Result<Self> {
        rustix::io::ioctl_fionbio(&socket, true)?;
        Ok(Self {
            id,
            slot: None,
            primary: Primary::Linked(Arc::new(Link::new(socket, Extension::Unspoken)?)),
        })
    }

    /// Returns a worker without a primary: it binds its sockets by itself and is never asked to leave.
    ///
    /// [`run`](crate::run) makes one when the program is started by hand.
    #[must_use]
    pub fn alone() -> Self {
        Self { id: 0, slot: Some(0), primary: Primary::Absent(watch::Sender::new(Phase::Serving)) }
    }

    /// Returns the worker's number: from 1, never used twice by one primary; 0 for a worker [alone](Self::alone).
    #[must_use]
    pub fn id(&self) -> u64 {
        self.id
    }

    /// Returns the worker's slot, the place `0..N-1` that its successor inherits; a Node primary has no slots.
    #[must_use]
    pub fn slot(&self) -> Option<u32> {
        self.slot
    }

    /// Returns true when no primary started this process.
    #[must_use]
    pub fn is_alone(&self) -> bool {
        matches!(self.primary, Primary::Absent(_))
    }

    /// Listens on a TCP address, together with all workers of the app.
    ///
    /// Whether the primary accepts and hands connections over, or shares its socket, is the primary's choice.
    ///
    /// # Errors
    /// When the address cannot be read or bound, or when the worker drains.
    ///
    /// # Cancel safety
    /// Dropping the future takes the request back.
    ///
    /// # Examples
    /// ```no_run
    /// # async fn example(worker: worksong_worker::Worker) -> Result<(), Box<dyn std::error::Error>> {
    /// let listener = worker.listen("127.0.0.1:8000").await?;
    /// let (stream, peer) = listener.accept().await?;
    /// # Ok(()) }
    /// ```
    pub async fn listen<A>(&self, address: A) -> Result<Listener, ListenError>
    where
        A: TryInto<Address>,
        ListenError: From<A::Error>,
    {
        listen::tcp(&self.primary, address.try_into()?).await
    }

    /// Listens on a Unix stream socket, together with all workers of the app.
    ///
    /// # Errors
    /// When the path is not UTF-8, when it cannot be bound, or when the worker drains.
    ///
    /// # Cancel safety
    /// Dropping the future takes the request back.
    pub async fn listen_unix(&self, path: impl AsRef<Path>) -> Result<UnixListener, ListenError> {
        listen::unix(&self.primary, path.as_ref()).await
    }

    /// Binds a UDP socket at an address that all workers of the app share: the kernel gives each datagram to one of them.
    ///
    /// With the policy `kernel` the datagrams of one client address and port go to one slot: what this worker remembers of
    /// a client, the next datagram of that client finds. A worker that has to leave is told so once it has read what had
    /// come for it.
    ///
    /// # Errors
    /// When the address cannot be read or bound, or when the worker drains.
    ///
    /// # Cancel safety
    /// Dropping the future takes the request back.
    pub async fn bind_udp<A>(&self, address: A) -> Result<UdpSocket, ListenError>
    where
        A: TryInto<Address>,
        ListenError: From<A::Error>,
    {
        listen::udp(&self.primary, address.try_into()?).await
    }

    /// Sends a message to the primary's program; without a primary it goes nowhere.
    ///
    /// # Errors
    /// When the value is no JSON, when the channel is closed, or when the primary has left 16 MiB unread.
    pub fn send<T: Serialize + ?Sized>(&self, message: &T) -> Result<(), SendError> {
        let body = serde_json::value::to_raw_value(message)
            .map_err(|error| SendError::Encode(EncodeError(error)))?;
        match &self.primary {
            Primary::Linked(link) => {
                // Outside a runtime the message is written as far as the primary reads; the rest waits for the task.
                let _started = link.ensure_task();
                link.step(|session| session.send(&body))
            }
            Primary::Absent(_) => Ok(()),
        }
    }

    /// Says that the worker is ready, for apps whose workers are ready when they say so.
    ///
    /// # Errors
    /// As [`send`](Self::send): it is the message `"ready"`.
    pub fn ready(&self) -> Result<(), SendError> {
        self.send("ready")
    }

    /// Asks for a successor, because of old age for instance. Serve on: once the successor is ready, this worker is
    /// [asked to finish](Self::draining) as in a reload.
    ///
    /// # Errors
    /// As [`send`](Self::send): it is the message `{"cmd":"disconnect"}`, which a Node primary hands to its program.
    pub fn recycle(&self) -> Result<(), SendError> {
        #[derive(Serialize)]
        struct Command {
            cmd: &'static str,
        }
        self.send(&Command { cmd: "disconnect" })
    }

    /// Returns the primary's next message; `None` when the channel is closed and all were read.
    ///
    /// Each message goes to one caller. Messages wait for the program, at most 1024 of them; when more come, the oldest
    /// is dropped and counted by [`missed_messages`](Self::missed_messages).
    ///
    /// # Cancel safety
    /// No message is lost when the future is dropped.
    pub async fn recv(&self) -> Option<Message> {
        let Primary::Linked(link) = &self.primary else {
            self.closed().await;
            return None;
        };
        link.ensure_task().ok()?;
        loop {
            let mut news = pin!(link.messages.notified());
            news.as_mut().enable();
            let (message, more, phase) = link.step(|session| {
                let phase = session.phase();
                let mailbox = session.mailbox();
                (mailbox.take(), mailbox.has_unread(), phase)
            });
            if more {
                link.messages.notify_one();
            }
            if message.is_some() || phase >= Phase::Closed {
                return message;
            }
            news.await;
        }
    }

    /// Returns how many messages were dropped because the program did not read them.
    #[must_use]
    pub fn missed_messages(&self) -> u64 {
        match &self.primary {
            Primary::Linked(link) => link.step(|session| session.mailbox().missed()),
            Primary::Absent(_) => 0,
        }
    }

    /// Returns a future that resolves when the worker has to finish: the primary asked it to, it
    /// [asked itself](Self::disconnect), a task panicked under [`run`](crate::run), or the primary is gone.
    ///
    /// From then on no connection comes; those that no `accept()` had taken have gone to other workers. It is
    /// what servers take as their shutdown signal, such as axum's `with_graceful_shutdown`. Because such servers close
    /// what has not sent a request yet, it resolves at the earliest 100 ms after the last connection was taken.
    ///
    /// # Cancel safety
    /// May be dropped and asked for again at any time.
    pub fn draining(&self) -> impl Future<Output = ()> + Send + use<> {
        let worker = self.clone();
        async move {
            worker.reached(Phase::Draining).await;
            if let Primary::Linked(link) = &worker.primary {
                link.first_requests().await;
            }
        }
    }

    /// Returns true once no connection comes any more; [`draining`](Self::draining) resolves then, or a moment later.
    #[must_use]
    pub fn is_draining(&self) -> bool {
        *self.phase().borrow() >= Phase::Draining
    }

    /// Waits until the channel is closed. By default a worker that loses its primary does not get there: the process
    /// ends at once, see [`outlive_primary`](Self::outlive_primary).
    ///
    /// # Cancel safety
    /// May be dropped and called again at any time.
    pub async fn closed(&self) {
        self.reached(Phase::Closed).await;
    }

    /// Leaves: no more connections come, [`draining`](Self::draining) resolves, and the exit that follows is
    /// no crash (`exitedAfterDisconnect`). The program is expected to finish and to end.
    ///
    /// Returns when the primary has taken note, at the latest after 5 seconds.
    ///
    /// # Cancel safety
    /// The worker leaves as soon as this is first polled, also when the future is dropped then.
    pub async fn disconnect(&self) {
        match &self.primary {
            Primary::Linked(link) => {
                link.step(|session| session.leave(Instant::now()));
                self.noted().await;
            }
            Primary::Absent(phase) => {
                phase.send_if_modified(|phase| {
                    let news = *phase == Phase::Serving;
                    *phase = Phase::Draining.max(*phase);
                    news
                });
            }
        }
    }

    /// Lets the process live on when its primary is gone: [`draining`](Self::draining) and
    /// [`closed`](Self::closed) resolve, and the rest is the program's.
    ///
    /// Without it the process ends at once with code 0, requests or not, as a Node worker does: a worker
    /// without a primary would hold memory and sockets that nobody knows of.
    pub fn outlive_primary(&self) {
        if let Primary::Linked(link) = &self.primary {
            link.outlive_primary();
        }
    }

    /// Waits until the primary has taken note that the worker leaves, if it was told so, at the latest 5 seconds.
    ///
    /// A Node primary that writes its note to a closed channel dies of EPIPE.
    pub(crate) async fn noted(&self) {
        let Primary::Linked(link) = &self.primary else { return };
        let Some(bell) = link.step(|session| session.awaits_note()) else { return };
        if link.ensure_task().is_err() {
            return;
        }
        let noted = async {
            loop {
                let mut rung = pin!(bell.notified());
                rung.as_mut().enable();
                if link.step(|session| session.awaits_note()).is_none() {
                    return;
                }
                rung.await;
            }
        };
        // A primary that does not answer is no reason to stay.
        let _late = timeout(LEAVE_DEADLINE, noted).await;
    }

    /// Closes the channel; the worker's process is expected to end now.
    pub(crate) fn close(&self) {
        match &self.primary {
            Primary::Linked(link) => link.step(Session::close),
            Primary::Absent(phase) => {
                phase.send_replace(Phase::Closed);
            }
        }
    }

    /// Makes the worker leave because a task panicked; takes no lock.
    pub(crate) fn note_panic(&self) {
        if let Primary::Linked(link) = &self.primary {
            link.note_panic();
        }
    }

    fn phase(&self) -> watch::Receiver<Phase> {
        self.primary.phase()
    }

    async fn reached(&self, phase: Phase) {
        if let Primary::Linked(link) = &self.primary
            && link.ensure_task().is_err()
        {
            // Nothing reads the channel: the worker cannot stay.
            return;
        }
        // Fails only without a sender, and this handle holds it.
        let mut watch = self.phase();
        let _never = watch.wait_for(|reached| *reached >= phase).await;
    }
}

impl Primary {
    pub(crate) fn phase(&self) -> watch::Receiver<Phase> {
        match self {
            Self::Linked(link) => link.phase(),
            Self::Absent(phase) => phase.subscribe(),
        }
    }
}
