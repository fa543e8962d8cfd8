//! What a worker knows of its channel: its servers, its open questions, the connections that wait.
//!
//! A connection is answered (`accepted: true`) in the same step that hands it to the program, never before: until
//! then the primary keeps its copy and can give it to another worker. So a connection that waits here when the
//! worker drains, or whose server the program dropped, goes back and is not lost.

mod extension;
mod servers;

use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use serde_json::value::RawValue;
use tokio::sync::{Notify, oneshot};
use tokio::time::Instant;
use worksong_channel::channel::Progress;
use worksong_channel::message::{Cluster, DecodeError, Handle, HandleAnswer, SocketList, encode};
use worksong_channel::{Channel, Incoming};

use self::extension::{Farewell, Report};
pub(crate) use self::servers::{Granted, Taken};
use self::servers::{Opened, Place, Server, Waiting};
use crate::error::SendError;
use crate::giving::Giving;
use crate::message::{Mailbox, Message};

/// How long after the last connection was taken the program hears that it has to finish.
///
/// Servers such as hyper and axum close at that moment what has not sent a request yet, and the request of a connection
/// that was taken just now may not be read yet, or be on its way.
const FIRST_REQUEST: Duration = Duration::from_millis(100);
/// How long to wait when the system has no room for one more descriptor in flight.
const EXHAUSTED: Duration = Duration::from_millis(10);

/// How far a worker is on its way out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Phase {
    /// It takes connections.
    Serving,
    /// It takes no more connections and finishes what it has. What is idle may move to another worker.
    Draining,
    /// What is left stays here: connections end as soon as they can.
    Parting,
    /// It closed the channel by itself.
    Closed,
    /// The primary is gone.
    Lost,
}

/// The worker's side of one channel.
#[derive(Debug)]
pub(crate) struct Session {
    channel: Channel,
    /// Never `Parting`, which [`phase`](Self::phase) makes of it.
    phase: Phase,
    farewell: Farewell,
    /// How long a worker that leaves by itself waits for the primary to take connections back.
    patience: Duration,
    giving: Giving,
    report: Report,
    /// Answers owed to handle messages; they go before everything else, in one write with it.
    answers: Vec<u8>,
    next_seq: u64,
    questions: HashMap<u64, Question>,
    servers: HashMap<String, Server>,
    opened: HashMap<Place, Opened>,
    mailbox: Mailbox,
    /// When the program took a connection the last time.
    last_taken: Option<Instant>,
    /// Rung when the primary took note that the worker leaves.
    noted: Arc<Notify>,
}

/// What the task that reads the channel waits for besides messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Watched {
    has_unsent: bool,
    is_exhausted: bool,
    farewell_at: Option<Instant>,
}

/// What a reply of the primary is waited for by.
#[derive(Debug)]
enum Question {
    Server {
        place: Place,
        answer: oneshot::Sender<Granted>,
    },
    /// The primary took note that the worker leaves; it crashes when it cannot write that.
    Leave,
}

impl Session {
    /// Starts with the message that the worker is up.
    pub(crate) fn start(socket: OwnedFd) -> Self {
        let mut session = Self {
            channel: Channel::new(socket),
            phase: Phase::Serving,
            farewell: Farewell::Unsaid,
            patience: FIRST_REQUEST,
            giving: Giving::default(),
            report: Report::default(),
            answers: Vec::new(),
            next_seq: 0,
            questions: HashMap::new(),
            servers: HashMap::new(),
            opened: HashMap::new(),
            mailbox: Mailbox::default(),
            last_taken: None,
            noted: Arc::default(),
        };
        let seq = session.seq();
        session.write(encode::act("online", seq));
        session
    }

    pub(crate) fn mailbox(&mut self) -> &mut Mailbox {
        &mut self.mailbox
    }

    /// Returns true when something waits for the socket to take it.
    pub(crate) fn wants_write(&self) -> bool {
        self.channel.wants_write()
    }

    /// Returns what the task that reads the channel has to wait for, as far as others can change that.
    pub(crate) fn watched(&self) -> Watched {
        Watched {
            has_unsent: self.wants_write(),
            is_exhausted: self.channel.is_exhausted(),
            farewell_at: self.farewell_at(),
        }
    }

    /// Returns true when answers wait for something to be written with, or for [`flush`](Self::flush).
    pub(crate) fn owes_answers(&self) -> bool {
        !self.answers.is_empty()
    }

    /// Returns when [`on_time`](Self::on_time) has something to do.
    pub(crate) fn wakes_at(&self, now: Instant) -> Option<Instant> {
        let tries_again_at = self.channel.is_exhausted().then(|| now + EXHAUSTED);
        [self.gives_back_at(), self.farewell_at(), tries_again_at].into_iter().flatten().min()
    }

    /// Does what is due.
    pub(crate) fn on_time(&mut self, now: Instant) {
        self.give_back(now);
        self.on_farewell_time(now);
        if self.channel.is_exhausted() {
            self.flush();
        }
    }

    /// Reads once and acts on every message that is complete.
    pub(crate) fn receive(
        &mut self,
        scratch: &mut [u8],
        incoming: &mut Vec<Result<Incoming<OwnedFd>, DecodeError>>,
        now: Instant,
    ) -> Progress {
        let progress = self.channel.receive(scratch, incoming).unwrap_or(Progress::Closed);
        for message in incoming.drain(..) {
            self.on(message, now);
        }
        if progress == Progress::Closed {
            self.end(Phase::Lost);
        }
        progress
    }

    fn on(&mut self, incoming: Result<Incoming<OwnedFd>, DecodeError>, now: Instant) {
        use worksong_channel::Message as Wire;
        match incoming {
            Ok(Incoming { message: Wire::Handle(message), handle, .. }) => {
                self.on_handle(message, handle, now);
            }
            Ok(Incoming { message: Wire::Cluster(message), .. }) => self.on_cluster(message, None, now),
            Ok(Incoming { message: Wire::User(body), .. }) => self.mailbox.put(Message::new(body, None)),
            Ok(Incoming { message: Wire::SocketList(question), .. }) => self.on_socket_list(&question),
            Ok(Incoming { message: Wire::HandleAck, .. }) => self.on_handle_answer(HandleAnswer::Ack, now),
            Ok(Incoming { message: Wire::HandleNack, .. }) => self.on_handle_answer(HandleAnswer::Nack, now),
            Ok(Incoming { message: Wire::Extension(message), .. }) => self.on_extension(&message, now),
            Err(error) if error.is_handle() => self.answer_handle(HandleAnswer::Nack),
            // A line that is no message is a fault of the primary's program; the next line may be one.
            Ok(Incoming { message: Wire::Unknown { .. }, .. }) | Err(_) => {}
        }
    }

    fn on_handle_answer(&mut self, answer: HandleAnswer, now: Instant) {
        // One that nothing was asked for changes nothing.
        if self.channel.answered() {
            self.on_given(answer, now);
            self.flush();
        }
    }

    fn on_handle(&mut self, message: Handle, handle: Option<OwnedFd>, now: Instant) {
        use worksong_channel::Message as Wire;
        let Some(handle) = handle else {
            return self.answer_handle(HandleAnswer::Nack);
        };
        self.answer_handle(HandleAnswer::Ack);
        match *message.message {
            Wire::Cluster(message) => self.on_cluster(message, Some(handle), now),
            Wire::User(body) => self.mailbox.put(Message::new(body, Some(handle))),
            Wire::Handle(_)
            | Wire::HandleAck
            | Wire::HandleNack
            | Wire::SocketList(_)
            | Wire::Extension(_)
            | Wire::Unknown { .. } => {}
        }
    }

    fn on_cluster(&mut self, message: Cluster, handle: Option<OwnedFd>, now: Instant) {
        match message {
            Cluster::NewConnection { seq, key } => match handle {
                Some(connection) => self.on_connection(&key, Waiting { connection, seq, since: now }),
                None => self.answer_connection(seq, false),
            },
            Cluster::Reply(reply) => self.on_reply(reply, handle),
            Cluster::Disconnect => self.on_disconnect(now),
            // Messages of workers, and acts of primaries newer than us.
            Cluster::Online { .. }
            | Cluster::QueryServer { .. }
            | Cluster::Listening { .. }
            | Cluster::Close { .. }
            | Cluster::ExitedAfterDisconnect { .. }
            | Cluster::Unknown { .. } => {}
        }
    }

    fn on_socket_list(&mut self, question: &SocketList) {
        match question {
            // A socket that came with a message belongs to the program; nothing here counts it.
            SocketList::GetCount { key } => self.write(encode::socket_count(key, 0)),
            SocketList::NotifyClose { key } => self.write(encode::sockets_all_closed(key)),
            SocketList::Answer => {}
        }
    }

    /// Asks the primary to let this worker go without counting a crash, unless it leaves already.
    pub(crate) fn leave(&mut self, now: Instant) {
        if self.phase != Phase::Serving {
            return;
        }
        self.say_farewell(now);
        let seq = self.seq();
        self.questions.insert(seq, Question::Leave);
        // Before the servers are closed: a primary that knows why keeps their ports open for a successor.
        self.write(encode::act("exitedAfterDisconnect", seq));
        self.drain();
    }

    /// Returns what rings when the primary takes note that the worker leaves; `None` when nothing is open.
    pub(crate) fn awaits_note(&self) -> Option<Arc<Notify>> {
        let open = self.questions.values().any(|question| matches!(question, Question::Leave));
        open.then(|| Arc::clone(&self.noted))
    }

    fn drain(&mut self) {
        if self.phase != Phase::Serving {
            return;
        }
        self.phase = Phase::Draining;
        let keys: Vec<String> = self.servers.keys().cloned().collect();
        for key in &keys {
            self.close_server(key);
        }
        self.questions.retain(|_seq, question| matches!(question, Question::Leave));
    }

    /// Sends a message of the program.
    pub(crate) fn send(&mut self, body: &RawValue) -> Result<(), SendError> {
        if self.phase >= Phase::Closed {
            return Err(SendError::Closed);
        }
        self.flush();
        match self.channel.send_bounded(encode::user(body), None) {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) => {
                self.end(Phase::Lost);
                Err(SendError::Closed)
            }
            Err(full) => Err(SendError::Full { queued: full.queued }),
        }
    }

    /// Writes what waits, as far as the primary reads.
    pub(crate) fn flush(&mut self) {
        if self.phase >= Phase::Closed {
            return;
        }
        let answers = std::mem::take(&mut self.answers);
        let written =
            if answers.is_empty() { self.channel.flush() } else { self.channel.send(answers, None) };
        if written.is_err() {
            self.end(Phase::Lost);
        }
    }

    /// Closes the channel; the primary sees its end after what was written.
    pub(crate) fn close(&mut self) {
        self.flush();
        self.end(Phase::Closed);
    }

    fn end(&mut self, phase: Phase) {
        debug_assert!(phase >= Phase::Closed, "an end");
        if self.phase >= Phase::Closed {
            return;
        }
        self.phase = phase;
        self.giving.end();
        self.questions.clear();
        self.noted.notify_waiters();
        for (_key, server) in self.servers.drain() {
            server.bell.notify_waiters();
        }
        // The process may live on; a connection among it would stay open with it.
        self.channel.discard_unsent();
        // Fails only when the other end is gone already.
        let _gone = rustix::net::shutdown(&self.channel, rustix::net::Shutdown::Both);
    }

    fn answer_handle(&mut self, answer: HandleAnswer) {
        self.answers.extend_from_slice(encode::handle_answer(answer));
    }

    fn write(&mut self, message: impl AsRef<[u8]>) {
        if self.phase >= Phase::Closed {
            return;
        }
        let mut bytes = std::mem::take(&mut self.answers);
        bytes.extend_from_slice(message.as_ref());
        if self.channel.send(bytes, None).is_err() {
            self.end(Phase::Lost);
        }
    }

    fn seq(&mut self) -> u64 {
        let seq = self.next_seq;
        self.next_seq += 1;
        seq
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::os::unix::net::UnixStream;

    use worksong_channel::channel::READ_BUFFER;
    use worksong_channel::pair;

    use super::*;

    #[test]
    fn what_the_primary_did_not_read_ends_with_it() {
        let (primary, ours) = pair().expect("a channel");
        rustix::io::ioctl_fionbio(&ours, true).expect("a socket");
        let mut session = Session::start(ours);
        let (mut client, connection) = UnixStream::pair().expect("a connection");
        let unread = serde_json::value::to_raw_value(&"x".repeat(1 << 20)).expect("a message");
        session.send(&unread).expect("it waits");
        session.channel.send("{}\n", Some(connection.into())).expect("it waits, too");
        assert!(session.wants_write());
        drop(primary);
        let (mut scratch, mut incoming) = (vec![0; READ_BUFFER], Vec::new());
        assert_eq!(session.receive(&mut scratch, &mut incoming, Instant::now()), Progress::Closed);
        assert_eq!((session.phase(), session.wants_write()), (Phase::Lost, false));
        client.set_nonblocking(true).expect("a socket");
        assert_eq!(client.read(&mut [0]).expect("its other end is closed"), 0);
    }
}
