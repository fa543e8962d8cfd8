use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::time::{Duration, Instant};

use rustix::net::{SocketFlags, accept_with};
use socket2::SockRef;

use super::*;
use crate::ids::AppId;
use crate::listen::Address;
use crate::spec::Policy;

mod upkeep;

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
        let policies = spread.map_or(Policy::Shared, Policy::Kernel).into();
        let slots = Slots::new(policies).expect("an epoll");
        Self { slots, address: free.local_addr().expect("an address") }
    }

    /// Lets a worker do what a server does at its start.
    fn start(&self, number: u32, slot: u32) -> OwnedFd {
        self.slots.add(worker(number), Slot(slot));
        let socket = self.slots.take(worker(number), self.address, false, &|_| {}).expect("a socket").socket;
        self.slots.listen(worker(number), &socket).expect("it is known").expect("listen");
        self.slots.rotate(worker(number), true);
        socket
    }

    /// Connects, and waits until the kernel has put all of it into queues, which is a moment after a client's own end is open.
    fn connect(&self, count: usize) -> Vec<TcpStream> {
        let queued = || self.slots.queues().iter().map(|queue| queue.queued).sum::<u32>();
        let before = queued();
        let clients: Vec<_> =
            (0..count).map(|_| TcpStream::connect(self.address).expect("nobody is refused")).collect();
        let by = Instant::now() + Duration::from_secs(10);
        while queued() < before + count as u32 {
            assert!(Instant::now() < by, "{} of {count} are queued", queued() - before);
            std::thread::yield_now();
        }
        clients
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
fn the_next_worker_gets_the_longest_queue() {
    let app = App::new(Some(Spread::Hash));
    let waiting = [3, 9, 6].map(|count| {
        let number = count as u32;
        drop(app.start(number, number));
        let clients = app.connect(count);
        app.slots.rotate(worker(number), false);
        (number, clients)
    });
    for (number, _) in &waiting {
        app.slots.remove(worker(*number));
    }
    assert_eq!([10, 11, 12].map(|number| accept_all(&app.start(number, number))), [9, 6, 3]);
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
    assert_eq!(app.slots.held(worker(1), app.address, false), [identity]);
    app.slots.listen(worker(1), &taken.socket).expect("it is known").expect("listen");
    TcpStream::connect(app.address).expect("it listens");
}

#[test]
fn an_address_of_somebody_else_is_in_use() {
    let other = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
    let slots = Slots::new(Policy::Kernel(Spread::Hash).into()).expect("an epoll");
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

#[test]
fn what_never_listened_is_forgotten_with_its_worker() {
    let app = App::new(Some(Spread::Hash));
    for number in 1..4 {
        app.slots.add(worker(number), Slot(0));
        let taken = app.slots.take(worker(number), app.address, false, &|_| {}).expect("a socket");
        let identity = Identity::of(&taken.socket).expect("an inode");
        drop(taken);
        TcpListener::bind(app.address).expect("nobody else has it");
        app.slots.remove(worker(number));
        assert!(!app.slots.knows(identity));
        assert!(app.slots.ports().is_empty());
    }
}

#[test]
fn workers_that_bind_before_the_first_one_listens_share_its_socket() {
    let app = App::new(None);
    let sockets = [1, 2].map(|number| {
        app.slots.add(worker(number), Slot(number));
        app.slots.take(worker(number), app.address, false, &|_| {}).expect("a socket").socket
    });
    let [first, second] = sockets;
    let shared = Identity::of(&first).expect("an inode");
    let listened = app.slots.listen(worker(1), &first).expect("it is known").expect("listen");
    assert!(listened.instead.is_none());
    let listened = app.slots.listen(worker(2), &second).expect("it is known").expect("listen");
    assert_eq!(Identity::of(listened.instead.expect("the shared one").socket).expect("an inode"), shared);
}

#[test]
fn a_socket_that_is_shut_down_is_replaced_and_the_others_keep_their_share() {
    let app = App::new(Some(Spread::Hash));
    let mut sockets = vec![app.start(1, 0), app.start(2, 1), app.start(3, 2)];
    let dead = sockets.remove(0);
    app.slots.rotate(worker(1), false);
    rustix::net::shutdown(&dead, rustix::net::Shutdown::Both).expect("it listens");
    // Nobody has been told yet: the indexes of the others are as they were.
    let _clients = app.connect(40);
    assert_eq!(sockets.iter().map(accept_all).sum::<usize>(), 40);
    assert!(is_readable(app.slots.signs()));
    app.slots.attend(Instant::now());
    assert!(!is_readable(app.slots.signs()));
    app.slots.remove(worker(1));
    sockets.push(app.start(4, 0));
    let _clients = app.connect(90);
    let shares: Vec<usize> = sockets.iter().map(accept_all).collect();
    assert_eq!(shares.iter().sum::<usize>(), 90);
    assert!(shares.iter().all(|share| *share > 10), "{shares:?}");
}

#[test]
fn a_socket_that_one_of_two_shuts_down_goes_on_for_the_other() {
    let app = App::new(Some(Spread::Hash));
    let (kept, other) = (app.start(1, 0), app.start(2, 1));
    app.slots.state().families[0].entrances[0].is_lent = true;
    let lent = app.start(3, 0);
    let identity = |socket: &OwnedFd| Identity::of(socket).expect("an identity");
    assert_eq!(identity(&lent), identity(&kept));
    app.slots.leave(worker(3));
    // The index of the other one changes, too, and it dies after that.
    rustix::net::shutdown(&lent, rustix::net::Shutdown::Both).expect("it listens");
    rustix::net::shutdown(&other, rustix::net::Shutdown::Both).expect("it listens");
    app.slots.attend(Instant::now());
    for number in [2, 3] {
        app.slots.remove(worker(number));
    }
    drop((lent, other));
    let sockets = [kept, app.start(4, 1), app.start(5, 2)];
    let _clients = app.connect(90);
    let shares = sockets.each_ref().map(accept_all);
    assert_eq!(shares.iter().sum::<usize>(), 90, "{shares:?}");
    assert!(shares.iter().all(|share| *share > 10), "{shares:?}");
}

#[test]
fn of_two_that_die_between_two_looks_the_order_is_known() {
    for order in [[0, 1], [1, 0]] {
        let app = App::new(Some(Spread::Hash));
        let sockets = [app.start(1, 0), app.start(2, 1), app.start(3, 2), app.start(4, 3)];
        // With each death the last one gets the index of the dead one: who has which index depends on the order.
        for dead in order {
            rustix::net::shutdown(&sockets[dead], rustix::net::Shutdown::Both).expect("it listens");
        }
        app.slots.attend(Instant::now());
        let _clients = app.connect(60);
        let shares = [accept_all(&sockets[2]), accept_all(&sockets[3])];
        assert_eq!(shares.iter().sum::<usize>(), 60, "{order:?}: {shares:?}");
        assert!(shares.iter().all(|share| *share > 10), "{order:?}: {shares:?}");
    }
}

#[test]
fn a_program_that_steers_by_itself_does_so_only_until_something_changes() {
    let app = App::new(Some(Spread::Hash));
    let sockets = [app.start(1, 0), app.start(2, 1)];
    let to_the_first = [Target { index: 0, slot: 0 }];
    app.slots.state().families[0].group.steer(&to_the_first).expect("any member can do that");
    let _theirs = app.connect(20);
    assert_eq!([accept_all(&sockets[0]), accept_all(&sockets[1])], [20, 0]);
    app.slots.rotate(worker(2), true);
    let _clients = app.connect(60);
    assert!(accept_all(&sockets[1]) > 10, "it gets its share");
}

#[test]
fn a_program_that_binds_to_an_interface_shares_it_too() {
    let app = App::new(Some(Spread::Hash));
    let start = |number: u32| {
        app.slots.add(worker(number), Slot(number));
        let prepare =
            |socket: BorrowedFd<'_>| SockRef::from(&socket).bind_device(Some(b"lo")).expect("it is there");
        let socket = app.slots.take(worker(number), app.address, false, &prepare).expect("a socket").socket;
        app.slots.listen(worker(number), &socket).expect("it is known").expect("listen");
        app.slots.rotate(worker(number), true);
        socket
    };
    let sockets = [start(1), start(2), start(3)];
    let _clients = app.connect(90);
    let shares = sockets.each_ref().map(accept_all);
    assert_eq!(shares.iter().sum::<usize>(), 90, "{shares:?}");
    assert!(shares.iter().all(|share| *share > 10), "{shares:?}");
}

#[test]
fn with_nobody_in_rotation_connections_wait_for_who_may_come_back_and_not_for_who_leaves() {
    for paused in [1, 2] {
        let app = App::new(Some(Spread::Hash));
        let sockets = [app.start(1, 0), app.start(2, 1)];
        // Whoever went out of rotation last was seen last.
        for number in [paused, 3 - paused] {
            app.slots.rotate(worker(number), false);
        }
        app.slots.leave(worker(3 - paused));
        let _clients = app.connect(20);
        let accepted = sockets.each_ref().map(accept_all);
        let mut expected = [0, 0];
        expected[paused as usize - 1] = 20;
        assert_eq!(accepted, expected, "worker {paused} is paused");
    }
}

#[test]
fn copies_of_a_socket_are_one_and_another_socket_is_none_of_them() {
    let [one, other] = [(); 2].map(|()| TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port"));
    let identity = Identity::of(&one).expect("an identity");
    assert_eq!(Identity::of(one.try_clone().expect("a copy")).expect("an identity"), identity);
    let other = Identity::of(&other).expect("an identity");
    assert_ne!(other, identity);
    // As it is when the kernel has counted once around.
    assert_ne!(Identity { inode: identity.inode, ..other }, identity);
}

#[test]
fn connections_wait_also_when_the_last_worker_shuts_its_socket_down() {
    let app = App::new(Some(Spread::Hash));
    let socket = app.start(1, 0);
    rustix::net::shutdown(&socket, rustix::net::Shutdown::Both).expect("it listens");
    app.slots.attend(Instant::now());
    app.slots.remove(worker(1));
    let _clients = app.connect(10);
    assert_eq!(accept_all(&app.start(2, 0)), 10);
}

fn is_readable(descriptor: BorrowedFd<'_>) -> bool {
    let mut polled = [rustix::event::PollFd::new(&descriptor, rustix::event::PollFlags::IN)];
    rustix::event::poll(&mut polled, Some(&rustix::event::Timespec::default())).expect("a poll") == 1
}

/// An app that opens an address for workers that inherit their sockets.
fn opened(spread: Spread) -> (Slots, Address, SocketAddr) {
    let slots = Slots::new(Policy::Kernel(spread).into()).expect("an epoll");
    let anywhere = ListenAddress::Tcp((Ipv4Addr::LOCALHOST, 0).into());
    let address = slots.open(&anywhere, spread).expect("a port");
    let Address::Tcp(bound) = address else { panic!("{address} is no TCP address") };
    (slots, address, bound)
}

/// Lets a worker start and enter rotation; its socket does not wait.
fn inherit(slots: &Slots, address: &Address, number: u32, slot: u32) -> OwnedFd {
    slots.add(worker(number), Slot(slot));
    let socket = slots.give(worker(number), address).expect("a socket");
    assert!(!rustix::fs::fcntl_getfl(&socket).expect("flags").contains(rustix::fs::OFlags::NONBLOCK));
    slots.rotate(worker(number), true);
    rustix::io::ioctl_fionbio(&socket, true).expect("as a program may");
    socket
}

#[test]
fn an_opened_address_takes_connections_before_the_first_worker_starts() {
    let (slots, address, bound) = opened(Spread::Hash);
    let _early = App { slots: slots.clone(), address: bound }.connect(7);
    assert_eq!(accept_all(&inherit(&slots, &address, 1, 0)), 7);
}

#[test]
fn workers_inherit_sockets_of_their_own_and_the_queues_of_the_dead() {
    let (slots, address, bound) = opened(Spread::Hash);
    let [dead, other] = [0, 1].map(|slot| inherit(&slots, &address, slot + 1, slot));
    let _clients = App { slots: slots.clone(), address: bound }.connect(60);
    let served = accept_all(&other);
    assert!((10..=50).contains(&served), "{served} of 60");
    drop(dead);
    slots.remove(worker(1));
    let successor = inherit(&slots, &address, 3, 0);
    assert_eq!(accept_all(&successor), 60 - served, "what the dead one had not accepted");
}

#[test]
fn an_opened_address_of_somebody_else_is_in_use() {
    let other = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
    let slots = Slots::new(Policy::Kernel(Spread::Hash).into()).expect("an epoll");
    let taken = ListenAddress::Tcp(other.local_addr().expect("an address"));
    let error = slots.open(&taken, Spread::Hash).expect_err("it is taken");
    assert_eq!(error.source.kind(), io::ErrorKind::AddrInUse);
}
