//! Bytes in and out: when channels are read, written, polled and closed.

use std::os::fd::OwnedFd;

use worksong_channel::channel::Progress;
use worksong_channel::outbox::MAX_QUEUED;

use super::peer::{Obstacle, Peer, Reading};
use super::poll::Ready;
use super::{Fact, Plane, SWEEP_EVERY, tell};
use crate::handover::SeatId;

/// How many reads of one channel are done before others get their turn.
const READS: usize = 16;
/// How many reads of a channel are done when its worker is gone; its queue holds less, unless somebody fills it still.
const LAST_READS: usize = 1024;
/// How much may wait for a worker that does not read, in all. User messages are refused long before.
const MAX_UNREAD: usize = 2 * MAX_QUEUED;

/// What became of what waited to be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Flushed {
    /// The channel took it, or as much as it had room for.
    AsFarAsPossible,
    /// The other end takes nothing any more; what it said before can still be read.
    Broken,
}

impl Plane {
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
        if ready.writable && self.flush(seat) == Flushed::Broken {
            self.read_rest(seat);
            self.close_peer(seat);
            return;
        }
        self.read(seat);
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
    pub(super) fn read_rest(&mut self, seat: SeatId) {
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

    pub(super) fn close_peer(&mut self, seat: SeatId) {
        let Some(peer) = self.peers.get_mut(seat.0).and_then(Option::take) else { return };
        if peer.interest.is_some() {
            self.poll.remove(&peer.channel);
        }
        self.keep_ports_of(seat);
        self.free_entrances(seat, None);
        self.release_flows(peer.worker, None);
        self.with_courier(|switchboard, now, courier| switchboard.remove_seat(seat, now, courier));
        // What it said before was not the last.
        let open = peer.open.filter(|_| peer.stage.is_last());
        tell(&self.facts, Fact::Closed { worker: peer.worker, open });
        self.look_for_unused_soon();
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

    /// Reads workers again whose messages were consumed, and asks to be woken for the others.
    pub(super) fn resume_reading(&mut self) {
        for index in 0..self.peers.len() {
            let seat = SeatId(index);
            let resumes = |peer: &Peer| peer.reading == Reading::Paused && !peer.credits.exhausted();
            if !self.peer(seat).is_some_and(resumes) {
                continue;
            }
            self.set_reading(seat, Reading::AtOnce);
            // One that is not polled is closed: what is left ends with that, and nothing else will tell.
            while self
                .peer(seat)
                .is_some_and(|peer| peer.interest.is_none() && peer.reading != Reading::Paused)
            {
                self.read(seat);
            }
        }
    }

    /// Hears the worker as soon as it says something.
    pub(super) fn read_at_once(&mut self, seat: SeatId) {
        if self.peer(seat).is_some_and(Peer::is_quiet) {
            self.set_reading(seat, Reading::AtOnce);
        }
    }

    fn set_reading(&mut self, seat: SeatId, reading: Reading) {
        if let Some(peer) = self.peer_mut(seat) {
            peer.reading = reading;
        }
        self.apply_interest(seat);
    }

    pub(super) fn apply_interest(&mut self, seat: SeatId) {
        if let Some(peer) = self.peers.get_mut(seat.0).and_then(Option::as_mut) {
            peer.apply_interest(&self.poll, seat);
        }
    }
}
