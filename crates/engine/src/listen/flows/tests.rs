use std::collections::BTreeMap;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};

use super::*;
use crate::ids::AppId;
use crate::listen::Transport;

/// Workers with a socket each.
struct App {
    flows: Flows,
    sockets: BTreeMap<u32, UdpSocket>,
    serving: Vec<u32>,
}

fn worker(number: u32) -> WorkerId {
    WorkerId { app: AppId(1), number }
}

impl App {
    fn new(spread: Option<Spread>) -> Self {
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let at = At { transport: Transport::Udp, address, v6only: false };
        let flows = Flows::open(at, spread, &|_| {}).expect("a port");
        Self { flows, sockets: BTreeMap::new(), serving: Vec::new() }
    }

    /// Returns an app with a worker in rotation in each of so many slots: worker 1 in slot 0, and so on.
    fn with_slots(count: u32) -> Self {
        let mut app = Self::new(Some(Spread::Hash));
        for number in 1..=count {
            app.start(number, number - 1);
            app.rotate(number, true);
        }
        app
    }

    fn start(&mut self, number: u32, slot: u32) {
        let socket = self.flows.give(worker(number), Slot(slot), &|_| {}).expect("a socket");
        self.sockets.insert(number, socket.into());
    }

    fn rotate(&mut self, number: u32, in_rotation: bool) {
        self.serving.retain(|other| *other != number);
        self.serving.extend(in_rotation.then_some(number));
        let serving = &self.serving;
        self.flows.steer(|worker| serving.contains(&worker.number));
    }

    fn kill(&mut self, number: u32) {
        self.sockets.remove(&number);
        self.flows.release(worker(number));
        self.rotate(number, false);
    }

    fn send(&self, clients: &[UdpSocket]) {
        for client in clients {
            client.send_to(b"?", self.flows.at().address).expect("it is open");
        }
    }

    /// Reads what waits for a worker, and returns from whom it came.
    fn read(&self, number: u32) -> Vec<SocketAddr> {
        let socket = &self.sockets[&number];
        std::iter::from_fn(|| socket.recv_from(&mut [0; 8]).ok()).map(|(_, client)| client).collect()
    }

    /// Sends a datagram of each client, and returns which worker got it.
    fn homes(&self, clients: &[UdpSocket]) -> BTreeMap<SocketAddr, u32> {
        self.send(clients);
        let read =
            |number: &u32| self.read(*number).into_iter().map(|client| (client, *number)).collect::<Vec<_>>();
        let homes: BTreeMap<_, _> = self.sockets.keys().flat_map(read).collect();
        assert_eq!(homes.len(), clients.len(), "each datagram is read by one worker");
        homes
    }
}

fn clients(count: usize) -> Vec<UdpSocket> {
    (0..count).map(|_| UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port")).collect()
}

fn shares(homes: &BTreeMap<SocketAddr, u32>) -> BTreeMap<u32, usize> {
    let mut shares = BTreeMap::new();
    for number in homes.values() {
        *shares.entry(*number).or_default() += 1;
    }
    shares
}

#[test]
fn flows_are_shared_out_and_stay() {
    let app = App::with_slots(4);
    let clients = clients(400);
    let homes = app.homes(&clients);
    assert!(shares(&homes).values().all(|share| (50..=150).contains(share)), "{:?}", shares(&homes));
    assert_eq!(homes, app.homes(&clients));
}

#[test]
fn who_comes_or_goes_moves_no_flow_but_its_own() {
    let mut app = App::with_slots(4);
    let clients = clients(200);
    let before = app.homes(&clients);
    app.rotate(2, false);
    let without = app.homes(&clients);
    for (client, home) in &before {
        assert!(*home == 2 && without[client] != 2 || without[client] == *home, "{client} moved from {home}");
    }
    app.rotate(2, true);
    assert_eq!(app.homes(&clients), before);
    app.start(5, 4);
    assert_eq!(app.homes(&clients), before, "it is not in rotation");
    app.rotate(5, true);
    let with = app.homes(&clients);
    let moved = before.iter().filter(|(client, home)| with[client] != **home);
    assert!(moved.clone().all(|(client, _)| with[client] == 5));
    assert!((20..=65).contains(&moved.count()), "about a fifth");
}

#[test]
fn a_successor_gets_the_flows_of_its_slot_and_its_predecessor_reads_what_it_has() {
    let mut app = App::with_slots(3);
    let clients = clients(90);
    let before = app.homes(&clients);
    app.send(&clients);
    app.start(4, 1);
    app.rotate(4, true);
    app.rotate(2, false);
    assert!(app.flows.waits_for(worker(2)));
    let old = app.read(2);
    assert_eq!(old.len(), shares(&before)[&2], "what was queued");
    assert!(!app.flows.waits_for(worker(2)));
    app.read(1);
    app.read(3);
    let after = app.homes(&clients);
    for (client, home) in before {
        assert_eq!(after[&client], if home == 2 { 4 } else { home });
    }
}

#[test]
fn the_queue_of_a_dead_worker_is_for_the_next_one_of_its_slot() {
    let mut app = App::with_slots(2);
    let clients = clients(40);
    let homes = app.homes(&clients);
    app.send(&clients);
    app.kill(2);
    app.start(3, 0);
    assert_eq!(app.read(3), [], "another slot's is not for it");
    app.start(4, 1);
    assert_eq!(app.read(4).len(), shares(&homes)[&2]);
    app.rotate(4, true);
    app.read(1);
    let after = app.homes(&clients);
    assert!(homes.iter().all(|(client, home)| (after[client] == 4) == (*home == 2)), "its flows are back");
}

#[test]
fn datagrams_wait_while_there_is_no_worker() {
    let mut app = App::new(Some(Spread::Hash));
    let clients = clients(20);
    app.send(&clients);
    app.start(1, 0);
    assert_eq!(app.read(1).len(), 20, "the first one gets what came before it");
    app.start(2, 1);
    app.rotate(1, true);
    app.rotate(2, true);
    let homes = app.homes(&clients);
    app.kill(1);
    app.kill(2);
    app.send(&clients);
    app.start(3, 0);
    app.start(4, 1);
    let of = |number: u32| homes.values().filter(|home| **home == number).count();
    let counts = (app.read(3).len(), app.read(4).len());
    assert_eq!(counts.0 + counts.1, 20);
    assert!(counts.1 >= of(2), "they go where they went, when the last one died");
}

#[test]
fn sockets_are_used_again_by_their_slot() {
    let mut app = App::with_slots(2);
    for number in 3..40 {
        let slot = (number - 1) % 2;
        app.start(number, slot);
        app.rotate(number, true);
        app.kill(number - 2);
    }
    assert!(app.flows.sockets().len() <= 5, "{} sockets", app.flows.sockets().len());
}

#[test]
fn a_socket_that_was_connected_or_shut_down_is_not_used_again() {
    let mut app = App::with_slots(3);
    let clients = clients(60);
    let before = app.homes(&clients);
    app.sockets[&1].connect(clients[0].local_addr().expect("an address")).expect("as a program may");
    rustix::net::shutdown(&app.sockets[&2], rustix::net::Shutdown::Both).expect_err("it tells, and does it");
    for number in [1, 2] {
        app.kill(number);
        app.start(number + 3, number - 1);
        app.rotate(number + 3, true);
    }
    app.read(3);
    for number in [4, 5] {
        app.read(number);
    }
    let after = app.homes(&clients);
    for (client, home) in before {
        assert_eq!(after[&client], if home == 3 { 3 } else { home + 3 });
    }
}

#[test]
fn who_finds_no_socket_is_told_how_many_there_may_be() {
    let mut app = App::new(Some(Spread::Hash));
    let most = app.flows.group.most() as u32;
    (1..=most)
        .for_each(|number| drop(app.flows.give(worker(number), Slot(number), &|_| {}).expect("a socket")));
    let error = app.flows.give(worker(most + 1), Slot(0), &|_| {}).expect_err("there are too many");
    assert!(error.to_string().contains(&format!("between {most} sockets at most; use fewer")), "{error}");
}

#[test]
fn one_socket_for_all_is_one() {
    let mut app = App::new(None);
    app.start(1, 0);
    app.start(2, 1);
    let clients = clients(10);
    app.send(&clients);
    assert_eq!(app.read(2).len(), 10);
    assert_eq!(app.flows.sockets().len(), 1);
}

#[test]
fn a_port_that_is_taken_is_not_joined() {
    let app = App::with_slots(2);
    let error = Flows::open(app.flows.at(), Some(Spread::Hash), &|_| {}).expect_err("it is taken");
    assert_eq!(error.kind(), io::ErrorKind::AddrInUse);
}

#[test]
fn both_families_are_spread_at_one_address() {
    let address = SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0));
    let at = At { transport: Transport::Udp, address, v6only: false };
    let flows = Flows::open(at, Some(Spread::Hash), &|_| {}).expect("a port");
    let port = flows.at().address.port();
    let mut app = App { flows, sockets: BTreeMap::new(), serving: Vec::new() };
    for number in 1..=3 {
        app.start(number, number - 1);
        app.rotate(number, true);
    }
    for host in [SocketAddr::from((Ipv4Addr::LOCALHOST, 0)), SocketAddr::from((Ipv6Addr::LOCALHOST, 0))] {
        for _ in 0..120 {
            let client = UdpSocket::bind(host).expect("a port");
            client.send_to(b"?", (host.ip(), port)).expect("it is open");
        }
        let shares: Vec<usize> = (1..=3).map(|number| app.read(number).len()).collect();
        assert_eq!(shares.iter().sum::<usize>(), 120);
        assert!(shares.iter().all(|share| *share > 15), "{host}: {shares:?}");
    }
}

#[test]
fn what_nobody_can_read_is_told_while_others_serve_and_thrown_away_in_time() {
    const SECOND: Duration = Duration::from_secs(1);
    let (mut app, now) = (App::with_slots(2), Instant::now());
    let look = |app: &mut App, at: Instant| {
        let serving = app.serving.clone();
        app.flows.look_for_left_behind(|worker| serving.contains(&worker.number), SECOND * 4, at)
    };
    app.send(&clients(40));
    app.kill(2);
    app.kill(1);
    assert_eq!(look(&mut app, now), None, "they wait for the next one");
    app.start(3, 0);
    app.rotate(3, true);
    let waits = |is_due| Some(LeftBehind::Waits { slot: Slot(1), is_due });
    assert_eq!(look(&mut app, now), waits(false), "it may be about to start");
    assert_eq!(look(&mut app, now + SECOND), waits(true));
    assert_eq!(look(&mut app, now + SECOND), waits(false));
    assert_eq!(look(&mut app, now + SECOND * 2), waits(true));
    let thrown_away = look(&mut app, now + SECOND * 4);
    assert!(matches!(thrown_away, Some(LeftBehind::ThrownAway { count: 5..=35 })), "{thrown_away:?}");
    assert_eq!(look(&mut app, now + SECOND * 5), None);
    app.start(4, 1);
    assert_eq!(app.read(4), [], "nothing of what is long over");
}

#[test]
fn each_socket_that_was_left_behind_has_its_own_time() {
    const SECOND: Duration = Duration::from_secs(1);
    let (mut app, now) = (App::with_slots(3), Instant::now());
    let look = |app: &mut App, second: u32| {
        let serving = app.serving.clone();
        let at = now + SECOND * second;
        app.flows.look_for_left_behind(|worker| serving.contains(&worker.number), SECOND * 4, at)
    };
    let waits = |slot, is_due| Some(LeftBehind::Waits { slot: Slot(slot), is_due });
    app.send(&clients(60));
    app.read(3);
    app.kill(1);
    app.kill(2);
    assert_eq!(look(&mut app, 0), waits(0, false));
    assert_eq!(look(&mut app, 3), waits(0, true));
    // One that was asked for, and reads it.
    app.start(4, 0);
    assert!(!app.read(4).is_empty());
    app.kill(4);
    assert_eq!(look(&mut app, 4), waits(1, false), "nobody was asked for it so far");
    assert_eq!(look(&mut app, 5), waits(1, true));
    // One that does not.
    app.start(5, 1);
    assert_eq!(look(&mut app, 6), None);
    app.kill(5);
    assert_eq!(look(&mut app, 7), waits(1, true));
    let thrown_away = look(&mut app, 8);
    assert!(matches!(thrown_away, Some(LeftBehind::ThrownAway { .. })), "{thrown_away:?}");
    assert_eq!(look(&mut app, 9), None);
}

#[test]
fn a_socket_that_is_bound_already_is_the_first_of_several() {
    let bound = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
    bound.set_nonblocking(true).expect("a socket");
    let address = bound.local_addr().expect("an address");
    let early = clients(5);
    let send_early = || {
        for client in &early {
            client.send_to(b"?", address).expect("it is bound");
        }
    };
    send_early();
    for _ in 0..2 {
        // Also again, when it was closed.
        let at = At { transport: Transport::Udp, address, v6only: false };
        let copy = bound.try_clone().expect("a copy").into();
        let flows = Flows::adopt(at, Spread::Hash, copy).expect("a second socket");
        let mut app = App { flows, sockets: BTreeMap::new(), serving: Vec::new() };
        for number in 1..=3 {
            app.start(number, number - 1);
        }
        assert_eq!(app.read(1).len(), 5, "what came before");
        (1..=3).for_each(|number| app.rotate(number, true));
        let homes = app.homes(&clients(120));
        assert!(shares(&homes).len() == 3 && shares(&homes).values().all(|share| *share > 15), "{homes:?}");
        drop(app);
        send_early();
    }
}
