//! The end of listeners: of one, and of all that an app has.
//!
//! Closing a listening socket resets the connections in its queue. So when an app stops, its sockets first refuse what
//! is new ([`refuse_new_connections`]); what was under way has [`SETTLING`] to arrive; then the queues are emptied, and
//! a socket is closed when no connection of it waits for a worker or its answer any more, or no worker is in rotation.

use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use rustix::io::Errno;
use tokio::sync::oneshot;

use super::accept::Rest;
use super::port::{Manner, Port};
use super::{Fact, Plane, tell};
use crate::handover::LineId;
use crate::ids::AppId;
use crate::listen::{address_of, queued, refuse_new_connections};

/// For how long connections may arrive that were under way when the app was told to stop: the last part of a
/// handshake takes one way through the network.
const SETTLING: Duration = Duration::from_millis(100);
/// How much longer workers that accept by themselves, from one socket, have for what waits there: it is reset when the last of
/// them closes it.
const LAST_ACCEPTS: Duration = Duration::from_millis(800);
/// How soon it is looked again whether they have accepted it.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// How far the end of an app's listeners is.
#[derive(Debug)]
pub(super) struct Closing {
    stage: Stage,
    /// Whom to tell when nothing waits any more.
    drained: Option<oneshot::Sender<()>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// Nothing new gets in; what is under way arrives until then, or is accepted by workers, at the latest until another time.
    Settling { until: Instant, latest: Instant },
    /// Listeners are closed as soon as nothing waits for them.
    Emptying,
}

impl Plane {
    pub(super) fn close_app(&mut self, app: AppId, drained: oneshot::Sender<()>) {
        let until = self.now + SETTLING;
        let Some(known) = self.apps.get_mut(&app) else { return };
        if known.closing.is_some() {
            return;
        }
        let stage = Stage::Settling { until, latest: until + LAST_ACCEPTS };
        known.closing = Some(Closing { stage, drained: Some(drained) });
        known.inherited.iter().for_each(refuse_new_connections);
        for port in self.ports.iter_mut().flatten().filter(|port| port.app == app) {
            port.listener.refuse_new();
        }
        self.end_looks_of(app);
        self.end_moves(app);
    }

    /// Closes what an app that has ended still has open.
    pub(super) fn forget_app(&mut self, app: AppId) {
        for line in self.lines_of(app) {
            self.close_port(line);
        }
        self.apps.remove(&app);
    }

    /// Returns when the next closing app has waited for what is under way.
    pub(super) fn next_settled(&self) -> Option<Instant> {
        let until = |closing: &Closing| match closing.stage {
            Stage::Settling { until, .. } => Some(until),
            Stage::Emptying => None,
        };
        self.apps.values().filter_map(|app| until(app.closing.as_ref()?)).min()
    }

    /// Empties the queues of closing apps whose time has come, and closes the listeners for which nothing waits any
    /// more, or nobody is left in rotation. Everything may change that, so it is done whenever the loop is awake.
    pub(super) fn drain(&mut self) {
        let mut emptying = Vec::new();
        let now = self.now;
        for (id, app) in &mut self.apps {
            let Some(closing) = &mut app.closing else { continue };
            match &mut closing.stage {
                Stage::Settling { until, .. } if *until > now => {}
                Stage::Settling { until, latest }
                    if now < *latest && waits_for_workers(&self.ports, *id, &app.inherited) =>
                {
                    *until = now + LOOK_EVERY;
                }
                Stage::Settling { .. } => {
                    closing.stage = Stage::Emptying;
                    app.inherited.clear();
                    emptying.push(*id);
                }
                Stage::Emptying => emptying.push(*id),
            }
        }
        for app in emptying {
            self.drain_app(app);
        }
    }

    fn drain_app(&mut self, app: AppId) {
        let mut is_empty = true;
        for line in self.lines_of(app) {
            // What is handed over and not answered may come back, and must find the line then.
            let waits = self.switchboard.is_served(line)
                && (self.accept_rest(line) == Rest::Unknown || self.switchboard.has_unfinished(line));
            if waits {
                is_empty = false;
            } else {
                self.close_port(line);
            }
        }
        let closing = self.apps.get_mut(&app).and_then(|app| app.closing.as_mut());
        if is_empty && let Some(drained) = closing.and_then(|closing| closing.drained.take()) {
            // The control plane may have stopped waiting.
            let _unheard = drained.send(());
        }
    }

    pub(super) fn close_port(&mut self, line: LineId) {
        let Some(port) = self.ports.get_mut(line.0).and_then(Option::take) else { return };
        match port.manner {
            Manner::Shared => self.depths.forget(port.listener.socket()),
            Manner::Flows => {}
            Manner::HandedOver | Manner::Spread => {
                port.listener.sockets().iter().for_each(|socket| self.poll.remove(socket));
            }
        }
        let dropped = self.switchboard.remove_line(line);
        self.drop_looks_at(line);
        if let Some(app) = self.apps.get_mut(&port.app) {
            app.closed_listeners += 1;
        }
        // The number may be another listener's soon.
        for peer in self.peers.iter_mut().flatten() {
            peer.servers.retain(|_key, open| *open != line);
            peer.closed.retain(|closed| *closed != line);
            for share in peer.shares.iter_mut().filter(|share| share.line == Some(line)) {
                share.line = None;
            }
        }
        if dropped > 0 {
            let address = port.listener.address.to_string();
            tell(&self.facts, Fact::Dropped { app: port.app, address, count: dropped });
        }
    }

    /// Gives up a listener that the kernel takes no connections for any more.
    pub(super) fn lose_port(&mut self, line: LineId, error: Errno) {
        let Some(port) = self.port(line) else { return };
        let (app, address) = (port.app, port.listener.address.to_string());
        self.close_port(line);
        tell(&self.facts, Fact::ListenerLost { app, address, error: error.to_string() });
    }

    pub(super) fn lines_of(&self, app: AppId) -> Vec<LineId> {
        let of_app = |port: &Option<Port>| port.as_ref().is_some_and(|port| port.app == app);
        let ports = self.ports.iter().enumerate();
        ports.filter(|(_, port)| of_app(port)).map(|(index, _)| LineId(index)).collect()
    }
}

/// Returns whether something waits that only workers accept.
fn waits_for_workers(ports: &[Option<Port>], app: AppId, inherited: &[OwnedFd]) -> bool {
    let of_app = || ports.iter().flatten().filter(|port| port.app == app);
    let shared = of_app().filter(|port| port.manner == Manner::Shared);
    let shared = shared.flat_map(|port| port.listener.sockets());
    let is_ours = |socket: &OwnedFd| {
        address_of(socket)
            .is_ok_and(|at| of_app().any(|port| port.manner.hands_over() && port.listener.address == at))
    };
    let inherited = inherited.iter().filter(|socket| !is_ours(socket));
    shared.chain(inherited).any(|socket| queued(socket).is_ok_and(|queued| queued > 0))
}
