//! What the two planes say to each other, and what the data plane does when it is told something.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use serde_json::value::RawValue;
use tokio::sync::oneshot;
use worksong_channel::outbox::{Bytes, Overfull};

use super::peer::{Credit, Peer};
use super::poll::{Interest, Token};
use super::probe::NotTaken;
use super::{Plane, PlaneApp, Queue, put, tell};
use crate::handover::{Hold, SeatId, Tally, WINDOW};
use crate::ids::{AppId, Slot, WorkerId};
use crate::shortage::Shortage;
use crate::spec::{NodeFlavour, OpenLimits, Policies};

/// What the control plane wants.
#[derive(Debug)]
pub(crate) enum Command {
    /// An app exists; its workers may ask for listeners.
    OpenApp { app: AppId, policies: Policies, inherited: Vec<OwnedFd>, hold: Duration, limits: OpenLimits },
    /// Closes the app's listeners. What the kernel has queued is accepted first; `drained` is told when nothing
    /// waits any more, or nobody is left to take it.
    CloseApp { app: AppId, drained: oneshot::Sender<()> },
    /// The app has ended: close what is left of its listeners, at once.
    ForgetApp { app: AppId },
    /// A worker process was started; this is our end of its channel.
    AddPeer(PeerSpec),
    /// Put the worker in or out of rotation.
    Rotate { worker: WorkerId, in_rotation: bool },
    /// A worker has come to those in rotation and replaces none: they give it its share of their open connections.
    Rebalance { newcomer: WorkerId },
    /// Ask the worker to close its servers, finish, and close the channel, `within` so much time. At most once per worker.
    Disconnect { worker: WorkerId, within: Duration },
    /// Send the worker a user message, encoded.
    Send { worker: WorkerId, message: Vec<u8>, sent: oneshot::Sender<Result<(), SendError>> },
    /// Send these workers a user message that another one has sent, encoded. Who has left too much unread does not get it.
    Relay { to: Vec<WorkerId>, message: Arc<[u8]>, credit: Credit },
    /// Hand the worker, and no other one, a connection of our own; `taken` is told what it says to it.
    Probe { worker: WorkerId, connection: OwnedFd, taken: oneshot::Sender<Result<(), NotTaken>> },
    /// The worker is gone: read what is left, give its connections to others, close the channel.
    Forget { worker: WorkerId },
    /// What happened to connections so far, of all listeners that ever were?
    Count { tally: oneshot::Sender<Tally> },
    /// Something could not be had for a worker.
    NoteShortage { of: Shortage },
    /// How many connections wait for an app in the kernel?
    Queues { app: AppId, queues: oneshot::Sender<Vec<Queue>> },
    /// What happened to connections of an app's open listeners so far?
    CountOf { app: AppId, count: oneshot::Sender<AppCount> },
}

/// What happened to connections of an app so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct AppCount {
    /// Of its open listeners.
    pub(crate) tally: Tally,
    /// How many listeners it has closed: each took its numbers with it.
    pub(crate) closed_listeners: u64,
}

/// A worker's end of the data plane.
#[derive(Debug)]
pub(crate) struct PeerSpec {
    pub(crate) worker: WorkerId,
    pub(crate) slot: Slot,
    pub(crate) channel: OwnedFd,
    /// `None` for Rust workers.
    pub(crate) flavour: Option<NodeFlavour>,
    /// How many connections it may take, until that is told.
    pub(crate) enough: Option<u64>,
}

/// Why a user message did not go out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SendError {
    /// There is no such worker, or its channel is closed.
    #[error("the worker is gone, or has no channel")]
    Gone,
    /// The worker does not read its channel.
    #[error(transparent)]
    Overfull(#[from] Overfull),
}

/// What the data plane saw.
///
/// What a worker can cause as often as it likes holds some of its credit, which is given back when it is dropped.
#[derive(Debug)]
pub(crate) enum Fact {
    /// The worker's runtime is up; its program has not run yet.
    Online { worker: WorkerId },
    /// The worker listens on an address that it asked for, or bound by itself.
    Listening { worker: WorkerId, address: String, port: Option<u16>, credit: Credit },
    /// The worker asked for an address that could not be bound; it was told so.
    ListenFailed { worker: WorkerId, address: String, errno: i64, error: String, credit: Credit },
    /// A user message.
    Message { worker: WorkerId, body: Box<RawValue>, credit: Credit },
    /// The worker said that it will leave by itself, and was answered.
    Leaving { worker: WorkerId },
    /// The channel is closed and read to its end.
    /// `open` is how many connections the worker last said that it had, if it has said so since it leaves.
    Closed { worker: WorkerId, open: Option<u64> },
    /// The worker leaves its oldest hand-over unanswered and gets no new ones.
    Overdue { worker: WorkerId, waiting: Duration },
    /// The overdue worker has answered.
    Answering { worker: WorkerId },
    /// The worker has taken as many connections as it may.
    TookEnough { worker: WorkerId, connections: u64 },
    /// The worker takes connections and does not say how many it has: its limit is not kept.
    Uncounted { worker: WorkerId },
    /// Connections have begun to meet the limits of open ones, of which there are so many.
    Overloaded { app: AppId, open: u64 },
    /// None has met a limit for a while. So many were turned away.
    OverloadOver { app: AppId, took: Duration, turned_away: u64 },
    /// The worker sent something that is not the protocol; it was skipped.
    Garbage { worker: WorkerId, error: String },
    /// Connections were closed because their listener was, before a worker took them.
    Dropped { app: AppId, address: String, count: u64 },
    /// Connections were closed because their app has had no ready worker for too long.
    HeldTooLong { app: AppId, address: String, count: u64 },
    /// More connections wait at a socket than half of what its queue takes.
    QueueFills { app: AppId, address: String, queued: u32, backlog: u32 },
    /// It is so no more; at most so many waited.
    QueueOver { app: AppId, address: String, took: Duration, most: u32 },
    /// The program's own policy of a listener has panicked, and is not asked again.
    PolicyFailed { app: AppId, address: String, reason: String },
    /// Datagrams wait at so many sockets that nobody has, while others serve. A worker of this slot could read them.
    Orphaned { app: AppId, address: String, count: u32, slot: Slot },
    /// The system is short of something; of descriptors, this process may have so many.
    Shortage { of: Shortage, limit: Option<u64> },
    /// It is so no more, so long after something was missed for the first time.
    ShortageOver { of: Shortage, took: Duration },
    /// Connections were closed because this process has no free descriptors.
    Shed { app: AppId, count: u64 },
    /// A listener accepts no connections any more; the workers that asked for it do not know.
    ListenerLost { app: AppId, address: String, error: String },
}

impl Plane {
    pub(super) fn on_command(&mut self, command: Command) {
        match command {
            Command::OpenApp { app, policies, inherited, hold, limits } => {
                for socket in &inherited {
                    self.depths.watch(socket);
                }
                let hold = Hold::new(hold, self.now);
                let known = PlaneApp {
                    policies,
                    inherited,
                    closing: None,
                    closed_listeners: 0,
                    hold,
                    limits,
                    overloaded: None,
                    closed_at: None,
                };
                self.apps.insert(app, known);
            }
            Command::CloseApp { app, drained } => self.close_app(app, drained),
            Command::ForgetApp { app } => self.forget_app(app),
            Command::AddPeer(spec) => self.add_peer(spec),
            Command::Rotate { worker, in_rotation } => self.rotate(worker, in_rotation),
            Command::Rebalance { newcomer } => self.rebalance(newcomer),
            Command::Disconnect { worker, within } => {
                if let Some(seat) = self.seat_of(worker) {
                    self.hurry_after(seat, within / 2);
                    self.disconnect_when_read(seat, within);
                }
            }
            Command::Send { worker, message, sent } => {
                let result = self.send_user(worker, message);
                // The sender may have stopped waiting.
                let _unheard = sent.send(result);
            }
            Command::Relay { to, message, credit } => {
                for worker in to {
                    // Node's primary takes no notice of a failure either.
                    let _lost = self.send_user(worker, Arc::clone(&message));
                }
                drop(credit);
            }
            Command::Probe { worker, connection, taken } => self.probe(worker, connection, taken),
            Command::Forget { worker } => {
                if let Some(seat) = self.seat_of(worker) {
                    self.read_rest(seat);
                    self.close_peer(seat);
                }
            }
            Command::Count { tally } => {
                let _unheard = tally.send(self.switchboard.tally());
            }
            Command::NoteShortage { of } => self.note_shortage(of),
            Command::Queues { app, queues } => {
                let _unheard = queues.send(self.queues_of(app));
            }
            Command::CountOf { app, count } => {
                let _unheard = count.send(self.count_of(app));
            }
        }
    }

    fn rotate(&mut self, worker: WorkerId, in_rotation: bool) {
        let now = self.now;
        if let Some(app) = self.apps.get_mut(&worker.app) {
            app.hold.rotate(worker, in_rotation, now);
        }
        let Some(seat) = self.seat_of(worker) else { return };
        if !in_rotation {
            // Whether it has ended, which its channel says, matters to what waits for it.
            self.read(seat);
        }
        let Some(peer) = self.peer_mut(seat) else { return };
        // What it has said since may be on its way to whoever sent this.
        let in_rotation = in_rotation && !peer.stage.is_last();
        peer.in_rotation_since = in_rotation.then_some(now);
        peer.was_in_rotation |= in_rotation;
        self.with_courier(|switchboard, now, courier| {
            switchboard.set_rotation(seat, in_rotation, now, courier);
        });
        // Whoever asks for something after this finds it done.
        self.steer();
        self.look_at_left_behind_soon();
        if in_rotation {
            self.ask_leaving(worker.app);
        } else {
            self.empty(seat);
        }
    }

    fn add_peer(&mut self, spec: PeerSpec) {
        let enough = spec.enough;
        let peer = Peer::new(spec, self.poll.waker());
        let worker = peer.worker;
        let seat = self.switchboard.add_seat(
            if peer.takes_one_at_a_time() { 1 } else { WINDOW },
            worker.number,
            peer.slot,
        );
        if let Err(error) = self.poll.add(peer.channel.as_fd(), Token::Peer(seat), Interest::READ) {
            // Without memory for one more registration the worker cannot be served: it is as good as gone.
            tell(&self.facts, Fact::Garbage { worker, error: error.to_string() });
            tell(&self.facts, Fact::Closed { worker, open: None });
            self.with_courier(|switchboard, now, courier| switchboard.remove_seat(seat, now, courier));
            return;
        }
        if let Some(connections) = enough {
            self.switchboard.count_to(seat, connections);
        }
        put(&mut self.peers, seat.0, peer);
        self.limit_seat(seat);
    }

    fn count_of(&self, app: AppId) -> AppCount {
        AppCount {
            tally: self.lines_of(app).into_iter().map(|line| self.switchboard.tally_of(line)).sum(),
            closed_listeners: self.apps.get(&app).map_or(0, |app| app.closed_listeners),
        }
    }

    fn send_user(&mut self, worker: WorkerId, message: impl Into<Bytes>) -> Result<(), SendError> {
        let seat = self.seat_of(worker).ok_or(SendError::Gone)?;
        let peer = self.peer_mut(seat).ok_or(SendError::Gone)?;
        let broken = peer.channel.send_bounded(message, None)?.is_err();
        if broken {
            return Err(SendError::Gone);
        }
        self.apply_interest(seat);
        Ok(())
    }

    pub(super) fn seat_of(&self, worker: WorkerId) -> Option<SeatId> {
        let found = |peer: &Option<Peer>| peer.as_ref().is_some_and(|peer| peer.worker == worker);
        self.peers.iter().position(found).map(SeatId)
    }
}
