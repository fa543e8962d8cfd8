//! Listeners with a socket for each worker.

use rustix::net::{SocketFlags, accept_with};

use super::*;
use crate::spec::Spread;

fn trial() -> Trial {
    Trial::with_policy(Policy::Kernel(Spread::Hash))
}

impl Member {
    /// Accepts by itself what waits at its sockets.
    fn accept_own(&mut self) -> usize {
        self.read();
        let accept =
            |socket: &OwnedFd| std::iter::from_fn(|| accept_with(socket, SocketFlags::CLOEXEC).ok()).count();
        self.sockets.iter().map(accept).sum()
    }
}

#[test]
fn each_worker_accepts_from_its_own_socket() {
    let mut trial = trial();
    let (mut first, mut second) = (trial.listening_member(1), trial.listening_member(2));
    let clients = trial.connect(100);
    let shares = (first.accept_own(), second.accept_own());
    assert!(shares.0 > 20 && shares.1 > 20 && shares.0 + shares.1 == 100, "{shares:?}");
    assert_eq!((first.accept_all(), second.accept_all()), (0, 0), "nothing is handed over");
    drop(clients);
}

#[test]
fn a_worker_that_is_not_ready_gets_nothing() {
    let mut trial = trial();
    let (mut ready, mut starting) = (trial.listening_member(1), trial.starting_member(2));
    let clients = trial.connect(50);
    assert_eq!((ready.accept_own(), starting.accept_own()), (50, 0));
    drop(clients);
}

#[test]
fn what_is_queued_at_a_worker_that_leaves_rotation_is_handed_over() {
    let mut trial = trial();
    let mut leaving = trial.listening_member(1);
    let clients = trial.connect(9);
    let mut other = trial.listening_member(2);
    trial.rotate(&leaving, false);
    assert_eq!((leaving.accept_own(), other.accept_all()), (0, 9));
    let more = trial.connect(9);
    assert_eq!((leaving.accept_own(), other.accept_own()), (0, 9));
    drop((clients, more));
}

#[test]
fn what_is_queued_at_a_worker_that_died_is_handed_over() {
    let mut trial = trial();
    let dead = trial.listening_member(1);
    let clients = trial.connect(9);
    drop(dead);
    let mut other = trial.listening_member(2);
    assert_eq!(other.accept_own() + other.accept_all(), 9, "its own socket may be that of the dead one");
    drop(clients);
}

#[test]
fn a_worker_that_stands_still_is_steered_around() {
    let mut trial = trial();
    let (mut still, mut other) = (trial.listening_member(1), trial.listening_member(2));
    let queued = trial.connect(40);
    trial.plane.ping_now(SeatId(0));
    let ping = trial.plane.peer(SeatId(0)).and_then(|peer| peer.ping).expect("it was pinged");
    for _ in 0..15 {
        trial.run_after(Duration::from_millis(100));
    }
    let mut taken = other.accept_own();
    while taken < 40 {
        match other.accept_all() {
            0 => panic!("{taken} of 40 were taken"),
            more => taken += more,
        }
        trial.run_after(Duration::from_millis(10));
    }
    let late = trial.connect(10);
    assert_eq!((still.accept_own(), other.accept_own()), (0, 10));
    trial.plane.on_pong(SeatId(0), ping);
    trial.run_after(Duration::ZERO);
    let more = trial.connect(40);
    assert!(still.accept_own() > 0, "it is back");
    drop((queued, late, more));
}

#[test]
fn a_worker_that_starts_has_nothing_of_what_waits_until_it_is_ready() {
    let mut trial = trial();
    let first = trial.listening_member(1);
    trial.rotate(&first, false);
    let clients = trial.connect(7);
    let mut bad = trial.starting_member(2);
    let more = trial.connect(7);
    assert_eq!((bad.accept_own(), bad.accept_all()), (0, 0));
    drop(bad);
    let mut good = trial.starting_member(3);
    assert_eq!(good.accept_own(), 0);
    trial.rotate(&good, true);
    trial.run_after(Duration::from_millis(10));
    assert_eq!(good.accept_own() + good.accept_all(), 14);
    drop((clients, more));
}

#[test]
fn a_worker_that_shuts_its_socket_down_is_handed_connections() {
    let mut trial = trial();
    let (mut first, mut second) = (trial.listening_member(1), trial.listening_member(2));
    let mut third = trial.listening_member(3);
    first.read();
    rustix::net::shutdown(&first.sockets[0], rustix::net::Shutdown::Read).expect("shut down");
    let before = trial.connect(30);
    let taken = second.accept_own() + third.accept_own();
    assert_eq!(taken, 30);
    assert!(trial.facts().iter().any(|fact| matches!(fact, Fact::Garbage { .. })));
    for member in [&second, &third] {
        trial.rotate(member, false);
    }
    let after = trial.connect(5);
    assert_eq!(first.accept_all(), 5, "as the only one");
    drop((before, after));
}

#[test]
fn nobody_gets_in_while_an_app_ends() {
    let mut trial = trial();
    let first = trial.listening_member(1);
    let listen::Address::Tcp(address) =
        trial.plane.ports.iter().flatten().next().expect("a listener").listener.address
    else {
        panic!("not TCP")
    };
    let (drained, _all) = oneshot::channel();
    trial.plane.on_command(Command::CloseApp { app: APP, drained });
    trial.rotate(&first, false);
    let late = TcpStream::connect_timeout(&address, Duration::from_millis(50));
    assert_eq!(late.expect_err("nobody answers").kind(), io::ErrorKind::TimedOut);
}

#[test]
fn a_socket_that_its_worker_makes_block_blocks_nobody() {
    let mut trial = trial();
    let (mut first, mut second) = (trial.listening_member(1), trial.listening_member(2));
    first.read();
    rustix::io::ioctl_fionbio(&first.sockets[0], false).expect("it may");
    let clients = trial.connect(20);
    trial.rotate(&first, false);
    let taken = second.accept_own() + second.accept_all();
    assert_eq!(taken, 20);
    drop(clients);
}

#[test]
fn connections_wait_where_nobody_accepts() {
    let mut trial = trial();
    let mut first = trial.listening_member(1);
    trial.rotate(&first, false);
    let clients = trial.connect(7);
    assert_eq!((first.accept_own(), first.accept_all()), (0, 0));
    let mut second = trial.listening_member(2);
    assert_eq!(second.accept_own() + second.accept_all(), 7);
    drop(clients);
}

#[test]
fn the_queue_that_a_dead_worker_made_shorter_is_long_again() {
    let mut trial = trial();
    let mut dead = trial.listening_member(1);
    dead.read();
    socket2::SockRef::from(&dead.sockets[0]).listen(1).expect("as a worker may");
    let waits = trial.connect(1);
    trial.rotate(&dead, false);
    drop(dead);
    trial.run_after(Duration::ZERO);
    let port = trial.plane.ports.iter().flatten().next().expect("a listener");
    let [listen::Target { index, .. }] = port.targets[..] else { panic!("one: {:?}", port.targets) };
    let target = &port.listener.sockets()[index as usize];
    let length = listen::queue_length(target).expect("a length");
    assert!(length.queued == 1 && length.backlog > 100, "it is that of the dead one, and long: {length:?}");
    drop(waits);
}

#[test]
fn sockets_are_used_again() {
    let mut trial = trial();
    let _steady = trial.listening_member(1);
    for number in 2..20 {
        let passing = trial.listening_member(number);
        trial.plane.on_command(Command::Forget { worker: passing.worker });
        trial.run_after(Duration::ZERO);
    }
    let port = trial.plane.ports.iter().flatten().next().expect("a listener");
    assert_eq!((port.entrances.len(), port.listener.sockets().len()), (2, 2));
}

#[test]
fn a_stop_hands_over_what_is_queued_at_all_sockets() {
    let mut trial = trial();
    let (first, mut second) = (trial.listening_member(1), trial.listening_member(2));
    let clients = trial.connect(12);
    trial.rotate(&first, false);
    let mut drained = trial.close_app();
    let taken = second.accept_own() + second.accept_all();
    trial.run_after(Duration::from_millis(10));
    assert_eq!(taken, 12);
    drained.try_recv().expect("nothing waits");
    drop(clients);
}
