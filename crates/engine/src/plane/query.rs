//! Servers that workers ask for: one listener per key, shared by all who ask for the same.

use std::io;
use std::time::{Duration, Instant};

use rustix::io::Errno;
use serde_json::value::RawValue;
use worksong_channel::message::encode::{self, EncodedKey};
use worksong_channel::message::{ServerQuery, ServerReply};

use super::advising::Adviser;
use super::peer::{FAILURE_COST, Peer, Share};
use super::poll::{Interest, Token};
use super::port::{Abandoned, Accepting, Entrance, EntranceId, Guide, Manner, Port, Watch};
use super::{Fact, Plane, put, tell};
use crate::handover::{Choice, LineId, SeatId};
use crate::ids::AppId;
use crate::listen::{self, BindError};
use crate::shortage::Shortage;
use crate::spec::Policy;

/// How long a listener that no worker has open any more is kept, in case the last worker is leaving.
const ABANDONED_AFTER: Duration = Duration::from_secs(5);
/// How often a shared socket is sent to a worker that does not get it.
const SHARE_TRIES: u32 = 4;
/// How many servers one worker may have open: each costs the primary a descriptor.
const MAX_SERVERS: usize = 1024;
/// How long the data may be that a worker wants the others to get: TLS ticket keys have 48 bytes.
const MAX_DATA: usize = 64 * 1024;
/// How long a listener without workers is kept while workers of its app are in rotation without it.
const UNUSED_AFTER: Duration = Duration::from_mins(1);
const LOOK_FOR_UNUSED_EVERY: Duration = Duration::from_secs(10);

impl Plane {
    pub(super) fn on_query(&mut self, seat: SeatId, seq: u64, mut query: ServerQuery) {
        let Some(peer) = self.peer(seat) else { return };
        let app = peer.worker.app;
        // A worker that leaves, of an app that ends, would listen on a server that nobody closes.
        if peer.stage.is_last() || self.apps.get(&app).is_none_or(|app| app.closing.is_some()) {
            return;
        }
        let key = key_of(&query);
        let data = query.data.take().filter(|data| data.get().len() <= MAX_DATA);
        let is_full = peer.servers.len() >= MAX_SERVERS;
        let mut short = None;
        let known = self.known_line(app, &key, &query);
        let open = known.filter(|line| peer.servers.values().any(|open| open == line));
        let result = if is_full {
            Err(BindError { address: key.clone(), source: io::Error::from_raw_os_error(libc::EMFILE) })
        } else if let Some(line) = open {
            let address =
                self.port(line).map_or_else(|| key.clone(), |port| port.listener.address.to_string());
            Err(BindError { address, source: io::Error::from_raw_os_error(libc::EADDRINUSE) })
        } else if let Some(line) = known {
            Ok(line)
        } else {
            self.open_line(app, &key, &query).inspect_err(|error| {
                short = Errno::from_io_error(&error.source).and_then(Shortage::of);
            })
        };
        if let Some(of) = short {
            self.note_shortage(of);
        }
        match result {
            Ok(line) => self.give(seat, seq, line, data),
            Err(error) => {
                let reply = ServerReply { errno: error.errno(), key, data, sockname: None };
                self.refuse_server(seat, seq, &reply, error);
            }
        }
    }

    /// Answers a query with an error, which is also told. The reply has the data all the same: a TLS server that
    /// asked wants them in any case.
    fn refuse_server(&mut self, seat: SeatId, seq: u64, reply: &ServerReply, error: BindError) {
        let Some(peer) = self.peer(seat) else { return };
        let fact = Fact::ListenFailed {
            worker: peer.worker,
            errno: error.errno(),
            error: error.source.to_string(),
            address: error.address,
            credit: peer.credits.take(FAILURE_COST),
        };
        tell(&self.facts, fact);
        // Only now: the worker may end of the answer, and its end is told with what is known by then.
        let reply_seq = self.seq();
        self.send(seat, encode::server_reply(reply, seq, reply_seq), None);
    }

    /// Finds the listener that the app has for this key, or for its own socket whose datagrams are spread, under another
    /// name: what binds that again would take datagrams from the others.
    fn known_line(&self, app: AppId, key: &str, query: &ServerQuery) -> Option<LineId> {
        let find = |is_meant: &dyn Fn(&Port) -> bool| {
            let found = |port: &Port| port.app == app && is_meant(port);
            self.ports.iter().position(|port| port.as_ref().is_some_and(found)).map(LineId)
        };
        find(&|port| port.key == key).or_else(|| {
            let own = listen::own_socket(query, &self.apps.get(&app)?.inherited)?;
            let own = listen::address_of(own).ok()?;
            find(&|port| port.spreads_datagrams_at(&own))
        })
    }

    /// Binds the listener for a key.
    fn open_line(&mut self, app: AppId, key: &str, query: &ServerQuery) -> Result<LineId, BindError> {
        let known = self.apps.get(&app);
        let inherited = known.map_or(&[][..], |app| &app.inherited);
        let asked = listen::asked_for(query, inherited);
        let policy = known.map_or(Policy::default(), |app| app.policies.of(asked.as_ref()).clone());
        let mut listener = listen::for_query(query, inherited, policy.spread())?;
        let is_datagram =
            query.address_type.is_datagram() || matches!(listener.address, listen::Address::Udp(_));
        let manner = match &policy {
            _ if listener.flows().is_some() => Manner::Flows,
            _ if is_datagram => Manner::Shared,
            Policy::Shared => Manner::Shared,
            Policy::Kernel(_) if listener.group_mut().is_some() => Manner::Spread,
            Policy::Kernel(_)
            | Policy::RoundRobin
            | Policy::Least
            | Policy::Sticky(_)
            | Policy::Custom(_) => Manner::HandedOver,
        };
        let (choice, guide) = match policy {
            Policy::Sticky(by) => (Choice::ByKey, Guide::Sticky(by)),
            Policy::Custom(custom) => (Choice::Asked, Guide::Own(Adviser::new(&custom))),
            Policy::Least => (Choice::Least, Guide::Nothing),
            Policy::RoundRobin | Policy::Shared | Policy::Kernel(_) => (Choice::InTurn, Guide::Nothing),
        };
        let line = self.switchboard.add_line(choice);
        if let Some(limits) = self.apps.get(&app).and_then(|known| known.limits(app)) {
            self.switchboard.limit_line(line, limits);
        }
        let at = EntranceId { line, index: 0 };
        let accepting = match manner {
            Manner::Shared => {
                if listener.address.takes_connections() {
                    self.depths.watch(listener.socket());
                }
                Accepting::Theirs
            }
            Manner::Flows => Accepting::Theirs,
            Manner::HandedOver | Manner::Spread => {
                let added = self.poll.add(listener.socket(), Token::Entrance(at), Interest::NONE);
                if let Err(source) = added {
                    self.switchboard.remove_line(line);
                    return Err(BindError { address: listener.address.to_string(), source });
                }
                Accepting::Paused
            }
        };
        let port = Port {
            app,
            key: key.to_owned(),
            encoded_key: EncodedKey::new(key),
            listener,
            data: None,
            manner,
            guide,
            entrances: vec![Entrance::new(accepting, self.now)],
            targets: Vec::new(),
            watch: Watch::Asleep,
            abandoned: None,
            unused_since: None,
        };
        put(&mut self.ports, line.0, port);
        Ok(line)
    }

    /// Answers a query with the listener, and lets the worker take part in it.
    fn give(&mut self, seat: SeatId, seq: u64, line: LineId, data: Option<Box<RawValue>>) {
        let Some(port) = self.port_mut(line) else { return };
        port.abandoned = None;
        if port.data.is_none() {
            port.data = data;
        }
        let key = port.key.clone();
        match port.manner {
            Manner::Shared | Manner::Spread | Manner::Flows => {
                if !self.share(seat, Share { line: Some(line), query_seq: seq, tries: 1 }) {
                    return;
                }
            }
            Manner::HandedOver => {
                let sockname = port.listener.address.sock_name();
                let reply = ServerReply { errno: 0, key: key.clone(), data: port.data.clone(), sockname };
                let reply_seq = self.seq();
                self.send(seat, encode::server_reply(&reply, seq, reply_seq), None);
            }
        }
        if let Some(peer) = self.peer_mut(seat) {
            peer.servers.insert(key, line);
            peer.closed.retain(|closed| *closed != line);
        }
        self.with_courier(|switchboard, now, courier| switchboard.join(line, seat, now, courier));
    }

    /// Sends a worker the listening socket itself, as the answer to its question; `false`: an error is the answer.
    fn share(&mut self, seat: SeatId, share: Share) -> bool {
        let reply_seq = self.seq();
        let socket = share.line.map(|line| self.socket_for(line, seat));
        let Some(port) = share.line.and_then(|line| self.port(line)) else { return false };
        let mut reply =
            ServerReply { errno: 0, key: port.key.clone(), data: port.data.clone(), sockname: None };
        match socket.unwrap_or_else(|| Err(io::Error::from_raw_os_error(libc::EBADF))) {
            Ok(handle) => {
                let datagram = matches!(port.listener.address, listen::Address::Udp(_));
                let message = encode::shared_server_reply(&reply, datagram, share.query_seq, reply_seq);
                self.switchboard.sent_other(seat, self.now);
                if let Some(peer) = self.peer_mut(seat) {
                    peer.shares.push_back(share);
                }
                self.send(seat, message, Some(handle));
                true
            }
            Err(source) => {
                let error = BindError { address: port.listener.address.to_string(), source };
                reply.errno = error.errno();
                self.refuse_server(seat, share.query_seq, &reply, error);
                false
            }
        }
    }

    /// Sends a shared socket again that got lost on the way, as Node's primary does. A worker that never gets it is
    /// told an error, or it would wait for ever.
    pub(super) fn share_again(&mut self, seat: SeatId, lost: Share) {
        let Some(port) = lost.line.and_then(|line| self.port(line)) else { return };
        let (key, address) = (port.key.clone(), port.listener.address.to_string());
        let data = port.data.clone();
        let is_shared = if lost.tries < SHARE_TRIES {
            self.share(seat, Share { tries: lost.tries + 1, ..lost })
        } else {
            let error = BindError { address, source: io::Error::from_raw_os_error(libc::EMFILE) };
            let reply = ServerReply { errno: error.errno(), key: key.clone(), data, sockname: None };
            self.refuse_server(seat, lost.query_seq, &reply, error);
            false
        };
        if !is_shared {
            self.on_close(seat, &key);
        }
    }

    /// A worker closed a server. When the last one does so by itself, the program wants the port free; workers
    /// that leave or die keep it open for their successors.
    ///
    /// A Node worker that leaves by itself closes its servers first and says so only when their connections have
    /// ended, so the last `close` is believed after [`ABANDONED_AFTER`].
    pub(super) fn on_close(&mut self, seat: SeatId, key: &str) {
        let until = self.now + ABANDONED_AFTER;
        let Some(peer) = self.peer_mut(seat) else { return };
        let (leaving, worker) = (peer.stage.is_last(), peer.worker);
        let Some(line) = peer.servers.remove(key) else { return };
        self.with_courier(|switchboard, now, courier| switchboard.leave(line, seat, now, courier));
        self.free_entrances(seat, Some(line));
        self.release_flows(worker, Some(line));
        self.look_for_unused_soon();
        if !leaving
            && !self.switchboard.has_members(line)
            && let Some(port) = self.port_mut(line)
        {
            port.abandoned = Some(Abandoned { by: seat, until });
        }
        if !leaving {
            self.empty_closed(seat, line);
        }
    }

    /// Keeps the listeners open that a worker closed because it leaves.
    pub(super) fn keep_ports_of(&mut self, seat: SeatId) {
        for port in self.ports.iter_mut().flatten() {
            port.abandoned = port.abandoned.filter(|abandoned| abandoned.by != seat);
        }
    }

    /// Returns when the next abandoned port becomes free.
    pub(super) fn next_abandoned(&self) -> Option<Instant> {
        self.ports.iter().flatten().filter_map(|port| port.abandoned).map(|abandoned| abandoned.until).min()
    }

    pub(super) fn close_abandoned_ports(&mut self) {
        for index in 0..self.ports.len() {
            let line = LineId(index);
            let over = |abandoned: Abandoned| abandoned.until <= self.now;
            if self.port(line).and_then(|port| port.abandoned).is_some_and(over) {
                self.close_port(line);
            }
        }
    }

    pub(super) fn look_for_unused_soon(&mut self) {
        self.look_for_unused_at.get_or_insert(self.now + LOOK_FOR_UNUSED_EVERY);
    }

    /// Closes listeners that no worker has had open for a long time, while others of the same app were in rotation:
    /// the program runs without them. Before that, they wait for a successor.
    pub(super) fn close_unused_ports(&mut self) {
        if self.look_for_unused_at.is_none_or(|at| at > self.now) {
            return;
        }
        self.look_for_unused_at = None;
        let now = self.now;
        let is_long_ago = |since: Instant| now.saturating_duration_since(since) >= UNUSED_AFTER;
        for index in 0..self.ports.len() {
            let line = LineId(index);
            let has_members = self.switchboard.has_members(line);
            let Some(port) = self.port_mut(line) else { continue };
            if has_members {
                port.unused_since = None;
                continue;
            }
            let (app, since) = (port.app, *port.unused_since.get_or_insert(now));
            let is_steady =
                |peer: &Peer| peer.worker.app == app && peer.in_rotation_since.is_some_and(is_long_ago);
            if is_long_ago(since) && self.peers.iter().flatten().any(is_steady) {
                self.close_port(line);
            } else {
                self.look_for_unused_soon();
            }
        }
    }
}

/// Returns the name under which workers share a server: Node's own, with the index only where it matters.
///
/// With port 0 the n-th server of every worker shares one port; with a fixed port a second server of the same
/// worker is an error, as the kernel would say.
fn key_of(query: &ServerQuery) -> String {
    let text = |value: Option<String>, none: &str| value.unwrap_or_else(|| none.to_owned());
    let kind = serde_json::to_string(&query.address_type).unwrap_or_default();
    let key = format!(
        "{}:{}:{}:{}",
        text(query.address.clone(), "null"),
        text(query.port.map(|port| port.to_string()), "null"),
        kind.trim_matches('"'),
        text(query.fd.map(|fd| fd.to_string()), "undefined"),
    );
    if query.port == Some(0) { format!("{key}:{}", query.index) } else { key }
}
