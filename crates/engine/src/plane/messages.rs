//! What workers say, and commands about them.

use std::collections::{BTreeMap, VecDeque};
use std::os::fd::{AsFd, OwnedFd};

use worksong_channel::channel::Progress;
use worksong_channel::message::{
    self, Cluster, DecodeError, HandleAnswer, Message, ServerQuery, SocketList, encode,
};
use worksong_channel::outbox::MAX_QUEUED;
use worksong_channel::{Channel, Incoming};

use super::command::SendError;
use super::peer::{Credits, Obstacle, Peer, Reading, Stage};
use super::poll::{Interest, Ready, Token};
use super::{Command, Fact, PeerSpec, Plane, PlaneApp, SWEEP_EVERY, put, tell};
use crate::handover::{Handle, SeatId, WINDOW};
use crate::ids::WorkerId;
use crate::spec::NodeFlavour;

/// How many reads of one channel are done before others get their turn.
const READS: usize = 16;
/// How many reads of a channel are done when its worker is gone; its queue holds less, unless somebody fills it still.
const LAST_READS: usize = 1024;
/// How much may wait for a worker that does not read, in all. User messages are refused long before.
const MAX_UNREAD: usize = 2 * MAX_QUEUED;
/// How many unusable messages of one worker are reported.
const REPORTED_GARBAGE: u32 = 5;

/// What became of what waited to be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Flushed {
    /// The channel took it, or as much as it had room for.
    AsFarAsPossible,
    /// The other end takes nothing any more; what it said before can still be read.
    Broken,
}

impl Plane {
    pub(super) fn on_command(&mut self, command: Command) {
        match command {
            Command::OpenApp { app, policy, inherited } => {
                self.apps.insert(app, PlaneApp { policy, inherited, closing: None });
            }
            Command::CloseApp { app, drained } => self.close_app(app, drained),
            Command::ForgetApp { app } => self.forget_app(app),
            Command::AddPeer(spec) => self.add_peer(spec),
            Command::Rotate { worker, in_rotation } => {
                if let Some(seat) = self.seat_of(worker) {
                    self.with_courier(|switchboard, now, courier| {
                        switchboard.set_rotation(seat, in_rotation, now, courier);
                    });
                }
            }
            Command::Disconnect { worker } => {
                if let Some(seat) = self.seat_of(worker) {
                    self.disconnect(seat);
                }
            }
            Command::Send { worker, message, sent } => {
                let result = self.send_user(worker, &message);
                // The sender may have stopped waiting.
                let _unheard = sent.send(result);
            }
            Command::Forget { worker } => {
                if let Some(seat) = self.seat_of(worker) {
                    self.read_rest(seat);
                    self.close_peer(seat);
                }
            }
            Command::Count { tally } => {
                let _unheard = tally.send(self.switchboard.tally());
            }
        }
    }

    fn add_peer(&mut self, spec: PeerSpec) {
        let one_at_a_time = spec.flavour == Some(NodeFlavour::Deno);
        let window = if one_at_a_time { 1 } else { WINDOW };
        let seat = self.switchboard.add_seat(window);
        let peer = Peer {
            worker: spec.worker,
            channel: Channel::new(spec.channel),
            stage: Stage::Starting,
            prefixed: spec.flavour == Some(NodeFlavour::Bun),
            servers: BTreeMap::new(),
            shares: VecDeque::new(),
            one_at_a_time,
            reading: Reading::AtOnce,
            obstacle: Obstacle::Nothing,
            interest: Some(Interest::READ),
            credits: Credits::new(self.poll.waker()),
            garbage: 0,
        };
        if let Err(error) = self.poll.add(peer.channel.as_fd(), Token::Peer(seat), Interest::READ) {
            // Without memory for one more registration the worker cannot be served: it is as good as gone.
            tell(&self.facts, Fact::Garbage { worker: spec.worker, error: error.to_string() });
            tell(&self.facts, Fact::Closed { worker: spec.worker });
            self.with_courier(|switchboard, now, courier| switchboard.remove_seat(seat, now, courier));
            return;
        }
        put(&mut self.peers, seat.0, peer);
    }

    fn disconnect(&mut self, seat: SeatId) {
        let seq = self.seq();
        let Some(peer) = self.peer_mut(seat) else { return };
        if peer.stage.is_last() {
            return;
        }
        peer.stage = Stage::Told;
        self.send(seat, encode::disconnect(seq), None);
    }

    fn send_user(
        &mut self,
        worker: WorkerId,
        message: &serde_json::value::RawValue,
    ) -> Result<(), SendError> {
        let seat = self.seat_of(worker).ok_or(SendError::Gone)?;
        let peer = self.peer_mut(seat).ok_or(SendError::Gone)?;
        let broken = peer.channel.send_bounded(encode::user(message), None)?.is_err();
        if broken {
            return Err(SendError::Gone);
        }
        self.apply_interest(seat);
        Ok(())
    }

    /// Sends a message of the protocol. A worker that makes us answer and never reads the answers is cut off: they
    /// cannot be left out, and must not fill the memory.
    pub(super) fn send(&mut self, seat: SeatId, message: impl Into<Vec<u8>>, handle: Option<OwnedFd>) {
        let Some(peer) = self.peer_mut(seat) else { return };
        let mut message = message.into();
        if peer.prefixed {
            message.insert(0, 0x02);
        }
        // A broken channel is noticed when it is read.
        let _broken = peer.channel.send(message, handle);
        let unread = peer.channel.outbox().queued_bytes();
        if unread > MAX_UNREAD {
            let error = format!("it leaves our answers unread: {unread} bytes wait; its channel is closed");
            let worker = peer.worker;
            tell(&self.facts, Fact::Garbage { worker, error });
            self.close_peer(seat);
            return;
        }
        if peer.channel.is_exhausted() {
            self.sweep_at.get_or_insert(self.now + SWEEP_EVERY);
        }
        self.apply_interest(seat);
    }

    pub(super) fn on_peer(&mut self, seat: SeatId, ready: Ready) {
        let is_broken = ready.writable && self.flush(seat) == Flushed::Broken;
        self.read(seat);
        if is_broken {
            self.close_peer(seat);
        }
        if ready.closed && self.peer(seat).is_some_and(|peer| peer.reading == Reading::Paused) {
            self.stop_polling(seat);
        }
        self.poll_again_when_idle(seat);
    }

    pub(super) fn flush(&mut self, seat: SeatId) -> Flushed {
        let Some(peer) = self.peer_mut(seat) else { return Flushed::Broken };
        let is_broken = peer.channel.flush().is_err() || peer.obstacle == Obstacle::Closed;
        if peer.obstacle == Obstacle::Full {
            peer.obstacle = Obstacle::Nothing;
        }
        if peer.channel.is_exhausted() {
            self.sweep_at.get_or_insert(self.now + SWEEP_EVERY);
        }
        let Some(peer) = self.peer(seat) else { return Flushed::Broken };
        let has_room = peer.channel.outbox().is_empty();
        self.apply_interest(seat);
        if has_room {
            self.with_courier(|switchboard, now, courier| switchboard.writable(seat, now, courier));
        }
        if is_broken { Flushed::Broken } else { Flushed::AsFarAsPossible }
    }

    /// Tries a hand-over again that needs an empty channel, when the worker has read everything.
    pub(super) fn look_for_silence(&mut self, seat: SeatId) {
        let Some(peer) = self.peer_mut(seat).filter(|peer| peer.obstacle == Obstacle::Unread) else {
            return;
        };
        if peer.channel.has_unread() {
            self.sweep_at.get_or_insert(self.now + SWEEP_EVERY);
        } else {
            peer.obstacle = Obstacle::Nothing;
            self.with_courier(|switchboard, now, courier| switchboard.writable(seat, now, courier));
        }
    }

    /// Reads what is there, and closes the peer when its end is closed.
    pub(super) fn read(&mut self, seat: SeatId) {
        for _ in 0..READS {
            if self.peer(seat).is_none_or(|peer| peer.reading == Reading::Paused) {
                return;
            }
            let progress = self.read_once(seat);
            if self.peer(seat).is_some_and(|peer| peer.credits.exhausted()) {
                self.set_reading(seat, Reading::Paused);
                return;
            }
            match progress {
                Progress::Read => {}
                Progress::ReadAll | Progress::WouldBlock | Progress::Closed => return,
            }
        }
    }

    /// Reads the last words of a worker that is gone, however much it had said.
    fn read_rest(&mut self, seat: SeatId) {
        for _ in 0..LAST_READS {
            match self.read_once(seat) {
                Progress::Read | Progress::ReadAll => {}
                Progress::WouldBlock | Progress::Closed => return,
            }
        }
    }

    fn read_once(&mut self, seat: SeatId) -> Progress {
        let Some(peer) = self.peers.get_mut(seat.0).and_then(Option::as_mut) else { return Progress::Closed };
        let mut incoming = std::mem::take(&mut self.incoming);
        let progress = peer.channel.receive(&mut self.scratch, &mut incoming);
        for message in incoming.drain(..) {
            self.on_incoming(seat, message);
        }
        self.incoming = incoming;
        match progress {
            Ok(progress @ (Progress::Read | Progress::ReadAll | Progress::WouldBlock)) => progress,
            Ok(Progress::Closed) | Err(_) => {
                self.close_peer(seat);
                Progress::Closed
            }
        }
    }

    fn close_peer(&mut self, seat: SeatId) {
        let Some(peer) = self.peers.get_mut(seat.0).and_then(Option::take) else { return };
        if peer.interest.is_some() {
            self.poll.remove(&peer.channel);
        }
        self.keep_ports_of(seat);
        self.with_courier(|switchboard, now, courier| switchboard.remove_seat(seat, now, courier));
        tell(&self.facts, Fact::Closed { worker: peer.worker });
        self.is_drain_due = true;
    }

    /// Asks epoll nothing more about a channel that is not read now: it would report its end without pause.
    fn stop_polling(&mut self, seat: SeatId) {
        if let Some(peer) = self.peers.get_mut(seat.0).and_then(Option::as_mut)
            && peer.interest.take().is_some()
        {
            self.poll.remove(&peer.channel);
        }
    }

    /// Goes back to reading a worker's messages as they come, once it has answered everything.
    pub(super) fn poll_again_when_idle(&mut self, seat: SeatId) {
        let idle = self.switchboard.unanswered(seat) == 0;
        match self.peer(seat) {
            Some(peer) if peer.is_quiet() && idle => self.set_reading(seat, Reading::AtOnce),
            Some(peer) if peer.is_quiet() => {
                self.sweep_at.get_or_insert(self.now + SWEEP_EVERY);
            }
            _ => {}
        }
    }

    /// Reads workers again whose messages were consumed.
    pub(super) fn resume_reading(&mut self) {
        for index in 0..self.peers.len() {
            let seat = SeatId(index);
            let resumes = |peer: &Peer| peer.reading == Reading::Paused && peer.credits.available();
            if !self.peer(seat).is_some_and(resumes) {
                continue;
            }
            self.set_reading(seat, Reading::AtOnce);
            if self.peer(seat).is_some_and(|peer| peer.interest.is_none()) {
                // It is not polled because it is closed: what is left ends with that.
                self.read(seat);
            }
        }
    }

    fn set_reading(&mut self, seat: SeatId, reading: Reading) {
        if let Some(peer) = self.peer_mut(seat) {
            peer.reading = reading;
        }
        self.apply_interest(seat);
    }

    fn apply_interest(&mut self, seat: SeatId) {
        if let Some(peer) = self.peers.get_mut(seat.0).and_then(Option::as_mut) {
            peer.apply_interest(&self.poll, seat);
        }
    }

    fn on_incoming(&mut self, seat: SeatId, incoming: Result<Incoming<OwnedFd>, DecodeError>) {
        let incoming = match incoming {
            Ok(incoming) => incoming,
            Err(error) => {
                self.on_garbage(seat, &error);
                return;
            }
        };
        if incoming.prefixed
            && let Some(peer) = self.peer_mut(seat)
        {
            peer.prefixed = true;
        }
        match incoming.message {
            Message::HandleAck => self.on_handle_answer(seat, HandleAnswer::Ack),
            Message::HandleNack => self.on_handle_answer(seat, HandleAnswer::Nack),
            Message::Cluster(message) => self.on_cluster(seat, message),
            Message::Handle(handle) => self.on_handle(seat, handle, incoming.handle),
            Message::SocketList(question) => self.on_socket_list(seat, question),
            Message::User(body) => {
                if let Some(peer) = self.peer(seat) {
                    let credit = peer.credits.take(body.get().len());
                    tell(&self.facts, Fact::Message { worker: peer.worker, body, credit });
                }
            }
            Message::Unknown { .. } => {}
        }
    }

    fn on_handle_answer(&mut self, seat: SeatId, answer: HandleAnswer) {
        let Some(peer) = self.peer_mut(seat) else { return };
        if !peer.channel.answered() {
            self.report_garbage(seat, "it answered a descriptor that was not sent to it".to_owned());
            return;
        }
        let answered = self.with_courier(|switchboard, now, courier| match answer {
            HandleAnswer::Ack => switchboard.acked(seat, now, courier),
            HandleAnswer::Nack => switchboard.nacked(seat, now, courier),
        });
        match answered {
            Some(Handle::Other) => {
                let share = self.peer_mut(seat).and_then(|peer| peer.shares.pop_front());
                if let Some(lost) = share.filter(|_| answer == HandleAnswer::Nack) {
                    self.share_again(seat, lost);
                }
            }
            Some(Handle::Connection { .. }) | None => {}
        }
        // An answer may open the fence, for a message that waits or for connections.
        let fence_matters = self
            .peer(seat)
            .is_some_and(|peer| !peer.channel.outbox().is_empty() || peer.channel.outbox().unanswered() == 0);
        if fence_matters {
            // Its end is seen when what it still had to say is read.
            let _broken = self.flush(seat);
        }
    }

    fn on_cluster(&mut self, seat: SeatId, message: Cluster) {
        let Some(peer) = self.peer(seat) else { return };
        let worker = peer.worker;
        match message {
            Cluster::Reply(reply) => {
                if let Some(accepted) = reply.accepted {
                    self.with_courier(|switchboard, now, courier| {
                        switchboard.replied(seat, reply.ack, accepted, now, courier)
                    });
                    self.is_drain_due = true;
                }
            }
            Cluster::Online { .. } => {
                if let Some(peer) = self.peer_mut(seat)
                    && peer.stage == Stage::Starting
                {
                    peer.stage = Stage::Online;
                    tell(&self.facts, Fact::Online { worker });
                }
            }
            Cluster::QueryServer { seq, query } => self.on_query(seat, seq, *query),
            Cluster::Listening { query } => {
                let (address, port) = describe_listening(&query);
                let credit = peer.credits.take(address.len());
                tell(&self.facts, Fact::Listening { worker, address, port, credit });
            }
            Cluster::Close { key } => self.on_close(seat, &key),
            Cluster::ExitedAfterDisconnect { seq } => {
                let reply_seq = self.seq();
                if let Some(peer) = self.peer_mut(seat)
                    && peer.stage != Stage::Leaving
                {
                    peer.stage = Stage::Leaving;
                    self.keep_ports_of(seat);
                    self.with_courier(|switchboard, now, courier| {
                        switchboard.set_rotation(seat, false, now, courier);
                    });
                    tell(&self.facts, Fact::Leaving { worker });
                }
                self.send(seat, encode::acknowledge(seq, reply_seq), None);
            }
            // Messages of a primary; from a worker they mean nothing.
            Cluster::NewConnection { .. } | Cluster::Disconnect | Cluster::Unknown { .. } => {}
        }
    }

    /// A program passed us a socket. We have no use for it, but its sender waits for the answer.
    fn on_handle(&mut self, seat: SeatId, handle: message::Handle, descriptor: Option<OwnedFd>) {
        let answer = if descriptor.is_some() { HandleAnswer::Ack } else { HandleAnswer::Nack };
        drop(descriptor);
        self.send(seat, encode::handle_answer(answer), None);
        if answer == HandleAnswer::Ack {
            self.on_incoming(seat, Ok(Incoming { message: *handle.message, handle: None, prefixed: false }));
        }
    }

    fn on_socket_list(&mut self, seat: SeatId, question: SocketList) {
        match question {
            // What was passed to us is closed at once.
            SocketList::GetCount { key } => self.send(seat, encode::socket_count(&key, 0), None),
            SocketList::NotifyClose { key } => self.send(seat, encode::sockets_all_closed(&key), None),
            SocketList::Answer => {}
        }
    }

    fn on_garbage(&mut self, seat: SeatId, error: &DecodeError) {
        if error.is_handle() {
            self.send(seat, encode::handle_answer(HandleAnswer::Nack), None);
        }
        self.report_garbage(seat, error.to_string());
    }

    fn report_garbage(&mut self, seat: SeatId, error: String) {
        let Some(peer) = self.peer_mut(seat) else { return };
        peer.garbage = peer.garbage.saturating_add(1);
        if peer.garbage <= REPORTED_GARBAGE {
            let worker = peer.worker;
            tell(&self.facts, Fact::Garbage { worker, error });
        }
    }

    pub(super) fn seat_of(&self, worker: WorkerId) -> Option<SeatId> {
        let found = |peer: &Option<Peer>| peer.as_ref().is_some_and(|peer| peer.worker == worker);
        self.peers.iter().position(found).map(SeatId)
    }
}

/// Returns the address of a `listening` message as people write it, and its port.
fn describe_listening(query: &ServerQuery) -> (String, Option<u16>) {
    let port = query.port.and_then(|port| u16::try_from(port).ok());
    let host = query.address.as_deref();
    let address = match (host, port) {
        (Some(host), Some(port)) if host.contains(':') => format!("[{host}]:{port}"),
        (Some(host), Some(port)) => format!("{host}:{port}"),
        (Some(path), None) => path.find('\0').map_or(path, |at| &path[at..]).replace('\0', "@"),
        (None, Some(port)) => format!("*:{port}"),
        (None, None) => query.fd.map_or_else(|| "?".to_owned(), |fd| format!("descriptor {fd}")),
    };
    if query.address_type.is_datagram() { (format!("udp {address}"), port) } else { (address, port) }
}
