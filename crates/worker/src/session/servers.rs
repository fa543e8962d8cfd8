//! The program's servers: asking for them, and the connections that wait for the program.

use std::collections::VecDeque;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Notify, oneshot};
use tokio::time::Instant;
use worksong_channel::message::{AddressType, Reply, ServerQuery, ServerReply, encode};

use super::{FIRST_REQUEST, Phase, Question, Session};

/// How long a connection waits for a program that does not accept, before another worker may have it.
const HOLD: Duration = Duration::from_secs(1);
/// How many connections wait per server. A primary has far fewer in flight; more go back at once.
const MAX_WAITING: usize = 1024;

/// The primary's answer to a query: an errno, or a server.
#[derive(Debug)]
pub(crate) struct Granted {
    pub(crate) reply: ServerReply,
    /// The socket itself, when this worker is to accept from it.
    pub(crate) socket: Option<OwnedFd>,
    /// Rung when a connection waits for this server, and when the server is no more.
    pub(crate) bell: Arc<Notify>,
}

/// A server of this worker.
#[derive(Debug)]
pub(super) struct Server {
    place: Place,
    waiting: VecDeque<Waiting>,
    arrival: Arrival,
    pub(super) bell: Arc<Notify>,
}

/// A connection that the program has not taken yet.
#[derive(Debug)]
pub(super) struct Waiting {
    pub(super) connection: OwnedFd,
    pub(super) seq: u64,
    pub(super) since: Instant,
}

/// What becomes of the connection that the program took last.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Arrival {
    /// The program's own affair.
    #[default]
    Uncounted,
    /// It was counted, or it is gone already.
    Over,
    /// It is about to be counted.
    UnderWay,
}

/// What makes two queries be about the same address.
pub(super) type Place = (Option<String>, Option<i64>, AddressType);

/// The servers of one place: a query's `index` counts them while any of them is open.
#[derive(Debug, Default)]
pub(super) struct Opened {
    open: usize,
    next_index: u64,
}

/// What [`Session::take_connection`] found.
#[derive(Debug)]
pub(crate) enum Taken {
    Connection(OwnedFd),
    NoneWaits,
    /// The server is closed: the worker drains.
    ServerClosed,
}

impl Session {
    pub(super) fn on_connection(&mut self, key: &str, waiting: Waiting) {
        match self.servers.get_mut(key) {
            Some(server) if server.waiting.len() < MAX_WAITING => {
                server.waiting.push_back(waiting);
                server.bell.notify_one();
            }
            Some(_) | None => self.answer_connection(waiting.seq, false),
        }
    }

    pub(super) fn on_reply(&mut self, reply: Reply, socket: Option<OwnedFd>) {
        match (self.questions.remove(&reply.ack), reply.server) {
            (Some(Question::Leave), _) => self.noted.notify_waiters(),
            (Some(Question::Server { place, answer }), Some(reply)) => {
                self.on_granted(place, answer, *reply, socket);
            }
            // An answer without a key answers nothing: the asker sees its question dropped.
            (Some(Question::Server { place, .. }), None) => self.forget(&place),
            // The asker gave up, or the worker drains: the primary shall not count on this server.
            (None, Some(reply)) if reply.errno == 0 && !self.servers.contains_key(&reply.key) => {
                self.send_close(&reply.key);
            }
            (None, _) => {}
        }
    }

    fn on_granted(
        &mut self,
        place: Place,
        answer: oneshot::Sender<Granted>,
        mut reply: ServerReply,
        socket: Option<OwnedFd>,
    ) {
        // Node 22 and newer answer a second query for a fixed port with the first one's key: one key, one server.
        if reply.errno == 0 && self.servers.contains_key(&reply.key) {
            reply.errno = -i64::from(rustix::io::Errno::ADDRINUSE.raw_os_error());
        }
        let key = (reply.errno == 0).then(|| reply.key.clone());
        let bell = Arc::new(Notify::new());
        match &key {
            Some(key) => {
                let server = Server {
                    place,
                    waiting: VecDeque::new(),
                    arrival: Arrival::default(),
                    bell: Arc::clone(&bell),
                };
                self.servers.insert(key.clone(), server);
            }
            None => self.forget(&place),
        }
        if answer.send(Granted { reply, socket, bell }).is_err()
            && let Some(key) = key
        {
            self.close_server(&key);
        }
    }

    /// Asks the primary for a server; `None` when the worker drains.
    pub(crate) fn ask_server(
        &mut self,
        query: &mut ServerQuery,
    ) -> Option<(u64, oneshot::Receiver<Granted>)> {
        if self.phase != Phase::Serving {
            return None;
        }
        let place = (query.address.clone(), query.port, query.address_type);
        let opened = self.opened.entry(place.clone()).or_default();
        query.index = opened.next_index;
        opened.next_index += 1;
        opened.open += 1;
        let (answer, receiver) = oneshot::channel();
        let seq = self.seq();
        self.questions.insert(seq, Question::Server { place, answer });
        self.write(encode::query_server(query, seq));
        Some((seq, receiver))
    }

    /// Stops waiting for the answer to a query; a late one is answered by `close`.
    pub(crate) fn cancel(&mut self, seq: u64) {
        if let Some(Question::Server { place, .. }) = self.questions.remove(&seq) {
            self.forget(&place);
        }
    }

    /// Tells the primary that a server listens; `query` holds the real port.
    pub(crate) fn listening(&mut self, query: &ServerQuery) {
        let seq = self.seq();
        self.write(encode::listening(query, seq));
    }

    /// Takes the connection that waits longest, and tells the primary in the same step.
    pub(crate) fn take_connection(&mut self, key: &str, bell: &Arc<Notify>, now: Instant) -> Taken {
        let Some(server) = self.server(key, bell) else {
            return Taken::ServerClosed;
        };
        let next = server.waiting.pop_front();
        match (server.arrival, &next) {
            (Arrival::Uncounted, _) | (Arrival::Over, None) => {}
            (Arrival::Over | Arrival::UnderWay, Some(_)) => server.arrival = Arrival::UnderWay,
            // Whoever asks for the next one has counted the last one, or dropped it.
            (Arrival::UnderWay, None) => {
                server.arrival = Arrival::Over;
                self.count_changed(now);
            }
        }
        let Some(Waiting { connection, seq, .. }) = next else { return Taken::NoneWaits };
        self.note_counted(key);
        self.answer_connection(seq, true);
        self.note_taken(now);
        Taken::Connection(connection)
    }

    /// Notes that the program takes a connection of this server, counted or not. Before it is said that it was taken.
    pub(crate) fn note_counted(&mut self, key: &str) {
        if self.servers.get(key).is_some_and(|server| server.arrival == Arrival::Uncounted) {
            self.takes_uncounted();
        }
    }

    /// Counts every connection of this server: what takes them one after the other enters each, or drops it.
    #[cfg(feature = "serve")]
    pub(crate) fn count_connections_of(&mut self, key: &str) {
        if let Some(server) = self.servers.get_mut(key) {
            server.arrival = Arrival::Over;
        }
    }

    /// Returns how many connections were taken, and are about to be counted.
    pub(super) fn arriving(&self) -> u64 {
        self.servers.values().filter(|server| server.arrival == Arrival::UnderWay).count() as u64
    }

    /// Notes that the connection which the server took last is counted.
    #[cfg(feature = "serve")]
    pub(super) fn has_arrived(&mut self, key: &str) {
        if let Some(server) = self.servers.get_mut(key) {
            server.arrival = Arrival::Over;
        }
    }

    /// Notes that the program has a new connection.
    pub(crate) fn note_taken(&mut self, now: Instant) {
        self.last_taken = Some(now);
    }

    /// Returns until when a worker that drains lets new connections send their first request.
    pub(crate) fn finishes_at(&self) -> Option<Instant> {
        self.last_taken.filter(|_| self.phase == Phase::Draining).map(|taken| taken + FIRST_REQUEST)
    }

    /// Returns when the connection that waits longest goes back.
    pub(super) fn gives_back_at(&self) -> Option<Instant> {
        let oldest = self.servers.values().filter_map(|server| server.waiting.front());
        oldest.map(|waiting| waiting.since + HOLD).min()
    }

    /// Returns connections to the primary that the program did not take in time.
    pub(super) fn give_back(&mut self, now: Instant) {
        let mut late = Vec::new();
        for server in self.servers.values_mut() {
            while let Some(waiting) = server.waiting.pop_front_if(|waiting| waiting.since + HOLD <= now) {
                late.push(waiting.seq);
            }
        }
        for seq in late {
            self.answer_connection(seq, false);
        }
    }

    /// Closes the server that the program dropped.
    pub(crate) fn release(&mut self, key: &str, bell: &Arc<Notify>) {
        if self.server(key, bell).is_some() {
            self.close_server(key);
        }
    }

    /// Returns the server with this key, unless it is a newer one than the asker's.
    fn server(&mut self, key: &str, bell: &Arc<Notify>) -> Option<&mut Server> {
        self.servers.get_mut(key).filter(|server| Arc::ptr_eq(&server.bell, bell))
    }

    /// Closes one server: its waiting connections go back.
    pub(super) fn close_server(&mut self, key: &str) {
        let Some(server) = self.servers.remove(key) else {
            return;
        };
        self.forget(&server.place);
        for waiting in server.waiting {
            self.answer_connection(waiting.seq, false);
        }
        self.send_close(key);
        server.bell.notify_waiters();
    }

    pub(super) fn answer_connection(&mut self, ack: u64, accepted: bool) {
        let seq = self.seq();
        self.write(encode::accepted(ack, accepted, seq));
    }

    fn send_close(&mut self, key: &str) {
        let seq = self.seq();
        self.write(encode::close(key, seq));
    }

    fn forget(&mut self, place: &Place) {
        if let Some(opened) = self.opened.get_mut(place) {
            opened.open = opened.open.saturating_sub(1);
            if opened.open == 0 {
                self.opened.remove(place);
            }
        }
    }
}
