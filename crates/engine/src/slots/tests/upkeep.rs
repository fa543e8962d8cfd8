//! What is seen to now and then. The clock is the test's.

use std::collections::HashSet;
use std::ffi::OsString;
use std::io::Read;
use std::net::UdpSocket;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr as UnixAddress, UnixStream};

use rustix::fs::OFlags;
use socket2::{Domain, SockAddr, Socket, Type};

use super::*;
use crate::listen::QueueLength;
use crate::plane::Queue;

const HOLD: Duration = Duration::from_mins(1);
const SECOND: Duration = Duration::from_secs(1);
/// For how long all workers have to be ready before an address is given up.
const GRACE: Duration = Duration::from_secs(5);

/// Says which of these sockets each worker has open.
fn open<'a>(seen: impl IntoIterator<Item = (u32, Vec<&'a OwnedFd>)>) -> OpenSockets {
    let mut open = OpenSockets::default();
    for (number, sockets) in seen {
        let link = |socket| OsString::from(Identity::of(socket).expect("an inode").link());
        open.add(worker(number), Some(sockets.into_iter().map(link).collect()));
    }
    open
}

impl App {
    fn keep(&self, slots: u32, hold: Duration) {
        self.slots.expect_workers(slots);
        self.slots.hold_for(hold);
    }

    fn look(&self, now: Instant) -> Look {
        self.slots.attend(now);
        self.slots.look(now)
    }
}

#[test]
fn an_address_that_no_worker_has_open_is_closed_with_what_waits_there() {
    let (app, now) = (App::new(Some(Spread::Hash)), Instant::now());
    let socket = app.start(1, 0);
    app.keep(1, HOLD);
    let mut clients = app.connect(3);
    assert!(!app.look(now).has_doubts, "it may bind something yet");
    assert!(app.slots.release(&open([(1, vec![])]), now).is_empty(), "nor is anything closed");
    let settled = now + GRACE;
    assert!(app.look(settled).has_doubts);
    drop(socket);
    let address = app.address.to_string();
    assert!(app.slots.release(&open([(1, vec![])]), settled).is_empty(), "it is looked once more");
    let confirmed = settled + GRACE;
    assert!(app.look(confirmed).has_doubts);
    assert_eq!(app.slots.release(&open([(1, vec![])]), confirmed), [Sight::Unbound { address, count: 3 }]);
    clients[0].read(&mut [0]).expect_err("it is reset");
    TcpStream::connect(app.address).expect_err("nobody listens");
    assert!(app.slots.ports().is_empty());
    TcpStream::connect(app.start(2, 0).local_address()).expect("it can be bound again");
}

#[test]
fn an_address_stays_open_while_somebody_has_it_or_may_come_to_have_it() {
    let (app, now) = (App::new(Some(Spread::Hash)), Instant::now());
    let socket = app.start(1, 0);
    let settled = now + GRACE;
    // One of two slots is empty.
    app.keep(2, HOLD);
    assert!(!app.look(now).has_doubts && !app.look(settled).has_doubts);
    assert!(app.slots.release(&open([(1, vec![])]), settled).is_empty());
    // A worker that leaves has it, or one whose descriptors cannot be seen.
    app.keep(1, HOLD);
    app.look(now);
    assert!(app.look(settled).has_doubts);
    assert!(app.slots.release(&open([(1, vec![]), (7, vec![&socket])]), settled).is_empty());
    let mut unseen = open([(1, vec![])]);
    unseen.add(worker(7), Some(HashSet::new()));
    unseen.add(worker(7), None);
    assert!(app.slots.release(&unseen, settled).is_empty());
    TcpStream::connect(app.address).expect("it is open");
}

#[test]
fn nothing_new_comes_to_a_worker_that_has_closed_its_socket() {
    let (app, now) = (App::new(Some(Spread::Hash)), Instant::now());
    let (closed, kept) = (app.start(1, 0), app.start(2, 1));
    app.keep(2, HOLD);
    app.look(now);
    let _stuck = app.connect(40);
    let accepted = accept_all(&kept);
    app.slots.attend(now);
    assert!(!app.look(now + SECOND).has_doubts, "it may be late");
    assert!(app.look(now + SECOND * 2).has_doubts);
    for second in [2, 3] {
        let now = now + SECOND * second;
        assert_eq!(app.slots.waiting(worker(1)) as usize, 40 - accepted, "it has it still");
        assert_eq!(app.slots.release(&open([(1, vec![]), (2, vec![&kept])]), now), []);
        assert!(app.look(now + SECOND).has_doubts || second == 3);
    }
    assert_eq!(app.slots.waiting(worker(1)), 0, "it is nobody's");
    let _clients = app.connect(40);
    assert_eq!(accept_all(&kept), 40);
    assert_eq!(accept_all(&closed), 40 - accepted, "what had come before is there for the next one");
}

#[test]
fn nobody_is_held_for_ever() {
    let (app, now) = (App::new(Some(Spread::Hash)), Instant::now());
    drop(app.start(1, 0));
    app.keep(1, HOLD);
    app.slots.remove(worker(1));
    let mut clients = app.connect(3);
    assert!(app.look(now).sights.is_empty());
    assert!(app.look(now + SECOND * 59).sights.is_empty());
    clients.extend(app.connect(2));
    let address = app.address.to_string();
    assert_eq!(app.look(now + HOLD).sights, [Sight::HeldTooLong { address, count: 3 }]);
    assert_eq!(clients[2].read(&mut [0]).expect("its end is seen"), 0);
    assert_eq!(accept_all(&app.start(2, 0)), 2, "those had not waited for so long");
}

#[test]
fn a_limit_of_zero_holds_for_ever() {
    let (app, now) = (App::new(Some(Spread::Hash)), Instant::now());
    drop(app.start(1, 0));
    app.keep(1, Duration::ZERO);
    app.slots.remove(worker(1));
    let _clients = app.connect(3);
    assert!(app.look(now).sights.is_empty());
    assert!(app.look(now + HOLD * 1000).sights.is_empty());
    assert_eq!(accept_all(&app.start(2, 0)), 3);
}

#[test]
fn queues_are_looked_at_only_while_connections_wait() {
    let (app, now) = (App::new(Some(Spread::Hash)), Instant::now());
    let socket = app.start(1, 0);
    app.keep(1, HOLD);
    app.look(now);
    app.look(now + GRACE);
    assert_eq!(app.slots.next_look(), None);
    SockRef::from(&socket).listen(4).expect("listen");
    for second in [10, 20] {
        let now = now + SECOND * second;
        let _clients = app.connect(4);
        app.slots.attend(now);
        assert_eq!(app.slots.next_look(), Some(now + SECOND));
        let length = QueueLength { queued: 4, backlog: 4 };
        let address = app.address.to_string();
        assert_eq!(app.slots.queues().iter().map(|queue| queue.queued).sum::<u32>(), 4);
        let fills = Sight::QueueFills { address: address.clone(), length };
        assert_eq!(app.look(now + SECOND).sights, [fills]);
        assert_eq!(accept_all(&socket), 4);
        let over = Sight::QueueOver { address, took: SECOND, most: 4 };
        assert_eq!(app.look(now + SECOND * 2).sights, [over]);
        assert_eq!(app.slots.next_look(), None);
    }
}

#[test]
fn a_worker_that_has_it_after_all_gets_connections_again() {
    let (app, now) = (App::new(Some(Spread::Hash)), Instant::now());
    let sockets = [app.start(1, 0), app.start(2, 1)];
    let seen = |of_first| open([(1, of_first), (2, vec![&sockets[1]])]);
    for second in 0..2 {
        app.slots.release(&seen(vec![]), now + SECOND * second);
    }
    app.slots.release(&seen(vec![&sockets[0]]), now + SECOND * 2);
    let _clients = app.connect(40);
    assert!(sockets.iter().map(accept_all).all(|share| share > 5), "both get their share");
}

#[test]
fn rescuers_that_fail_get_rare_and_nobody_waits_for_them_for_ever() {
    let (app, now) = (App::new(Some(Spread::Hash)), Instant::now());
    let (victim, _other) = (app.start(1, 1), app.start(2, 0));
    let _clients = app.connect(40);
    app.keep(1, HOLD);
    app.slots.leave(worker(1));
    let count = app.slots.waiting(worker(1));
    drop(victim);
    app.slots.remove(worker(1));
    let address = app.address.to_string();
    let orphaned = Sight::Orphaned { address: address.clone(), count, slot: Slot(0) };
    let (mut asked, mut number) = (Vec::new(), 2);
    for second in 0..=60 {
        let sights = app.look(now + SECOND * second).sights;
        if sights.contains(&orphaned) {
            asked.push(second);
            number += 1;
            // It gets the socket and ends.
            drop(app.start(number, 1));
            app.slots.rotate(worker(number), false);
            app.slots.remove(worker(number));
        } else if second == 60 {
            assert_eq!(sights, [Sight::HeldTooLong { address: address.clone(), count: count.into() }]);
        } else {
            assert_eq!(sights, []);
        }
    }
    assert_eq!(asked, [0, 1, 3, 7, 15, 31]);
}

#[test]
fn what_waits_at_a_slot_that_is_given_up_is_for_a_worker_of_another() {
    let (app, now) = (App::new(Some(Spread::Hash)), Instant::now());
    let (victim, other) = (app.start(1, 1), app.start(2, 0));
    app.keep(2, HOLD);
    let _clients = app.connect(40);
    let count = app.slots.waiting(worker(1));
    drop(victim);
    app.slots.remove(worker(1));
    assert_eq!(app.look(now).sights, [], "its successor is about to start");
    app.slots.expect_workers(1);
    let address = app.address.to_string();
    assert_eq!(app.look(now).sights, [Sight::Orphaned { address, count, slot: Slot(0) }]);
    app.slots.add(worker(3), Slot(0));
    let rescuer = app.slots.take(worker(3), app.address, false, &|_| {}).expect("a socket").socket;
    assert_eq!(accept_all(&rescuer), count as usize);
    app.slots.remove(worker(3));
    let _clients = app.connect(20);
    let revived = app.start(4, 1);
    assert!(accept_all(&other) > 20, "all that came meanwhile");
    let _clients = app.connect(40);
    assert!(accept_all(&revived) > 5, "it has its share again");
}

#[test]
fn what_waits_at_a_slot_that_backs_off_for_long_waits_no_longer_than_a_moment() {
    let (app, now) = (App::new(Some(Spread::Hash)), Instant::now());
    let (victim, _other) = (app.start(1, 1), app.start(2, 0));
    app.keep(2, HOLD);
    let _clients = app.connect(40);
    drop(victim);
    app.slots.remove(worker(1));
    assert_eq!(app.look(now).sights, []);
    app.slots.add(worker(3), Slot(1));
    assert_eq!(app.look(now + SECOND).sights, [], "one starts");
    app.slots.remove(worker(3));
    let sights = app.look(now + SECOND * 2).sights;
    assert!(matches!(sights[..], [Sight::Orphaned { slot: Slot(0), .. }]), "{sights:?}");
}

#[test]
fn what_waits_where_a_worker_starts_that_never_accepts_is_for_one_more() {
    let (slots, address, bound) = opened(Spread::Hash);
    let now = Instant::now();
    let [victim, _other] = [1, 0].map(|slot| inherit(&slots, &address, slot + 1, slot));
    slots.hold_for(HOLD);
    slots.expect_workers(2);
    let app = App { slots: slots.clone(), address: bound };
    let _clients = app.connect(40);
    let count = slots.waiting(worker(2));
    drop(victim);
    slots.remove(worker(2));
    slots.add(worker(3), Slot(1));
    let never = slots.give(worker(3), &address).expect("a socket");
    let look = |at: Instant| {
        slots.attend(at);
        slots.look(at).sights
    };
    for second in 0..5 {
        assert_eq!(look(now + SECOND * second), [], "it may be about to accept");
    }
    let address_told = bound.to_string();
    assert_eq!(look(now + GRACE), [Sight::Orphaned { address: address_told, count, slot: Slot(0) }]);
    rustix::io::ioctl_fionbio(&never, true).expect("as a program may");
    slots.add(worker(4), Slot(0));
    let rescuer = slots.give(worker(4), &address).expect("a socket");
    let flags = rustix::fs::fcntl_getfl(&never).expect("it is open");
    assert!(flags.contains(OFlags::NONBLOCK), "what one relies on is not changed for another");
    let identity = |socket: &OwnedFd| Identity::of(socket).expect("an identity");
    assert_eq!(identity(&rescuer), identity(&never));
    slots.leave(worker(4));
    assert_eq!(slots.waiting(worker(4)), count, "the other one accepts nothing");
    assert_eq!(accept_all(&rescuer), count as usize);
    slots.add(worker(5), Slot(0));
    let next = slots.give(worker(5), &address).expect("a socket");
    assert_ne!(identity(&next), identity(&never), "it is for one");
}

#[test]
fn while_nobody_serves_each_worker_that_starts_has_a_socket_of_its_own() {
    let (slots, address, bound) = opened(Spread::Hash);
    let now = Instant::now();
    slots.add(worker(1), Slot(0));
    let first = slots.give(worker(1), &address).expect("a socket");
    slots.hold_for(HOLD);
    slots.expect_workers(2);
    let _clients = App { slots: slots.clone(), address: bound }.connect(10);
    for at in [now, now + GRACE] {
        slots.attend(at);
        assert_eq!(slots.look(at).sights, [], "there is nobody to start beside");
    }
    slots.add(worker(2), Slot(1));
    let second = slots.give(worker(2), &address).expect("a socket");
    let identity = |socket: &OwnedFd| Identity::of(socket).expect("an identity");
    assert_ne!(identity(&first), identity(&second));
}

#[test]
fn an_address_is_closed_also_while_a_slot_is_given_up() {
    let (app, now) = (App::new(Some(Spread::Hash)), Instant::now());
    drop(app.start(1, 0));
    app.keep(2, HOLD);
    app.look(now);
    assert!(!app.look(now + GRACE).has_doubts, "slot 1 is still to come");
    app.slots.expect_workers(1);
    app.look(now);
    assert!(app.look(now + GRACE).has_doubts);
    app.slots.release(&open([(1, vec![])]), now + GRACE);
    let sights = app.slots.release(&open([(1, vec![])]), now + GRACE * 2);
    assert_eq!(sights, [Sight::Unbound { address: app.address.to_string(), count: 0 }]);
}

/// A name in the abstract namespace that one worker listens on.
struct Named {
    slots: Slots,
    socket: OwnedFd,
    name: String,
}

impl Named {
    fn new() -> Self {
        let slots = Slots::new(Policy::Kernel(Spread::Hash).into()).expect("an epoll");
        slots.add(worker(1), Slot(0));
        let name = format!("worksong-upkeep-{:?}", std::thread::current().id());
        let name = name.replace(['(', ')'], &format!("-{}-", std::process::id()));
        let socket = Socket::new(Domain::UNIX, Type::STREAM.nonblocking(), None).expect("a socket");
        let address = SockAddr::unix(format!("\0{name}")).expect("an address");
        socket.bind(&address).expect("it is free");
        let first = FirstBound { socket: socket.try_clone().expect("a copy").into(), path: None };
        slots.unix().add(worker(1), format!("\0{name}").into(), first).expect("a place");
        let socket = OwnedFd::from(socket);
        slots.unix().listen(Identity::of(&socket).expect("an identity")).expect("listen");
        slots.rotate(worker(1), true);
        Self { slots, socket, name: format!("@{name}") }
    }

    fn connect(&self, count: usize) -> Vec<UnixStream> {
        let address = UnixAddress::from_abstract_name(&self.name[1..]).expect("a name");
        (0..count).map(|_| UnixStream::connect_addr(&address).expect("it listens")).collect()
    }
}

#[test]
fn the_queue_of_a_unix_socket_is_seen_as_that_of_a_port() {
    let (app, now) = (Named::new(), Instant::now());
    app.slots.attend(now);
    app.slots.look(now);
    app.slots.attend(now + GRACE);
    app.slots.look(now + GRACE);
    assert_eq!(app.slots.next_look(), None);
    SockRef::from(&app.socket).listen(4).expect("listen");
    let (address, now) = (app.name.clone(), now + GRACE * 2);
    let _clients = app.connect(3);
    app.slots.attend(now);
    assert_eq!(app.slots.next_look(), Some(now + SECOND));
    let queue = Queue { address: address.clone(), worker: None, queued: 3, backlog: 4 };
    assert_eq!(app.slots.queues(), [queue]);
    let length = QueueLength { queued: 3, backlog: 4 };
    let fills = Sight::QueueFills { address: address.clone(), length };
    assert_eq!(app.slots.look(now + SECOND).sights, [fills]);
    assert_eq!(accept_all(&app.socket), 3);
    let over = Sight::QueueOver { address, took: SECOND, most: 3 };
    assert_eq!(app.slots.look(now + SECOND * 2).sights, [over]);
    assert_eq!(app.slots.next_look(), None);
}

#[test]
fn nobody_is_held_for_ever_at_a_unix_socket() {
    let (app, now) = (Named::new(), Instant::now());
    app.slots.hold_for(HOLD);
    app.slots.remove(worker(1));
    let mut clients = app.connect(2);
    app.slots.attend(now);
    assert_eq!(app.slots.look(now).sights, []);
    let address = app.name.clone();
    assert_eq!(app.slots.look(now + HOLD).sights, [Sight::HeldTooLong { address, count: 2 }]);
    assert_eq!(clients[0].read(&mut [0]).expect("its end is seen"), 0);
}

#[test]
fn a_unix_socket_that_nobody_has_open_is_closed() {
    let (app, now) = (Named::new(), Instant::now());
    app.slots.expect_workers(1);
    app.slots.attend(now);
    app.slots.look(now);
    let clients = app.connect(2);
    let settled = now + GRACE;
    assert!(app.slots.look(settled).has_doubts);
    let kept = open([(1, vec![&app.socket])]);
    assert_eq!(app.slots.release(&kept, settled), []);
    assert_eq!(app.slots.release(&open([(1, vec![])]), settled), []);
    let confirmed = settled + GRACE;
    assert!(app.slots.look(confirmed).has_doubts, "it is looked once more");
    let Named { slots, socket, name } = app;
    drop(socket);
    let closed = slots.release(&open([(1, vec![])]), confirmed);
    assert_eq!(closed, [Sight::Unbound { address: name, count: 2 }]);
    let [mut first, _] = <[UnixStream; 2]>::try_from(clients).expect("two");
    let end = first.read(&mut [0]);
    assert!(matches!(&end, Ok(0)) || end.is_err(), "nobody has it: {end:?}");
    assert!(slots.queues().is_empty());
}

/// An app with a datagram socket for each worker.
struct Datagrams {
    slots: Slots,
    at: At,
}

impl Datagrams {
    fn new() -> Self {
        let free = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
        let address = free.local_addr().expect("an address");
        let slots = Slots::new(Policy::Kernel(Spread::Hash).into()).expect("an epoll");
        Self { slots, at: At { transport: Transport::Udp, address, v6only: false } }
    }

    fn start(&self, number: u32, slot: u32) -> OwnedFd {
        self.slots.add(worker(number), Slot(slot));
        let socket = self.slots.take_datagrams(worker(number), self.at, &|_| {}).expect("a socket").socket;
        self.slots.rotate(worker(number), true);
        socket
    }

    fn send(&self, count: usize) {
        for _ in 0..count {
            let client = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
            client.send_to(b"?", self.at.address).expect("it is open");
        }
    }

    fn look(&self, now: Instant) -> Look {
        self.slots.attend(now);
        self.slots.look(now)
    }
}

fn read_all(socket: &OwnedFd) -> usize {
    let read = || rustix::net::recv(socket, &mut [0; 8][..], rustix::net::RecvFlags::DONTWAIT).ok();
    std::iter::from_fn(read).count()
}

#[test]
fn an_address_of_datagrams_that_no_worker_has_open_is_closed() {
    let (app, now) = (Datagrams::new(), Instant::now());
    let sockets = [app.start(1, 0), app.start(2, 1)];
    app.slots.expect_workers(2);
    app.look(now);
    let settled = now + GRACE;
    assert!(app.look(settled).has_doubts);
    let one = open([(1, vec![]), (2, vec![&sockets[1]])]);
    assert_eq!(app.slots.release(&one, settled), []);
    assert_eq!(app.slots.release(&one, settled + SECOND), []);
    app.send(40);
    assert_eq!(read_all(&sockets[1]), 40, "nothing goes to who has closed its socket");
    let none = open([(1, vec![]), (2, vec![])]);
    assert_eq!(app.slots.release(&none, settled + SECOND), []);
    app.send(3);
    drop(sockets);
    let sights = app.slots.release(&none, settled + SECOND + GRACE);
    let address = app.at.told().to_string();
    assert_eq!(sights, [Sight::Unbound { address, count: 3 }]);
    UdpSocket::bind(app.at.address).expect("it is free");
}

#[test]
fn nothing_goes_to_a_datagram_socket_that_was_taken_back() {
    let app = Datagrams::new();
    let (kept, failed) = (app.start(1, 0), app.start(2, 1));
    app.slots.take_back_datagrams(worker(2), app.at);
    app.send(40);
    assert_eq!((read_all(&kept), read_all(&failed)), (40, 0));
    assert_eq!(app.slots.held_datagrams(worker(2), app.at), None);
}

#[test]
fn datagrams_that_a_leaving_worker_has_not_read_are_for_one_more() {
    let (app, now) = (Datagrams::new(), Instant::now());
    let (old, _other) = (app.start(1, 0), app.start(2, 1));
    app.slots.expect_workers(2);
    app.slots.hold_for(HOLD);
    app.send(40);
    let _new = app.start(3, 0);
    app.slots.leave(worker(1));
    drop(old);
    app.slots.remove(worker(1));
    let (address, mut asked) = (app.at.told().to_string(), Vec::new());
    for second in 0..=60 {
        let sights = app.look(now + SECOND * second).sights;
        if sights == [Sight::Orphaned { address: address.clone(), count: 1, slot: Slot(0) }] {
            asked.push(second);
        } else if second == 60 {
            let [Sight::HeldTooLong { count: 5.., .. }] = sights[..] else { panic!("{sights:?}") };
        } else {
            assert_eq!(sights, []);
        }
    }
    assert_eq!(asked, [1, 2, 4, 8, 16, 32]);
    assert_eq!(app.look(now + SECOND * 61).sights, [], "they are thrown away");
    assert_eq!(app.slots.next_look(), None);
}

trait LocalAddress {
    fn local_address(&self) -> SocketAddr;
}

impl LocalAddress for OwnedFd {
    fn local_address(&self) -> SocketAddr {
        SockRef::from(self).local_addr().expect("it is bound").as_socket().expect("it is of the internet")
    }
}
