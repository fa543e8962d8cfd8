//! The data plane: listeners, channels and hand-over, on a thread and an event loop of their own.
//!
//! The control plane talks to it by [`Command`]s and hears [`Fact`]s from it; neither waits for the other. All
//! decisions about connections are made by the [switchboard](crate::handover); this is its shell.
//!
//! Two things have a name on each side: the *seat* of a worker in the switchboard is a `Peer` here, with its
//! channel; a *line* there is a `Port` here, with its listening socket. They share an index.
//!
//! One rule shapes the loop: **answers are read in batches**. A worker answers each connection with two
//! messages; waking up for each would cost as much as the hand-over itself. So while a worker has unanswered
//! hand-overs its channel is not polled, but read when half of its window is used or after [`SWEEP_EVERY`];
//! after [`SWEEP_FULL`] when its whole window is used, or it would wait for work.
//! The kernel reports a broken channel in any case.

mod accept;
mod advising;
mod closing;
mod command;
mod counting;
mod courier;
mod depth;
mod flows;
mod giving;
mod holding;
mod hurrying;
mod looking;
mod messages;
mod overload;
mod peer;
mod pinging;
mod poll;
mod port;
mod probe;
mod query;
mod shortage;
mod spreading;
mod stalled;
mod timed;
mod traffic;
mod turning_away;

use std::collections::HashMap;
use std::io;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread;
use std::time::{Duration, Instant};

use std::os::fd::OwnedFd;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use worksong_channel::Incoming;
use worksong_channel::channel::READ_BUFFER;
use worksong_channel::message::DecodeError;

use self::closing::Closing;
pub use self::command::SendError;
pub(crate) use self::command::{AppCount, Command, Fact, PeerSpec};
use self::courier::Courier;
use self::depth::Depths;
pub use self::depth::Queue;
pub(crate) use self::holding::read_off;
use self::looking::Looked;
use self::overload::Overloaded;
pub(crate) use self::peer::Credit;
use self::peer::Peer;
use self::poll::{Poll, Ready, Token, Waker};
use self::port::Port;
pub(crate) use self::probe::NotTaken;
use self::timed::Timed;
use self::turning_away::TurnedAway;
use crate::handover::{Hold, LineId, Notice, SeatId, Switchboard};
use crate::ids::AppId;
use crate::spec::{OpenLimits, Policies};

/// How long answers to hand-overs may lie unread. It bounds how late other messages of a busy worker are seen.
const SWEEP_EVERY: Duration = Duration::from_millis(2);
/// The same for a worker with a full window: about as long as it takes to accept half of it.
const SWEEP_FULL: Duration = Duration::from_micros(500);
/// How many commands may wait; the control plane waits when there are more.
const COMMANDS: usize = 1024;

/// The control plane's end. Dropping it ends the data plane's thread.
#[derive(Debug)]
pub(crate) struct PlaneHandle {
    commands: Option<SyncSender<Command>>,
    waker: Arc<Waker>,
    thread: Option<thread::JoinHandle<()>>,
}

impl PlaneHandle {
    /// Starts the data plane. Facts come in order; what they hold of user messages is bounded per worker.
    pub(crate) fn start() -> io::Result<(Self, UnboundedReceiver<Fact>)> {
        let (commands, inbox) = sync_channel(COMMANDS);
        // Unbounded in type only: protocol facts are bounded by the number of workers and listeners, user
        // messages by each worker's credit (see `peer::Credit`).
        let (facts, told) = unbounded_channel();
        let plane = Plane::new(inbox, facts)?;
        let waker = plane.poll.waker();
        let thread = thread::Builder::new().name("worksong-data".to_owned()).spawn(move || plane.run())?;
        Ok((Self { commands: Some(commands), waker, thread: Some(thread) }, told))
    }

    /// Sends a command. The data plane never blocks, so this waits only for it to catch up.
    pub(crate) fn send(&self, command: Command) {
        if let Some(commands) = &self.commands {
            // The thread ends before its handle only by a panic, which `drop` reports.
            let _ended = commands.send(command);
            self.waker.wake();
        }
    }
}

impl Drop for PlaneHandle {
    fn drop(&mut self) {
        self.commands = None;
        self.waker.wake();
        if let Some(thread) = self.thread.take()
            && let Err(panic) = thread.join()
            && !thread::panicking()
        {
            std::panic::resume_unwind(panic);
        }
    }
}

/// The state of the data plane, owned by its thread.
struct Plane {
    poll: Poll,
    commands: Receiver<Command>,
    facts: UnboundedSender<Fact>,
    switchboard: Switchboard<OwnedFd>,
    /// Indexed by [`SeatId`].
    peers: Vec<Option<Peer>>,
    /// Indexed by [`LineId`].
    ports: Vec<Option<Port>>,
    apps: HashMap<AppId, PlaneApp>,
    /// Numbers our messages other than hand-overs.
    next_seq: u64,
    scratch: Box<[u8]>,
    /// Empty between reads.
    incoming: Vec<Result<Incoming<OwnedFd>, DecodeError>>,
    message: Vec<u8>,
    /// When unread answers are looked for.
    sweep_at: Option<Instant>,
    /// Workers that used half of their window since the last look.
    half_full: Vec<SeatId>,
    looking: Timed<Looked>,
    turned_away: Timed<TurnedAway>,
    /// Listeners that could not get a descriptor for a connection.
    starved: Option<shortage::Starved>,
    /// What the system is short of, until that has been over for a while.
    shortage: Option<shortage::Episode>,
    /// Workers that are asked for more connections when those that wait have found a worker.
    postponed: Vec<SeatId>,
    /// When workers are looked at that were told to leave and have not given everything back.
    look_at_leaving_at: Option<Instant>,
    /// When workers are looked at that were told to leave and may have to hurry.
    look_at_haste_at: Option<Instant>,
    /// When workers are looked at that were told to leave and have datagrams to read.
    look_at_flows_at: Option<Instant>,
    /// When datagrams are looked for that workers left behind.
    look_at_left_behind_at: Option<Instant>,
    /// When workers are pinged.
    ping_at: Option<Instant>,
    depths: Depths,
    /// When listeners without workers are looked for.
    look_for_unused_at: Option<Instant>,
    /// Given up to close a connection that there is no descriptor for.
    spare: Option<OwnedFd>,
    /// When the time alone is a reason to do something, as far as it was known after the last turn.
    due_at: Option<Instant>,
    now: Instant,
}

/// What the data plane knows of an app.
struct PlaneApp {
    policies: Policies,
    /// The app's `--listen` sockets.
    inherited: Vec<OwnedFd>,
    /// No listener is opened any more.
    closing: Option<Closing>,
    closed_listeners: u64,
    hold: Hold,
    limits: OpenLimits,
    /// Connections meet a limit.
    overloaded: Option<Overloaded>,
    /// When connections were closed last that had waited too long for a worker at its limit.
    closed_at: Option<Instant>,
}

impl Plane {
    fn new(commands: Receiver<Command>, facts: UnboundedSender<Fact>) -> io::Result<Self> {
        let poll = Poll::new()?;
        Ok(Self {
            depths: Depths::new(&poll)?,
            poll,
            commands,
            facts,
            switchboard: Switchboard::default(),
            peers: Vec::new(),
            ports: Vec::new(),
            apps: HashMap::new(),
            next_seq: 0,
            scratch: vec![0; READ_BUFFER].into_boxed_slice(),
            incoming: Vec::new(),
            message: Vec::new(),
            sweep_at: None,
            half_full: Vec::new(),
            looking: Timed::default(),
            turned_away: Timed::default(),
            starved: None,
            shortage: None,
            postponed: Vec::new(),
            ping_at: None,
            look_at_leaving_at: None,
            look_at_haste_at: None,
            look_at_flows_at: None,
            look_at_left_behind_at: None,
            look_for_unused_at: None,
            spare: shortage::spare().ok(),
            due_at: None,
            now: Instant::now(),
        })
    }

    fn run(mut self) {
        let mut ready = Vec::new();
        let mut running = true;
        while running {
            let timeout = self.due_at.map(|at| at.saturating_duration_since(Instant::now()));
            self.poll.wait(timeout, &mut ready);
            running = self.turn(&mut ready, Instant::now());
        }
    }

    /// Does what is ready and what is due. Returns false when the control plane is gone.
    fn turn(&mut self, ready: &mut Vec<Ready>, now: Instant) -> bool {
        let mut running = true;
        self.now = now;
        // Before anything is handed over: who has answered already is not late.
        self.sweep_in_time();
        for event in ready.drain(..) {
            match event.token {
                Token::Wake => running = self.on_wake(),
                Token::Arrivals => self.on_arrival(),
                Token::Peer(seat) => self.on_peer(seat, event),
                Token::Looked(id) => self.on_looked(id),
                Token::TurnedAway(id) => self.on_turned_away(id),
                Token::Entrance(at) => self.on_entrance(at, event),
            }
        }
        if self.due_at.is_some_and(|at| at <= now) {
            self.on_time();
        }
        self.look_at_depths();
        self.ask_again();
        self.read_half_full();
        self.drain();
        self.steer();
        self.reopen_ports();
        self.hold_kept_out();
        self.tell_notices();
        self.tell_failed_policies();
        self.due_at = self.next_deadline();
        running
    }

    fn next_deadline(&self) -> Option<Instant> {
        let starved = self.starved.as_ref().map(|starved| starved.retry_at);
        let abandoned = self.next_abandoned();
        let settled = self.next_settled();
        [
            self.sweep_at,
            self.switchboard.next_deadline(),
            starved,
            self.next_shortage_look(),
            abandoned,
            settled,
            self.next_held_too_long(),
            self.look_for_unused_at,
            self.look_at_leaving_at,
            self.look_at_haste_at,
            self.next_flows_look(),
            self.ping_at,
            self.next_look(),
            self.next_look_over(),
            self.next_turned_away_over(),
            self.next_overload_over(),
            self.next_kept_out_too_long(),
            self.next_depth_look(),
        ]
        .into_iter()
        .flatten()
        .min()
    }

    /// Returns false when the control plane is gone.
    fn on_wake(&mut self) -> bool {
        self.poll.clear_wake();
        self.resume_reading();
        loop {
            match self.commands.try_recv() {
                Ok(command) => self.on_command(command),
                Err(std::sync::mpsc::TryRecvError::Empty) => return true,
                Err(std::sync::mpsc::TryRecvError::Disconnected) => return false,
            }
        }
    }

    fn on_time(&mut self) {
        if self.switchboard.next_deadline().is_some_and(|at| at <= self.now) {
            self.with_courier(|switchboard, now, courier| switchboard.tick(now, courier));
        }
        self.retry_starved();
        self.look_at_shortage();
        self.close_abandoned_ports();
        self.close_unused_ports();
        self.end_patience();
        self.hurry_those_in_time();
        self.look_at_flows();
        self.look_at_left_behind();
        self.ping();
        self.look_at_queues();
        self.end_long_looks();
        self.end_turned_away_over();
        self.end_overloads();
        self.close_kept_out();
        self.close_held_too_long();
    }

    /// Reads the answers of all workers whose channels are not polled, and tries again what the system had no room for, when
    /// it is time.
    fn sweep_in_time(&mut self) {
        if self.sweep_at.is_none_or(|at| at > self.now) {
            return;
        }
        self.sweep_at = None;
        for index in 0..self.peers.len() {
            let seat = SeatId(index);
            if self.peer(seat).is_some_and(|peer| peer.channel.is_exhausted()) {
                let _broken = self.flush(seat);
            }
            self.look_for_silence(seat);
            if self.peer(seat).is_some_and(Peer::is_quiet) {
                self.read(seat);
                self.poll_again_when_idle(seat);
            }
        }
    }

    /// Runs a switchboard call that may hand connections over.
    fn with_courier<R>(
        &mut self,
        call: impl FnOnce(&mut Switchboard<OwnedFd>, Instant, &mut Courier<'_>) -> R,
    ) -> R {
        let mut courier = Courier {
            poll: &self.poll,
            peers: &mut self.peers,
            ports: &mut self.ports,
            message: &mut self.message,
            half_full: &mut self.half_full,
            look_again: None,
        };
        let result = call(&mut self.switchboard, self.now, &mut courier);
        if let Some(after) = courier.look_again {
            let at = self.now + after;
            self.sweep_at = Some(self.sweep_at.map_or(at, |sooner| sooner.min(at)));
        }
        result
    }

    fn tell_notices(&mut self) {
        let notices: Vec<Notice> = self.switchboard.take_notices().collect();
        for notice in notices {
            let (Notice::Overdue(seat, _)
            | Notice::Answering(seat)
            | Notice::TookEnough(seat, _)
            | Notice::Uncounted(seat)
            | Notice::Probed { seat, .. }) = notice;
            let Some(worker) = self.peer(seat).map(|peer| peer.worker) else { continue };
            match notice {
                Notice::Overdue(_, waiting) => {
                    // It gets nothing more, so there is nothing to collect: its next sign of life is news.
                    self.read_at_once(seat);
                    tell(&self.facts, Fact::Overdue { worker, waiting });
                }
                Notice::Probed { accepted, .. } => self.on_probed(seat, accepted),
                Notice::Answering(_) => {
                    self.look_at_left_behind_soon();
                    tell(&self.facts, Fact::Answering { worker });
                }
                Notice::Uncounted(_) => tell(&self.facts, Fact::Uncounted { worker }),
                Notice::TookEnough(_, connections) => {
                    tell(&self.facts, Fact::TookEnough { worker, connections });
                }
            }
        }
    }

    fn peer(&self, seat: SeatId) -> Option<&Peer> {
        self.peers.get(seat.0).and_then(Option::as_ref)
    }

    fn peer_mut(&mut self, seat: SeatId) -> Option<&mut Peer> {
        self.peers.get_mut(seat.0).and_then(Option::as_mut)
    }

    fn port(&self, line: LineId) -> Option<&Port> {
        self.ports.get(line.0).and_then(Option::as_ref)
    }

    fn port_mut(&mut self, line: LineId) -> Option<&mut Port> {
        self.ports.get_mut(line.0).and_then(Option::as_mut)
    }

    fn seq(&mut self) -> u64 {
        self.next_seq += 1;
        self.next_seq
    }
}

/// Tells the control plane; when it is gone nobody needs to know.
fn tell(facts: &UnboundedSender<Fact>, fact: Fact) {
    let _gone = facts.send(fact);
}

/// Puts a value at an index that may be one past the end or free.
fn put<T>(slots: &mut Vec<Option<T>>, index: usize, value: T) {
    if slots.len() <= index {
        slots.resize_with(index + 1, || None);
    }
    slots[index] = Some(value);
}

#[cfg(test)]
mod tests;
