//! Datagram sockets, one for each worker.

use std::net::{Ipv4Addr, UdpSocket};

use super::*;
use crate::spec::{ListenAddress, Spread};

/// An app with a `--listen` socket for datagrams, and the two names of that.
fn trial() -> (Trial, [ServerQuery; 2]) {
    let mut trial = Trial::new();
    let own = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
    let address = own.local_addr().expect("it is bound");
    let app = trial.plane.apps.get_mut(&APP).expect("the app");
    app.inherited.push(own.into());
    app.policies = Policies::default().with(ListenAddress::Udp(address), Policy::Kernel(Spread::Hash));
    let query = || ServerQuery { address_type: AddressType::Udp4, ..ServerQuery::default() };
    let host = Some(address.ip().to_string());
    let by_number = ServerQuery { fd: Some(3), ..query() };
    let by_address = ServerQuery { address: host, port: Some(address.port().into()), ..query() };
    (trial, [by_number, by_address])
}

impl Member {
    fn ask(&mut self, trial: &mut Trial, query: &ServerQuery) {
        self.say(encode::query_server(query, 1));
        trial.run_after(Duration::ZERO);
        self.read();
    }
}

#[test]
fn a_successor_may_name_an_own_socket_otherwise() {
    let (mut trial, [by_number, by_address]) = trial();
    let (mut old, mut new) = (trial.member(1), trial.member(2));
    old.ask(&mut trial, &by_number);
    new.ask(&mut trial, &by_address);
    assert_eq!((old.sockets.len(), new.sockets.len(), trial.open_ports()), (1, 1, 1));
}

#[test]
fn a_worker_has_an_own_socket_once_under_any_name() {
    let (mut trial, [by_number, by_address]) = trial();
    let mut member = trial.member(1);
    member.ask(&mut trial, &by_address);
    trial.facts();
    for again in [by_number, by_address] {
        member.ask(&mut trial, &again);
        let is_refused = |fact: &Fact| matches!(fact, Fact::ListenFailed { errno, .. } if *errno == -i64::from(libc::EADDRINUSE));
        assert!(trial.facts().iter().any(is_refused), "{again:?}");
    }
    assert_eq!(member.sockets.len(), 1);
}

#[test]
fn a_worker_with_little_time_has_a_quarter_of_it_for_what_it_has_not_read() {
    let (mut trial, [by_number, _]) = trial();
    let mut member = trial.member(1);
    member.ask(&mut trial, &by_number);
    trial.rotate(&member, true);
    let port = trial.plane.ports.iter().flatten().next().expect("a listener");
    let listen::Address::Udp(address) = port.listener.address else { panic!("not UDP") };
    let client = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
    client.send_to(b"unread", address).expect("the kernel takes it");
    trial.rotate(&member, false);
    let within = Duration::from_secs(2);
    trial.plane.on_command(Command::Disconnect { worker: member.worker, within });
    trial.run_after(Duration::from_millis(490));
    member.read();
    assert_eq!(member.told.join(", "), "");
    trial.run_after(Duration::from_millis(10));
    member.read();
    assert_eq!(member.told.join(", "), "disconnect");
}

#[test]
fn what_is_left_behind_is_looked_at_when_its_only_reader_is_back() {
    let (mut trial, [by_number, _]) = trial();
    let mut member = trial.listening_member(1);
    member.ask(&mut trial, &by_number);
    let clients = trial.connect(1);
    for _ in 0..12 {
        trial.run_after(Duration::from_millis(250));
    }
    assert!(trial.facts().iter().any(|fact| matches!(fact, Fact::Overdue { .. })));
    trial.run_after(Duration::from_secs(3));
    assert_eq!(trial.plane.look_at_left_behind_at, None, "there is nobody to read");
    assert_eq!(member.accept_all(), 1);
    trial.run_after(Duration::from_millis(1));
    assert!(trial.plane.look_at_left_behind_at.is_some());
    drop(clients);
}
