use std::collections::HashSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, TcpStream};
use std::time::{Duration, Instant};

use rustix::net::{SocketFlags, accept_with};
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
use socket2::{Domain, Socket, Type};

use super::*;
use crate::listen::{own_network, queued};

const SLOTS: u32 = 8;

fn group(host: impl Into<IpAddr>, spread: Spread, slots: u32) -> Group {
    let address = SocketAddr::new(host.into(), 0);
    let at = At { transport: Transport::Tcp, address, v6only: false };
    let mut group = Group::bind(at, 4096, spread).expect("bind");
    while group.members().len() < slots as usize {
        group.grow().expect("one more");
    }
    steer(&group, 0..slots);
    group
}

#[track_caller]
fn steer(group: &Group, slots: impl IntoIterator<Item = u32>) {
    let targets: Vec<_> = slots.into_iter().map(|slot| Target { index: slot, slot }).collect();
    group.steer(&targets).expect("steer");
}

/// Accepts what waits for a slot.
fn accept_all(group: &Group, slot: u32) -> usize {
    let socket = &group.members()[slot as usize];
    std::iter::from_fn(|| accept_with(socket, SocketFlags::CLOEXEC).ok()).count()
}

/// Connects, and waits until the kernel has put all of it into queues, which is a moment after a client's own end is open.
fn connect(group: &Group, count: usize) -> Vec<TcpStream> {
    let queued = || group.members().iter().map(|member| queued(member).expect("a length")).sum::<u32>();
    let before = queued();
    let clients: Vec<_> =
        (0..count).map(|_| TcpStream::connect(group.at().address).expect("connect")).collect();
    let by = Instant::now() + Duration::from_secs(10);
    while queued() < before + count as u32 {
        assert!(Instant::now() < by, "{} of {count} are queued", queued() - before);
        std::thread::yield_now();
    }
    clients
}

/// Connects from other addresses of the loopback network.
fn connect_from(group: &Group, client: Ipv4Addr) -> TcpStream {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
    socket.bind(&SocketAddr::from((client, 0)).into()).expect("an address of loopback");
    socket.connect(&group.at().address.into()).expect("connect");
    socket.into()
}

/// Returns how many connections each slot got.
fn shares(group: &Group) -> Vec<usize> {
    (0..).zip(group.members()).map(|(slot, _)| accept_all(group, slot)).collect()
}

#[test]
fn every_slot_gets_its_share() {
    for host in [IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)] {
        for spread in [Spread::Hash, Spread::Random] {
            let group = group(host, spread, SLOTS);
            let clients = connect(&group, 1600);
            let shares = shares(&group);
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
    let group = group(Ipv6Addr::UNSPECIFIED, Spread::Hash, 4);
    let port = group.at().address.port();
    let clients: Vec<_> =
        (0..400).map(|_| TcpStream::connect((Ipv4Addr::LOCALHOST, port)).expect("connect")).collect();
    let shares = shares(&group);
    assert_eq!(shares.iter().sum::<usize>(), clients.len());
    assert!(shares.iter().all(|share| (50..=150).contains(share)), "{shares:?}");
}

#[test]
fn one_processor_is_one_slot() {
    let group = group(Ipv4Addr::LOCALHOST, Spread::Cpu, 2);
    let before = sched_getaffinity(None).expect("affinity");
    let own = (0..CpuSet::MAX_CPU).find(|cpu| before.is_set(*cpu)).expect("a processor");
    let mut here = CpuSet::new();
    here.set(own);
    sched_setaffinity(None, &here).expect("stay here");
    let _clients = connect(&group, 100);
    sched_setaffinity(None, &before).expect("as before");
    let mut expected = [0, 0];
    expected[own % 2] = 100;
    assert_eq!(shares(&group), expected);
}

#[test]
fn a_client_stays_with_its_slot() {
    let group = group(Ipv4Addr::LOCALHOST, Spread::ClientAddress, 5);
    let slot_of = |client: Ipv4Addr| {
        let _connections = [connect_from(&group, client), connect_from(&group, client)];
        let shares = shares(&group);
        shares.iter().position(|share| *share == 2).unwrap_or_else(|| panic!("{client} is at {shares:?}"))
    };
    let (mut moved, mut used) = (0, HashSet::new());
    for client in (1..=250).map(|last| Ipv4Addr::new(127, 1, 0, last)) {
        steer(&group, 0..4);
        let before = slot_of(client);
        steer(&group, 0..5);
        let after = slot_of(client);
        assert!(before == after || after == 4, "{client} went from {before} to {after}");
        moved += u32::from(before != after);
        used.insert(before);
    }
    assert_eq!(used.len(), 4, "not all slots are used");
    assert!((25..=75).contains(&moved), "{moved} of 250 moved");
}

#[test]
fn a_client_goes_by_the_slot_and_not_by_its_socket() {
    let group = group(Ipv4Addr::LOCALHOST, Spread::ClientAddress, 4);
    for client in (1..=50).map(|last| Ipv4Addr::new(127, 2, 0, last)) {
        group.steer(&[Target { index: 0, slot: 7 }, Target { index: 1, slot: 9 }]).expect("steer");
        let _before = connect_from(&group, client);
        let before = shares(&group);
        group.steer(&[Target { index: 2, slot: 7 }, Target { index: 3, slot: 9 }]).expect("steer");
        let _after = connect_from(&group, client);
        assert_eq!(shares(&group)[2..], before[..2]);
    }
}

#[test]
fn connections_are_steered_around_a_slot_and_stay_where_they_are() {
    let group = group(Ipv4Addr::LOCALHOST, Spread::Hash, 3);
    steer(&group, [1]);
    let _queued = connect(&group, 5);
    steer(&group, [0, 2]);
    let _others = connect(&group, 40);
    assert_eq!(queued(&group.members()[1]).expect("a length"), 5);
    let shares = shares(&group);
    assert_eq!(shares[1], 5);
    assert!(shares[0] > 0 && shares[2] > 0, "{shares:?}");
}

#[test]
fn a_new_socket_gets_nothing_before_it_may() {
    let mut group = group(Ipv4Addr::LOCALHOST, Spread::Hash, 1);
    group.grow().expect("one more");
    let _clients = connect(&group, 20);
    assert_eq!(shares(&group), [20, 0]);
}

#[test]
fn the_queue_outlives_the_worker() {
    let group = group(Ipv4Addr::LOCALHOST, Spread::Hash, 1);
    let worker = group.members()[0].try_clone().expect("a copy");
    let _clients = connect(&group, 3);
    drop(worker);
    assert_eq!(queued(&group.members()[0]).expect("a length"), 3);
    assert_eq!(accept_all(&group, 0), 3);
}

#[test]
fn a_port_that_is_taken_is_not_joined() {
    let first = group(Ipv4Addr::LOCALHOST, Spread::Hash, 2);
    let error = Group::bind(first.at(), 16, Spread::Hash).expect_err("it is taken");
    assert_eq!(error.raw_os_error(), Some(libc::EADDRINUSE));
}

#[test]
fn the_longest_program_is_taken() {
    for spread in [Spread::Hash, Spread::Random, Spread::Cpu, Spread::ClientAddress] {
        for transport in [Transport::Tcp, Transport::Udp] {
            let address = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
            let at = At { transport, address, v6only: false };
            let mut group = Group::bind(at, 16, spread).expect("bind");
            let second = group.spare(&|_| {}).expect("a socket");
            group.admit(second).expect("one more");
            let most = spread.most(transport) as u32;
            let targets: Vec<_> = (0..most).map(|slot| Target { index: 0, slot }).collect();
            group
                .steer(&targets)
                .unwrap_or_else(|error| panic!("{most} by {spread:?}, {transport:?}: {error}"));
        }
    }
}

#[test]
fn older_kernels_take_the_longest_program_too() {
    let test = "listen::group::tests::older_kernels_take_the_longest_program_too";
    if own_network::enter(test) && own_network::set("core/optmem_max", "20480") {
        the_longest_program_is_taken();
    }
}

/// Has connections queued at the first of three sockets, of which only the second one gets new ones, and closes the first.
/// Returns how many were moved to each of the others.
fn moved_by_a_close() -> [usize; 2] {
    let mut group = group(Ipv4Addr::LOCALHOST, Spread::Hash, 3);
    steer(&group, [0]);
    let _queued = connect(&group, 40);
    steer(&group, [1]);
    drop(group.members.remove(0));
    [0, 1].map(|left| accept_all(&group, left))
}

#[test]
fn what_is_queued_moves_at_a_close_only_where_the_network_is_set_so_and_to_anybody() {
    let test = "listen::group::tests::\
                what_is_queued_moves_at_a_close_only_where_the_network_is_set_so_and_to_anybody";
    if !own_network::enter(test) || !own_network::set("ipv4/tcp_migrate_req", "0") {
        return;
    }
    assert_eq!(moved_by_a_close(), [0, 0], "it is reset");
    own_network::set("ipv4/tcp_migrate_req", "1");
    let moved = moved_by_a_close();
    assert_eq!(moved.iter().sum::<usize>(), 40);
    // Each of them goes either way: by chance all go one way once in 2^39 times.
    assert!(moved.iter().all(|count| *count > 0), "the program has no say in it: {moved:?}");
}

#[test]
fn there_are_no_more_sockets_than_a_program_can_name() {
    let most = Spread::ClientAddress.most_sockets();
    let mut group = group(Ipv4Addr::LOCALHOST, Spread::ClientAddress, most as u32);
    let error = group.grow().expect_err("one too many");
    assert_eq!(error.kind(), std::io::ErrorKind::QuotaExceeded, "the system is short of nothing: {error}");
}

#[test]
fn the_last_socket_takes_the_place_of_a_dead_one() {
    for dead in 0..4 {
        let mut group = group(Ipv4Addr::LOCALHOST, Spread::Hash, 4);
        let marks: Vec<_> = group.members().iter().map(std::os::fd::AsRawFd::as_raw_fd).collect();
        rustix::net::shutdown(&group.members()[dead], rustix::net::Shutdown::Read).expect("shut down");
        group.drop_dead(dead);
        if dead < 3 {
            assert_eq!(std::os::fd::AsRawFd::as_raw_fd(&group.members()[dead]), marks[3]);
        }
        for index in 0..3 {
            steer(&group, [index]);
            let _clients = connect(&group, 3);
            let mut expected = [0; 3];
            expected[index as usize] = 3;
            assert_eq!(shares(&group), expected, "without {dead}");
        }
    }
}

#[test]
fn a_queue_that_was_made_shorter_gets_its_length_back() {
    let group = group(Ipv4Addr::LOCALHOST, Spread::Hash, 1);
    SockRef::from(&group.members()[0]).listen(1).expect("as a worker may");
    group.lengthen_queue(0);
    assert_eq!(connect(&group, 50).len(), 50);
}

#[test]
fn without_a_target_the_kernel_chooses_among_all() {
    let group = group(Ipv4Addr::LOCALHOST, Spread::Hash, 4);
    steer(&group, []);
    let _clients = connect(&group, 400);
    let shares = shares(&group);
    assert!(shares.iter().all(|share| *share > 0), "{shares:?}");
}
