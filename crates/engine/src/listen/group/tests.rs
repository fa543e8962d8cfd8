use std::collections::HashSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, TcpStream};

use rustix::net::{SocketFlags, accept_with};

use super::*;

const SLOTS: u32 = 8;

fn group(host: impl Into<IpAddr>, slots: u32) -> Group {
    let mut group = Group::bind(SocketAddr::new(host.into(), 0), false, 4096, 0).expect("bind");
    for slot in 1..slots {
        group.socket(slot).expect("one more");
    }
    group
}

fn all(slots: u32) -> Vec<u32> {
    (0..slots).collect()
}

/// Accepts what waits for a slot; a listening socket says nothing to its clients when it is accepted from.
fn accept_all(group: &mut Group, slot: u32) -> Vec<SocketAddr> {
    let socket = group.socket(slot).expect("a socket").try_clone_to_owned().expect("a copy");
    let accepted = std::iter::from_fn(|| accept_with(&socket, SocketFlags::CLOEXEC).ok());
    accepted.map(|connection| TcpStream::from(connection).peer_addr().expect("a client")).collect()
}

fn connect(group: &Group, count: usize) -> Vec<TcpStream> {
    (0..count).map(|_| TcpStream::connect(group.address()).expect("connect")).collect()
}

/// Connects from other addresses of the loopback network.
fn connect_from(group: &Group, client: Ipv4Addr) -> TcpStream {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
    socket.bind(&SocketAddr::from((client, 0)).into()).expect("an address of loopback");
    socket.connect(&group.address().into()).expect("connect");
    socket.into()
}

/// Returns how many connections each slot got.
fn shares(group: &mut Group, slots: u32) -> Vec<usize> {
    (0..slots).map(|slot| accept_all(group, slot).len()).collect()
}

#[test]
fn every_slot_gets_its_share() {
    for host in [IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)] {
        let mut group = group(host, SLOTS);
        for spread in [Spread::Hash, Spread::Random] {
            group.steer(spread, &all(SLOTS)).expect("steer");
            let clients = connect(&group, 1600);
            let shares = shares(&mut group, SLOTS);
            assert_eq!(shares.iter().sum::<usize>(), clients.len());
            assert!(
                shares.iter().all(|share| (130..=270).contains(share)),
                "{spread:?} at {host}: {shares:?}"
            );
        }
    }
}

#[test]
fn both_families_are_spread_at_one_socket() {
    let mut group = group(Ipv6Addr::UNSPECIFIED, 4);
    group.steer(Spread::Hash, &all(4)).expect("steer");
    let port = group.address().port();
    let clients: Vec<_> =
        (0..400).map(|_| TcpStream::connect((Ipv4Addr::LOCALHOST, port)).expect("connect")).collect();
    let shares = shares(&mut group, 4);
    assert_eq!(shares.iter().sum::<usize>(), clients.len());
    assert!(shares.iter().all(|share| (50..=150).contains(share)), "{shares:?}");
}

#[test]
fn one_processor_is_one_slot() {
    let mut group = group(Ipv4Addr::LOCALHOST, 2);
    group.steer(Spread::Cpu, &all(2)).expect("steer");
    let mut cpus = rustix::thread::CpuSet::new();
    let before = rustix::thread::sched_getaffinity(None).expect("affinity");
    let own = (0..rustix::thread::CpuSet::MAX_CPU).find(|cpu| before.is_set(*cpu)).expect("a processor");
    cpus.set(own);
    rustix::thread::sched_setaffinity(None, &cpus).expect("stay here");
    let _clients = connect(&group, 100);
    rustix::thread::sched_setaffinity(None, &before).expect("as before");
    let mut expected = vec![0, 0];
    expected[own % 2] = 100;
    assert_eq!(shares(&mut group, 2), expected);
}

#[test]
fn a_client_stays_with_its_slot() {
    let mut group = group(Ipv4Addr::LOCALHOST, 5);
    let clients = (1..=250).map(|last| Ipv4Addr::new(127, 1, 0, last));
    let slot_of = |group: &mut Group, client: Ipv4Addr, slots: u32| {
        let _connections = [connect_from(group, client), connect_from(group, client)];
        let slots: Vec<_> = (0..slots).filter(|slot| !accept_all(group, *slot).is_empty()).collect();
        assert_eq!(slots.len(), 1, "{client} is at {slots:?}");
        slots[0]
    };
    let (mut moved, mut used) = (0, HashSet::new());
    for client in clients {
        group.steer(Spread::ClientAddress, &all(4)).expect("steer");
        let before = slot_of(&mut group, client, 5);
        group.steer(Spread::ClientAddress, &all(5)).expect("steer");
        let after = slot_of(&mut group, client, 5);
        assert!(before == after || after == 4, "{client} went from {before} to {after}");
        moved += u32::from(before != after);
        used.insert(before);
    }
    assert_eq!(used.len(), 4, "not all slots are used");
    assert!((25..=75).contains(&moved), "{moved} of 250 moved");
}

#[test]
fn connections_are_steered_around_a_slot_and_stay_where_they_are() {
    let mut group = group(Ipv4Addr::LOCALHOST, 3);
    group.steer(Spread::Hash, &[1]).expect("steer");
    let _queued = connect(&group, 5);
    group.steer(Spread::Hash, &[0, 2]).expect("steer");
    let _others = connect(&group, 40);
    assert_eq!(group.queued(1).expect("a length"), 5);
    let shares = shares(&mut group, 3);
    assert_eq!(shares[1], 5);
    assert!(shares[0] > 0 && shares[2] > 0, "{shares:?}");
    // There must be one.
    group.steer(Spread::Hash, &[7]).expect("nothing to steer to");
    let _more = connect(&group, 10);
    assert_eq!(group.queued(1).expect("a length"), 0);
}

#[test]
fn a_new_slot_gets_nothing_before_it_may() {
    let mut group = group(Ipv4Addr::LOCALHOST, 1);
    group.socket(1).expect("one more");
    let _clients = connect(&group, 20);
    assert_eq!(shares(&mut group, 2), [20, 0]);
}

#[test]
fn the_queue_outlives_the_worker() {
    let mut group = group(Ipv4Addr::LOCALHOST, 1);
    let worker = group.socket(0).and_then(|socket| socket.try_clone_to_owned()).expect("a copy");
    let _clients = connect(&group, 3);
    drop(worker);
    assert_eq!(group.queued(0).expect("a length"), 3);
    assert_eq!(accept_all(&mut group, 0).len(), 3);
}

#[test]
fn a_port_that_is_taken_is_not_joined() {
    let first = group(Ipv4Addr::LOCALHOST, 2);
    let error = Group::bind(first.address(), false, 16, 0).expect_err("it is taken");
    assert_eq!(error.raw_os_error(), Some(libc::EADDRINUSE));
}

#[test]
fn the_longest_program_is_taken() {
    let mut group = group(Ipv4Addr::LOCALHOST, MOST_MEMBERS as u32);
    for spread in [Spread::Hash, Spread::Random, Spread::Cpu, Spread::ClientAddress] {
        group.steer(spread, &all(MOST_MEMBERS as u32)).expect("steer");
    }
    let error = group.socket(MOST_MEMBERS as u32).expect_err("one too many");
    assert_eq!(error.raw_os_error(), Some(libc::EMFILE));
}
