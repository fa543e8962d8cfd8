//! What workers say.

use std::os::fd::OwnedFd;

use worksong_channel::Incoming;
use worksong_channel::message::{
    self, Cluster, DecodeError, Extension, HandleAnswer, Message, ServerQuery, SocketList, encode,
};

use super::peer::Stage;
use super::{Fact, Plane, tell};
use crate::handover::{Handle, SeatId};

/// How many unusable messages of one worker are reported.
const REPORTED_GARBAGE: u32 = 5;
/// How many characters of a report are kept.
const LONGEST_REPORT: usize = 200;

impl Plane {
    pub(super) fn on_incoming(&mut self, seat: SeatId, incoming: Result<Incoming<OwnedFd>, DecodeError>) {
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
            Message::Extension(message) => self.on_extension(seat, message),
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
                    // Told to do what it does already, Node closes its channel at once, with connections still open.
                    peer.disconnect_by = None;
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

    /// A worker gave a connection back, or its program passed us a socket. We have no use for that, but its sender waits
    /// for the answer.
    fn on_handle(&mut self, seat: SeatId, handle: message::Handle, descriptor: Option<OwnedFd>) {
        let Some(descriptor) = descriptor else {
            self.send(seat, encode::handle_answer(HandleAnswer::Nack), None);
            if matches!(*handle.message, Message::Extension(Extension::Given)) {
                self.on_lost_gift(seat);
            }
            return;
        };
        self.send(seat, encode::handle_answer(HandleAnswer::Ack), None);
        match *handle.message {
            Message::Extension(Extension::Given) => self.on_given(seat, descriptor),
            message => {
                drop(descriptor);
                self.on_incoming(seat, Ok(Incoming { message, handle: None, prefixed: false }));
            }
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

    pub(super) fn report_garbage(&mut self, seat: SeatId, mut error: String) {
        // It may quote what the worker sent.
        if let Some((end, _)) = error.char_indices().nth(LONGEST_REPORT) {
            error.truncate(end);
            error.push('…');
        }
        let Some(peer) = self.peer_mut(seat) else { return };
        peer.garbage = peer.garbage.saturating_add(1);
        if peer.garbage <= REPORTED_GARBAGE {
            let worker = peer.worker;
            tell(&self.facts, Fact::Garbage { worker, error });
        }
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
