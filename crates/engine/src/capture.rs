//! Programs that bind their ports by themselves, unmodified, on many workers.
//!
//! A seccomp filter, set between fork and exec, makes the kernel ask us about every `bind` and `listen` of a worker and
//! of what it starts. A `bind` to an address that the app owns is not made: the socket of the program is replaced, at its
//! own number, by one of the [slots](crate::slots), which is bound to that address already. Everything else goes on as if
//! nobody had asked. Nothing is asked once a program listens: connections cost nothing.
//!
//! Questions are answered by a thread of its own. It asks the kernel about the process that waits, and nobody else. The same
//! thread sees to the sockets of all apps whose workers accept by themselves.

mod answer;
mod asker;
mod datagrams;
mod interest;
mod notify;
mod options;
mod patience;
mod replace;
mod rights;
mod unix;
mod upkeep;

use std::collections::HashMap;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, TryRecvError, sync_channel};
use std::thread;
use std::time::Instant;

use rustix::event::{EventfdFlags, Timespec, epoll, eventfd};
use rustix::io::Errno;

use self::notify::Notifier;
use self::patience::Delayed;
use crate::ids::{AppId, WorkerId};
use crate::listen::Address;
use crate::process::mark::Mark;
use crate::shortage::Shortage;
use crate::slots::{Identity, Sight, Slots};
use crate::spec::CaptureAddress;

/// How many orders may wait; the control plane waits when there are more.
const WAITING: usize = 256;
/// The token of the eventfd.
const WAKE: u64 = 0;

/// A worker whose questions are answered.
#[derive(Debug)]
pub(crate) struct Watch {
    pub(crate) worker: WorkerId,
    pub(crate) notifier: OwnedFd,
    pub(crate) slots: Slots,
    /// The addresses that the app owns, paths as they are seen from here; none: every TCP port.
    pub(crate) addresses: Vec<CaptureAddress>,
    /// The first process of the worker.
    pub(crate) leader: u32,
    pub(crate) mark: Mark,
}

/// What the thread is told.
#[derive(Debug)]
enum Order {
    Watch(Watch),
    Tend(AppId, Slots),
    Leave(AppId),
}

/// What was seen of a worker, or of an app's sockets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum CaptureFact {
    /// It listens at one of its entrances, or reads datagrams there.
    Listening {
        worker: WorkerId,
        address: Address,
    },
    /// The address could not be bound; it was told so.
    Failed {
        worker: WorkerId,
        address: String,
        errno: i32,
    },
    /// What it does cannot be seen; it binds by itself.
    Blind {
        worker: WorkerId,
        error: String,
    },
    Seen {
        app: AppId,
        sight: Sight,
    },
    /// Something could not be done, or has to wait, for want of this.
    Short(Shortage),
}

/// The thread's handle. Dropping it ends the thread.
#[derive(Debug)]
pub(crate) struct Capture {
    orders: SyncSender<Order>,
    wake: Arc<OwnedFd>,
}

impl Capture {
    /// Starts the thread.
    pub(crate) fn start(tell: impl Fn(CaptureFact) + Send + 'static) -> io::Result<Self> {
        let (orders, inbox) = sync_channel(WAITING);
        let wake = Arc::new(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?);
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        epoll::add(&epoll, &wake, epoll::EventData::new_u64(WAKE), epoll::EventFlags::IN)?;
        let desk = Watcher { epoll, wake: Arc::clone(&wake), inbox, watched: HashMap::new(), last: WAKE };
        thread::Builder::new().name("worksong-capture".to_owned()).spawn(move || desk.run(&tell))?;
        Ok(Self { orders, wake })
    }

    /// Answers a worker's questions from now on, until it and all that it started have ended.
    pub(crate) fn watch(&self, watch: Watch) {
        self.order(Order::Watch(watch));
    }

    /// Sees to the sockets of an app from now on.
    pub(crate) fn tend(&self, app: AppId, slots: Slots) {
        self.order(Order::Tend(app, slots));
    }

    /// Closes its copies of an app's sockets: the app has ended.
    pub(crate) fn leave(&self, app: AppId) {
        self.order(Order::Leave(app));
    }

    fn order(&self, order: Order) {
        // The thread ends only after this sender is dropped.
        let _ended = self.orders.send(order);
        self.wake();
    }

    fn wake(&self) {
        // Full means that a wake-up is pending already.
        let _pending = rustix::io::write(&self.wake, &1_u64.to_ne_bytes());
    }
}

/// The state of the thread.
struct Watcher {
    epoll: OwnedFd,
    wake: Arc<OwnedFd>,
    inbox: Receiver<Order>,
    watched: HashMap<u64, Subject>,
    last: u64,
}

/// What a token stands for.
#[derive(Debug)]
enum Subject {
    Worker(Watched),
    /// The sockets of an app.
    App(AppId, Slots),
}

#[derive(Debug)]
struct Watched {
    worker: WorkerId,
    notifier: Notifier,
    slots: Slots,
    addresses: Vec<CaptureAddress>,
    leader: u32,
    mark: Mark,
    /// The sockets that it is known to listen on.
    listening: Vec<Identity>,
    refused: Refused,
    /// The questions that could not be answered yet.
    delayed: Vec<Delayed>,
    /// It was told that what the worker does cannot be seen.
    is_blind: bool,
}

/// How often a worker could not have an address since then.
#[derive(Debug)]
struct Refused {
    since: Instant,
    count: u32,
}

impl From<Watch> for Watched {
    fn from(watch: Watch) -> Self {
        let Watch { worker, notifier, slots, addresses, leader, mark } = watch;
        Self {
            worker,
            notifier: Notifier::new(notifier),
            slots,
            addresses,
            leader,
            mark,
            listening: Vec::new(),
            refused: Refused { since: Instant::now(), count: 0 },
            delayed: Vec::new(),
            is_blind: false,
        }
    }
}

impl Subject {
    fn worker(&self) -> Option<&Watched> {
        match self {
            Self::Worker(watched) => Some(watched),
            Self::App(..) => None,
        }
    }
}

impl Watcher {
    fn run(mut self, tell: &dyn Fn(CaptureFact)) {
        let mut room = [const { MaybeUninit::uninit() }; 64];
        loop {
            let next = self.next_look().into_iter().chain(self.next_try()).min();
            let look_in = next.map(|at| at.saturating_duration_since(Instant::now()));
            let timeout = look_in.and_then(|time| Timespec::try_from(time).ok());
            let events = match epoll::wait(&self.epoll, &mut room[..], timeout.as_ref()) {
                Ok((events, _rest)) => events,
                Err(Errno::INTR) => continue,
                Err(error) => {
                    unreachable!("invariant: waiting on an own epoll instance cannot fail: {error}")
                }
            };
            for event in events {
                // The kernel's struct is packed: its fields can be copied, not borrowed.
                let (token, flags) = (event.data.u64(), event.flags);
                if token == WAKE {
                    if self.on_wake(tell).is_err() {
                        return;
                    }
                } else if flags.contains(epoll::EventFlags::IN) {
                    self.answer(token, tell);
                } else {
                    // Nobody has the filter any more.
                    self.forget(token);
                }
            }
            self.try_again(tell);
            self.look(tell);
        }
    }

    /// Takes new orders; an error when nobody sends any more.
    fn on_wake(&mut self, tell: &dyn Fn(CaptureFact)) -> Result<(), TryRecvError> {
        let mut count = [0; 8];
        let _empty = rustix::io::read(&self.wake, &mut count);
        loop {
            match self.inbox.try_recv() {
                Ok(Order::Watch(watch)) => self.watch(watch, tell),
                Ok(Order::Tend(app, slots)) => self.tend(app, slots, tell),
                Ok(Order::Leave(app)) => self.leave(app),
                Err(TryRecvError::Empty) => return Ok(()),
                Err(error @ TryRecvError::Disconnected) => return Err(error),
            }
        }
    }

    fn watch(&mut self, watch: Watch, tell: &dyn Fn(CaptureFact)) {
        self.last += 1;
        let data = epoll::EventData::new_u64(self.last);
        // Without memory for it the descriptor is closed, and the worker's calls fail: better than waiting for ever.
        match epoll::add(&self.epoll, &watch.notifier, data, epoll::EventFlags::IN) {
            Ok(()) => drop(self.watched.insert(self.last, Subject::Worker(watch.into()))),
            Err(_full) => tell(CaptureFact::Short(Shortage::Memory)),
        }
    }

    fn tend(&mut self, app: AppId, slots: Slots, tell: &dyn Fn(CaptureFact)) {
        self.last += 1;
        let data = epoll::EventData::new_u64(self.last);
        // Without memory for it nothing is seen to, and connections are served all the same.
        match epoll::add(&self.epoll, slots.signs(), data, epoll::EventFlags::IN) {
            Ok(()) => drop(self.watched.insert(self.last, Subject::App(app, slots))),
            Err(_full) => tell(CaptureFact::Short(Shortage::Memory)),
        }
    }

    fn leave(&mut self, app: AppId) {
        self.watched.retain(|_, subject| match subject {
            Subject::App(known, slots) if *known == app => {
                // A handle may live a little longer.
                let _gone = epoll::delete(&self.epoll, slots.signs());
                false
            }
            Subject::App(..) | Subject::Worker(_) => true,
        });
    }

    fn answer(&mut self, token: u64, tell: &dyn Fn(CaptureFact)) {
        let has_ended = match self.watched.get_mut(&token) {
            Some(Subject::Worker(watched)) => watched.serve(tell).is_err(),
            Some(Subject::App(_, slots)) => {
                slots.attend(Instant::now());
                false
            }
            None => false,
        };
        if has_ended {
            self.forget(token);
        }
    }

    /// Returns when a question is tried again that could not be answered.
    fn next_try(&self) -> Option<Instant> {
        self.watched.values().filter_map(Subject::worker).filter_map(Watched::next_try).min()
    }

    fn try_again(&mut self, tell: &dyn Fn(CaptureFact)) {
        for subject in self.watched.values_mut() {
            match subject {
                Subject::Worker(watched) => watched.try_again(tell),
                Subject::App(..) => {}
            }
        }
    }

    fn forget(&mut self, token: u64) {
        let Some(Subject::Worker(watched)) = self.watched.remove(&token) else { return };
        watched.slots.unix().restore();
        // Closing it would do the same, if nothing had a copy.
        let _gone = epoll::delete(&self.epoll, &watched.notifier);
    }
}

impl Drop for Capture {
    fn drop(&mut self) {
        // Its end of the queue closes first, or the thread would see it open and wait again.
        let (closed, _inbox) = sync_channel(1);
        self.orders = closed;
        self.wake();
    }
}

#[cfg(test)]
mod tests;
