//! Carries connections from the switchboard to the workers' channels.

use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use worksong_channel::channel::NotSent;
use worksong_channel::message::encode;

use super::peer::{Obstacle, Peer, Reading};
use super::poll::{Poll, Token};
use super::port::Port;
use super::{SWEEP_EVERY, SWEEP_FULL};
use crate::balance::Candidate;
use crate::handover::{Deliver, Delivery, LineId, SeatId, WINDOW};

const HALF_WINDOW: usize = WINDOW / 2;

/// The parts of the plane that a delivery touches.
pub(super) struct Courier<'a> {
    pub(super) poll: &'a Poll,
    pub(super) peers: &'a mut Vec<Option<Peer>>,
    pub(super) ports: &'a mut [Option<Port>],
    pub(super) message: &'a mut Vec<u8>,
    pub(super) half_full: &'a mut Vec<SeatId>,
    /// After which time a worker has to be looked at: its channel is not polled for what is awaited from it.
    pub(super) look_again: Option<Duration>,
}

impl Deliver<OwnedFd> for Courier<'_> {
    fn deliver(&mut self, seat: SeatId, line: LineId, seq: u64, connection: &OwnedFd) -> Delivery {
        let peer = self.peers.get_mut(seat.0).and_then(Option::as_mut);
        let port = self.ports.get(line.0).and_then(Option::as_ref);
        let (Some(peer), Some(port)) = (peer, port) else {
            return Delivery::Broken;
        };
        if peer.takes_one_at_a_time() && peer.channel.has_unread() {
            peer.obstacle = Obstacle::Unread;
            self.look_again.get_or_insert(SWEEP_EVERY);
            return Delivery::Full;
        }
        self.message.clear();
        encode::new_connection(self.message, &port.encoded_key, seq);
        match peer.channel.hand_over(self.message, connection.as_fd()) {
            Ok(()) => {
                // With one hand-over at a time there is nothing to collect.
                if peer.reading == Reading::AtOnce && !peer.takes_one_at_a_time() {
                    peer.reading = Reading::InBatches;
                    self.look_again.get_or_insert(SWEEP_EVERY);
                    peer.apply_interest(self.poll, seat);
                }
                match peer.channel.outbox().unanswered() {
                    HALF_WINDOW => self.half_full.push(seat),
                    WINDOW => self.look_again = Some(SWEEP_FULL),
                    _ => {}
                }
                Delivery::Sent
            }
            Err(NotSent::Full) => {
                peer.obstacle = Obstacle::Full;
                peer.apply_interest(self.poll, seat);
                Delivery::Full
            }
            // Answers open the fence; for the system's room the switchboard tries again after a while.
            Err(NotSent::Fenced | NotSent::Exhausted) => Delivery::Full,
            Err(NotSent::Broken(_)) => {
                peer.obstacle = Obstacle::Closed;
                peer.apply_interest(self.poll, seat);
                Delivery::Broken
            }
        }
    }

    fn advise(&mut self, line: LineId, connection: &OwnedFd, workers: &[Candidate]) -> Option<usize> {
        self.ports.get_mut(line.0)?.as_mut()?.adviser_mut()?.choose(connection, workers)
    }
}

impl Peer {
    /// Tells epoll what this channel waits for, when that has changed.
    pub(super) fn apply_interest(&mut self, poll: &Poll, seat: SeatId) {
        let wanted = self.wanted_interest();
        if self.interest.is_some_and(|interest| interest != wanted) {
            self.interest = Some(wanted);
            poll.modify(&self.channel, Token::Peer(seat), wanted);
        }
    }
}
