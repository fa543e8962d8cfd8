//! Which open connection goes back when the primary asks for one, and when the answer is "none".
//!
//! `none asked → asked of one → sent → none asked`; with `wait`, also `awaited`: the first one that becomes idle takes
//! the request. There is never a second request before the answer to the first.
//!
//! Nothing here knows whether a connection *can* move: its own task decides that, between two steps of its protocol.
//! Here stands only what it said of itself ([`Standing`]), where to look, and whose turn it is.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::Waker;

use tokio::sync::oneshot;
use worksong_channel::message::{Extension, HandleAnswer};

/// The open connections that are counted, and the primary's request for one of them.
#[derive(Debug, Default)]
pub(crate) struct Giving {
    connections: BTreeMap<u64, Connection>,
    next_id: u64,
    /// A server has ended that counts, perhaps without ever having had a connection.
    counts: bool,
    /// Where the search for an idle one goes on, so that those which are not are not asked again and again.
    cursor: u64,
    request: Request,
    /// Read by every connection that has become idle, without the lock.
    awaited: Arc<AtomicBool>,
}

/// A connection, as far as giving it goes.
#[derive(Debug)]
enum Connection {
    Movable(Arc<Standing>),
    /// It left HTTP for another protocol, whose state is in this process.
    Upgraded,
}

/// How far the primary's request is.
#[derive(Debug, Default)]
enum Request {
    #[default]
    None,
    /// This connection was asked and has not answered.
    Asked { id: u64, wait: bool },
    /// None is idle; the first one that becomes so takes the request.
    Awaited,
    /// This connection is on its way to the primary.
    Sent { id: u64, answer: oneshot::Sender<HandleAnswer> },
}

/// What a connection says of itself, and how it is woken.
#[derive(Debug, Default)]
pub(crate) struct Standing {
    idle: AtomicBool,
    asked: AtomicBool,
    waker: Mutex<Option<Waker>>,
}

impl Standing {
    /// Notes who is to be woken.
    pub(crate) fn set_waker(&self, waker: &Waker) {
        let mut known = self.waker.lock().unwrap_or_else(PoisonError::into_inner);
        if !known.as_ref().is_some_and(|known| known.will_wake(waker)) {
            *known = Some(waker.clone());
        }
    }

    /// Notes whether the connection is idle now.
    pub(crate) fn set_idle(&self, idle: bool) {
        self.idle.store(idle, Ordering::SeqCst);
    }

    /// Lets the connection look again at how it stands.
    pub(crate) fn wake(&self) {
        if let Some(waker) = &*self.waker.lock().unwrap_or_else(PoisonError::into_inner) {
            waker.wake_by_ref();
        }
    }

    /// Returns true, once, when the connection was asked.
    pub(crate) fn take_asked(&self) -> bool {
        // The plain look spares what serves requests a write.
        self.asked.load(Ordering::SeqCst) && self.asked.swap(false, Ordering::SeqCst)
    }

    fn ask(&self) {
        self.asked.store(true, Ordering::SeqCst);
        self.wake();
    }
}

impl Giving {
    /// Returns what is true while a connection that becomes idle should [`claim`](Self::claim) the request.
    pub(crate) fn awaited(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.awaited)
    }

    /// Notes that a server takes no more connections, and has told of all that it took.
    #[cfg(feature = "serve")]
    pub(crate) fn has_told_all(&mut self) {
        self.counts = true;
    }

    /// Returns true when connections are counted: else the program's are not known here.
    pub(crate) fn counts(&self) -> bool {
        self.counts || self.next_id > 0
    }

    /// Returns how many connections are open.
    pub(crate) fn open(&self) -> u64 {
        self.connections.len() as u64
    }

    /// Returns true between a request and the end of what follows from it.
    pub(crate) fn is_asked(&self) -> bool {
        !matches!(self.request, Request::None)
    }

    /// Counts a new connection and returns its number.
    pub(crate) fn enter(&mut self, standing: Arc<Standing>) -> u64 {
        let id = self.next_id;
        self.next_id += 1;
        self.connections.insert(id, Connection::Movable(standing));
        id
    }

    /// Notes that a connection cannot be given any more, although it is open.
    pub(crate) fn upgraded(&mut self, id: u64) -> Option<Extension> {
        if let Some(connection) = self.connections.get_mut(&id) {
            *connection = Connection::Upgraded;
        }
        self.without(id)
    }

    /// Notes that a connection is closed.
    pub(crate) fn left(&mut self, id: u64) -> Option<Extension> {
        self.connections.remove(&id);
        self.without(id)
    }

    /// Takes the primary's request for one connection; returns the answer if it is known at once.
    pub(crate) fn request(&mut self, wait: bool) -> Option<Extension> {
        match self.request {
            Request::None => self.look(wait),
            // Against the protocol; the answer to the first one is an answer to both.
            Request::Asked { .. } | Request::Awaited | Request::Sent { .. } => None,
        }
    }

    /// Returns true when this connection, which is idle, shall be given; else its request is another's now, or gone.
    pub(crate) fn claim(&mut self, id: u64) -> bool {
        match self.request {
            Request::Asked { id: asked, .. } => asked == id,
            Request::Awaited => {
                self.set(Request::Asked { id, wait: true });
                true
            }
            Request::None | Request::Sent { .. } => false,
        }
    }

    /// Asks another connection than this one, which cannot be given now.
    pub(crate) fn decline(&mut self, id: u64) -> Option<Extension> {
        match self.request {
            Request::Asked { id: asked, wait } if asked == id => self.look(wait),
            Request::Asked { .. } | Request::None | Request::Awaited | Request::Sent { .. } => None,
        }
    }

    /// Notes that the connection which was asked is on its way; the primary says by `answer` whether it arrived.
    pub(crate) fn sent(&mut self, id: u64, answer: oneshot::Sender<HandleAnswer>) {
        debug_assert!(
            matches!(self.request, Request::Asked { id: asked, .. } if asked == id),
            "it was asked"
        );
        self.set(Request::Sent { id, answer });
    }

    /// Takes the primary's answer to the connection that was sent. One that arrived is not ours any more.
    pub(crate) fn answered(&mut self, said: HandleAnswer) {
        if let Request::Sent { id, answer } = std::mem::take(&mut self.request) {
            match said {
                HandleAnswer::Ack => drop(self.connections.remove(&id)),
                HandleAnswer::Nack => {}
            }
            // Nobody waits when the connection's task was dropped, and its copy with it.
            let _dropped = answer.send(said);
        }
    }

    /// Forgets the request: the channel is closed.
    pub(crate) fn end(&mut self) {
        self.set(Request::None);
    }

    /// Goes on with the request when the connection that it concerned is not to be had any more.
    fn without(&mut self, id: u64) -> Option<Extension> {
        match self.request {
            Request::Asked { id: asked, wait } if asked == id => self.look(wait),
            Request::Awaited if !self.has_movable() => Some(self.nothing()),
            Request::Asked { .. } | Request::None | Request::Awaited | Request::Sent { .. } => None,
        }
    }

    /// Asks the next idle connection; without one, waits or answers.
    fn look(&mut self, wait: bool) -> Option<Extension> {
        if wait {
            // Before the look: whoever becomes idle meanwhile reads it, or is seen.
            self.awaited.store(true, Ordering::SeqCst);
        }
        let idle = |(id, connection): (&u64, &Connection)| match connection {
            Connection::Movable(standing) if standing.idle.load(Ordering::SeqCst) => {
                Some((*id, Arc::clone(standing)))
            }
            Connection::Movable(_) | Connection::Upgraded => None,
        };
        let behind = self.connections.range(self.cursor..).find_map(idle);
        let found = behind.or_else(|| self.connections.range(..self.cursor).find_map(idle));
        match found {
            Some((id, standing)) => {
                self.cursor = id + 1;
                self.set(Request::Asked { id, wait });
                standing.ask();
                None
            }
            None if wait && self.has_movable() => {
                self.set(Request::Awaited);
                None
            }
            None => Some(self.nothing()),
        }
    }

    fn nothing(&mut self) -> Extension {
        self.set(Request::None);
        Extension::Nothing { open: self.open() }
    }

    fn has_movable(&self) -> bool {
        self.connections.values().any(|connection| matches!(connection, Connection::Movable(_)))
    }

    fn set(&mut self, request: Request) {
        self.awaited.store(matches!(request, Request::Awaited), Ordering::SeqCst);
        self.request = request;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A connection of a test: whether it was asked is looked at by hand.
    fn enter(giving: &mut Giving, idle: bool) -> (u64, Arc<Standing>) {
        let standing = Arc::new(Standing::default());
        standing.set_waker(Waker::noop());
        standing.set_idle(idle);
        (giving.enter(Arc::clone(&standing)), standing)
    }

    fn nothing(open: u64) -> Extension {
        Extension::Nothing { open }
    }

    #[test]
    fn without_connections_there_is_nothing_to_give() {
        for wait in [false, true] {
            assert_eq!(Giving::default().request(wait), Some(nothing(0)));
        }
    }

    #[test]
    fn idle_connections_are_asked_in_turn_until_none_is_left() {
        let mut giving = Giving::default();
        let (busy, _) = enter(&mut giving, false);
        let idle = [enter(&mut giving, true), enter(&mut giving, true)];
        for (id, standing) in idle {
            assert_eq!(giving.request(false), None);
            assert!(standing.take_asked() && !standing.take_asked());
            assert!(!giving.claim(busy), "another one was asked");
            assert!(giving.claim(id));
            let (answer, mut answered) = oneshot::channel();
            giving.sent(id, answer);
            assert!(giving.is_asked(), "until the primary says that it arrived");
            giving.answered(HandleAnswer::Ack);
            assert_eq!(answered.try_recv(), Ok(HandleAnswer::Ack));
            assert!(!giving.is_asked());
        }
        assert_eq!(giving.request(false), Some(nothing(1)));
    }

    #[test]
    fn one_that_declines_or_closes_passes_the_request_on() {
        let mut giving = Giving::default();
        let idle = [enter(&mut giving, true), enter(&mut giving, true), enter(&mut giving, true)];
        assert_eq!(giving.request(false), None);
        assert!(idle[0].1.take_asked());
        idle[0].1.set_idle(false);
        assert_eq!(giving.decline(idle[0].0), None);
        assert!(idle[1].1.take_asked());
        assert_eq!(giving.left(idle[1].0), None);
        assert!(idle[2].1.take_asked());
        assert_eq!(giving.decline(idle[0].0), None, "it is not its turn");
        assert_eq!(giving.upgraded(idle[2].0), Some(nothing(2)));
    }

    #[test]
    fn whoever_becomes_idle_first_takes_a_request_that_waits() {
        let mut giving = Giving::default();
        let awaited = giving.awaited();
        let (first, _) = enter(&mut giving, false);
        let (second, _) = enter(&mut giving, false);
        assert_eq!(giving.request(true), None);
        assert!(awaited.load(Ordering::SeqCst));
        assert!(giving.claim(second));
        assert!(!awaited.load(Ordering::SeqCst) && !giving.claim(first));
        assert_eq!(giving.decline(second), None);
        assert!(awaited.load(Ordering::SeqCst), "it waits on");
        assert_eq!(giving.left(second), None);
        assert_eq!(giving.upgraded(first), Some(nothing(1)), "what was upgraded never becomes idle");
        assert!(!awaited.load(Ordering::SeqCst));
    }

    #[test]
    fn a_connection_that_did_not_arrive_is_still_ours() {
        let mut giving = Giving::default();
        let (id, _standing) = enter(&mut giving, true);
        assert_eq!(giving.request(false), None);
        let (answer, mut answered) = oneshot::channel();
        giving.sent(id, answer);
        assert_eq!(giving.request(true), None, "never a second one before the answer");
        giving.answered(HandleAnswer::Nack);
        assert_eq!(answered.try_recv(), Ok(HandleAnswer::Nack));
        assert_eq!((giving.open(), giving.is_asked()), (1, false));
        giving.answered(HandleAnswer::Ack);
        assert_eq!(giving.open(), 1, "an answer that is not owed changes nothing");
    }
}
