//! What workers say, and commands about them.

use std::collections::BTreeMap;
use std::os::fd::{AsFd, OwnedFd};

use worksong_channel::channel::Progress;
use worksong_channel::message::{
    Cluster, DecodeError, Handle, HandleAnswer, Message, ServerQuery, SocketList, encode,
};
use worksong_channel::{Channel, Incoming};

use super::command::SendError;
use super::peer::{Credits, Peer, Reading};
use super::poll::{Interest, Token};
use super::{Command, Fact, PeerSpec, Plane, PlaneApp, SWEEP_EVERY, put, tell};
use crate::handover::{SeatId, WINDOW};
use crate::ids::WorkerId;
use crate::spec::NodeFlavour;

/// How many reads of one channel are done before others get their turn.
const READS: usize = 16;
/// How many unusable messages of one worker are reported.
const REPORTED_GARBAGE: u32 = 5;

impl Plane {
    pub(super) fn on_command(&mut self, command: Command) {
        match command {
            Command::OpenApp { app, policy, inherited } => {
                self.apps.insert(app, PlaneApp { policy, inherited, closed: false, when_drained: None });
            }
            Command::CloseApp { app, drained } => self.close_app(app, drained),
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
                    self.set_reading(seat, Reading::AtOnce);
                    self.read(seat);
                    self.close_peer(seat);
                }
            }
            Command::Count { tally } => {
                let _unheard = tally.send(self.switchboard.tally());
            }
        }
    }

    fn add_peer(&mut self, spec: PeerSpec) {
        // Deno loses the descriptor of a hand-over that is glued to unread data: one at a time.
        let window = if spec.flavour == Some(NodeFlavour::Deno) { 1 } else { WINDOW };
        let seat = self.switchboard.add_seat(window);
        let peer = Peer {
            worker: spec.worker,
            channel: Channel::new(spec.channel),
            leaving: false,
            prefixed: spec.flavour == Some(NodeFlavour::Bun),
            servers: BTreeMap::new(),
            reading: Reading::AtOnce,
            wants_room: false,
            interest: Interest::READ,
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
        if std::mem::replace(&mut peer.leaving, true) {
            return;
        }
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

    /// Sends a message of the protocol. A broken channel is noticed when it is read.
    pub(super) fn send(&mut self, seat: SeatId, message: impl Into<Vec<u8>>, handle: Option<OwnedFd>) {
        let Some(peer) = self.peer_mut(seat) else { return };
        let mut message = message.into();
        if peer.prefixed {
            message.insert(0, 0x02);
        }
        let _broken = peer.channel.send(message, handle);
        if peer.channel.is_exhausted() {
            self.sweep_at.get_or_insert(self.now + SWEEP_EVERY);
        }
        self.apply_interest(seat);
    }

    pub(super) fn on_peer(&mut self, seat: SeatId, writable: bool) {
        if writable {
            self.flush(seat);
        }
        self.read(seat);
        self.poll_again_when_idle(seat);
    }

    pub(super) fn flush(&mut self, seat: SeatId) {
        let Some(peer) = self.peer_mut(seat) else { return };
        let _broken = peer.channel.flush();
        peer.wants_room = false;
        let exhausted = peer.channel.is_exhausted();
        if exhausted {
            self.sweep_at.get_or_insert(self.now + SWEEP_EVERY);
        }
        let Some(peer) = self.peer(seat) else { return };
        let has_room = peer.channel.outbox().is_empty();
        self.apply_interest(seat);
        if has_room {
            self.with_courier(|switchboard, now, courier| switchboard.writable(seat, now, courier));
        }
    }

    /// Reads what is there, and closes the peer when its end is closed.
    pub(super) fn read(&mut self, seat: SeatId) {
        let mut incoming = std::mem::take(&mut self.incoming);
        for _ in 0..READS {
            let scratch = &mut self.scratch;
            let Some(peer) = self.peers.get_mut(seat.0).and_then(Option::as_mut) else { break };
            if peer.reading == Reading::Paused {
                break;
            }
            let progress = peer.channel.receive(scratch, &mut incoming);
            for message in incoming.drain(..) {
                self.on_incoming(seat, message);
            }
            match progress {
                Ok(Progress::Read | Progress::ReadAll) => {}
                Ok(Progress::WouldBlock) => break,
                Ok(Progress::Closed) | Err(_) => {
                    self.close_peer(seat);
                    break;
                }
            }
            if self.peer(seat).is_some_and(|peer| peer.credits.exhausted()) {
                self.set_reading(seat, Reading::Paused);
                break;
            }
            if matches!(progress, Ok(Progress::ReadAll)) {
                break;
            }
        }
        self.incoming = incoming;
    }

    fn close_peer(&mut self, seat: SeatId) {
        let Some(peer) = self.peers.get_mut(seat.0).and_then(Option::take) else { return };
        self.poll.remove(&peer.channel);
        self.keep_ports_of(seat);
        self.with_courier(|switchboard, now, courier| switchboard.remove_seat(seat, now, courier));
        tell(&self.facts, Fact::Closed { worker: peer.worker });
        self.check_drained();
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

    /// Reads workers again whose user messages were consumed.
    pub(super) fn resume_reading(&mut self) {
        for index in 0..self.peers.len() {
            let seat = SeatId(index);
            let resumes = |peer: &Peer| peer.reading == Reading::Paused && peer.credits.available();
            if self.peer(seat).is_some_and(resumes) {
                self.set_reading(seat, Reading::AtOnce);
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
        match answer {
            HandleAnswer::Ack => {
                let _owed =
                    self.with_courier(|switchboard, now, courier| switchboard.acked(seat, now, courier));
            }
            HandleAnswer::Nack => {
                let _owed =
                    self.with_courier(|switchboard, now, courier| switchboard.nacked(seat, now, courier));
            }
        }
        // An answer may open the fence, for a message that waits or for connections.
        let fence_matters = self
            .peer(seat)
            .is_some_and(|peer| !peer.channel.outbox().is_empty() || peer.channel.outbox().unanswered() == 0);
        if fence_matters {
            self.flush(seat);
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
                    self.check_drained();
                }
            }
            Cluster::Online { .. } => tell(&self.facts, Fact::Online { worker }),
            Cluster::QueryServer { seq, query } => self.on_query(seat, seq, *query),
            Cluster::Listening { query } => {
                let (address, port) = describe_listening(&query);
                tell(&self.facts, Fact::Listening { worker, address, port });
            }
            Cluster::Close { key } => self.on_close(seat, &key),
            Cluster::ExitedAfterDisconnect { seq } => {
                let reply_seq = self.seq();
                if let Some(peer) = self.peer_mut(seat) {
                    peer.leaving = true;
                }
                self.keep_ports_of(seat);
                self.with_courier(|switchboard, now, courier| {
                    switchboard.set_rotation(seat, false, now, courier);
                });
                self.send(seat, encode::acknowledge(seq, reply_seq), None);
                tell(&self.facts, Fact::Leaving { worker });
            }
            // Messages of a primary; from a worker they mean nothing.
            Cluster::NewConnection { .. } | Cluster::Disconnect | Cluster::Unknown { .. } => {}
        }
    }

    /// A program passed us a socket. We have no use for it, but its sender waits for the answer.
    fn on_handle(&mut self, seat: SeatId, handle: Handle, descriptor: Option<OwnedFd>) {
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
