use std::net::{Ipv4Addr, TcpListener, TcpStream};

use rustix::net::{SocketFlags, accept_with};

use super::*;
use crate::ids::AppId;
use crate::spec::Policy;

fn worker(number: u32) -> WorkerId {
    WorkerId { app: AppId(1), number }
}

/// An app at a port of its own.
struct App {
    slots: Slots,
    address: SocketAddr,
}

impl App {
    fn new(spread: Option<Spread>) -> Self {
        let free = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
        Self {
            slots: Slots::new(spread.map_or(Policy::Shared, Policy::Kernel).into()),
            address: free.local_addr().expect("an address"),
        }
    }

    /// Lets a worker do what a server does at its start.
    fn start(&self, number: u32, slot: u32) -> OwnedFd {
        self.slots.add(worker(number), Slot(slot));
        let socket = self.slots.take(worker(number), self.address, false, &|_| {}).expect("a socket").socket;
        self.slots.listen(Identity::of(&socket).expect("an inode")).expect("it is known").expect("listen");
        self.slots.rotate(worker(number), true);
        socket
    }

    fn connect(&self, count: usize) -> Vec<TcpStream> {
        (0..count).map(|_| TcpStream::connect(self.address).expect("nobody is refused")).collect()
    }
}

fn accept_all(socket: &OwnedFd) -> usize {
    std::iter::from_fn(|| accept_with(socket, SocketFlags::CLOEXEC).ok()).count()
}

#[test]
fn workers_in_rotation_share_what_comes() {
    let app = App::new(Some(Spread::Hash));
    let sockets = [app.start(1, 0), app.start(2, 1), app.start(3, 2)];
    let _clients = app.connect(90);
    let shares: Vec<usize> = sockets.iter().map(accept_all).collect();
    assert_eq!(shares.iter().sum::<usize>(), 90);
    assert!(shares.iter().all(|share| *share > 10), "{shares:?}");
}

#[test]
fn who_leaves_gets_nothing_new_and_keeps_what_it_has() {
    let app = App::new(Some(Spread::Hash));
    let old = app.start(1, 0);
    let _before = app.connect(5);
    let new = app.start(2, 0);
    app.slots.rotate(worker(1), false);
    let _after = app.connect(7);
    assert_eq!(app.slots.waiting(worker(1)), 5);
    assert_eq!((accept_all(&old), accept_all(&new)), (5, 7));
    assert_eq!(app.slots.waiting(worker(1)), 0);
}

#[test]
fn the_queue_of_a_dead_worker_is_its_successors() {
    let app = App::new(Some(Spread::Hash));
    let dead = app.start(1, 0);
    let _other = app.start(2, 1);
    let _before = app.connect(40);
    let left = app.slots.waiting(worker(1));
    assert!(left > 0);
    drop(dead);
    app.slots.remove(worker(1));
    let _after = app.connect(10);
    let successor = app.start(3, 0);
    assert_eq!(accept_all(&successor), left as usize, "and nothing new came before it was there");
}

#[test]
fn with_no_worker_connections_wait_for_the_next_one() {
    for spread in [Some(Spread::Hash), None] {
        let app = App::new(spread);
        drop((app.start(1, 0), app.start(2, 1)));
        app.slots.remove(worker(1));
        app.slots.remove(worker(2));
        let _clients = app.connect(20);
        assert_eq!(accept_all(&app.start(3, 0)), 20, "{spread:?}");
    }
}

#[test]
fn a_bound_socket_does_not_listen_before_the_program_does() {
    let app = App::new(Some(Spread::Hash));
    app.slots.add(worker(1), Slot(0));
    let taken = app.slots.take(worker(1), app.address, false, &|_| {}).expect("a socket");
    TcpStream::connect(app.address).expect_err("nobody listens");
    let identity = Identity::of(&taken.socket).expect("an inode");
    assert!(app.slots.knows(identity));
    assert_eq!(app.slots.held(worker(1), app.address, false), Some(identity));
    app.slots.listen(identity).expect("it is known").expect("listen");
    TcpStream::connect(app.address).expect("it listens");
}

#[test]
fn an_address_of_somebody_else_is_in_use() {
    let other = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
    let slots = Slots::new(Policy::Kernel(Spread::Hash).into());
    slots.add(worker(1), Slot(0));
    let address = other.local_addr().expect("an address");
    let error = slots.take(worker(1), address, false, &|_| {}).expect_err("it is taken");
    assert_eq!(error.kind(), io::ErrorKind::AddrInUse);
}

#[test]
fn one_worker_gets_the_same_socket_again_and_another_one_gets_its_own() {
    let app = App::new(Some(Spread::Hash));
    let first = app.start(1, 0);
    let again = app.slots.take(worker(1), app.address, false, &|_| {}).expect("a socket");
    assert_eq!(Identity::of(&again.socket).expect("an inode"), Identity::of(&first).expect("an inode"));
    assert!(!again.is_shared);
    assert_ne!(
        Identity::of(app.start(2, 0)).expect("an inode"),
        Identity::of(&first).expect("an inode"),
        "the predecessor still runs"
    );
    let shared = App::new(None);
    let one = shared.start(1, 0);
    shared.slots.add(worker(2), Slot(1));
    let other = shared.slots.take(worker(2), shared.address, false, &|_| {}).expect("a socket");
    assert!(other.is_shared);
    assert_eq!(Identity::of(&other.socket).expect("an inode"), Identity::of(&one).expect("an inode"));
}

#[test]
fn a_port_can_be_used_again_when_the_app_has_ended() {
    let app = App::new(Some(Spread::Hash));
    let socket = app.start(1, 0);
    app.slots.refuse_new();
    let App { slots, address } = app;
    drop((slots, socket));
    TcpListener::bind(address).expect("it is free");
}
