//! Workers that give connections back, and when they are asked.

use std::io::{Read, Write};
use std::net::IpAddr;
use std::os::fd::AsFd;

use worksong_channel::message::Ability;
use worksong_channel::message::extension::given;

use super::*;
use crate::spec::NodeFlavour;
use crate::sticky::Key;

/// An app with an old worker that has taken these connections, and a new one.
struct Change {
    trial: Trial,
    old: Member,
    new: Member,
    taken: Vec<OwnedFd>,
    clients: Vec<TcpStream>,
}

impl Change {
    fn new(connections: usize, can: &[Ability]) -> Self {
        let mut trial = Trial::new();
        let mut old = trial.listening_member(1);
        old.say(Extension::Hello { can: can.to_vec() }.encode());
        trial.run_after(Duration::ZERO);
        let clients = trial.connect(connections);
        let mut taken = Vec::new();
        while taken.len() < connections {
            taken.extend(old.take_all());
            trial.run_after(Duration::from_millis(5));
        }
        let new = trial.listening_member(2);
        Self { trial, old, new, taken, clients }
    }

    fn giving(connections: usize) -> Self {
        Self::new(connections, &[Ability::Give, Ability::Ping, Ability::Drain])
    }

    fn leave(&mut self) {
        self.leave_within(Duration::from_secs(30));
    }

    fn leave_within(&mut self, within: Duration) {
        let worker = self.old.worker;
        self.trial.plane.on_command(Command::Rotate { worker, in_rotation: false });
        self.trial.plane.on_command(Command::Disconnect { worker, within });
    }

    /// Lets the plane do what it can, and returns what the old worker has been told since the last call.
    fn told(&mut self) -> String {
        self.told_after(Duration::from_millis(1))
    }

    fn told_after(&mut self, time: Duration) -> String {
        self.trial.run_after(time);
        self.old.read();
        std::mem::take(&mut self.old.told).join(", ")
    }

    fn give_one(&mut self) {
        let connection = self.taken.pop().expect("it has one");
        self.old.channel.send(given(), Some(connection)).expect("there is room");
    }

    fn give_nothing(&mut self) {
        self.old.say(Extension::Nothing { open: self.taken.len() as u64 }.encode());
    }
}

impl Member {
    /// Takes the connections that it was handed, and keeps them.
    fn take_all(&mut self) -> Vec<OwnedFd> {
        self.read();
        let taken = std::mem::take(&mut self.connections);
        taken
            .into_iter()
            .map(|(seq, connection)| {
                self.say(encode::accepted(seq, true, 1));
                connection
            })
            .collect()
    }
}

#[test]
fn a_worker_gives_what_is_idle_before_it_is_told_to_leave() {
    let mut change = Change::giving(3);
    change.leave();
    assert_eq!(change.told(), "give false, drain true");
    change.give_one();
    assert_eq!(change.told(), "give false", "one at a time");
    change.give_nothing();
    assert_eq!(change.told(), "disconnect, give true");
    change.give_one();
    assert_eq!(change.told(), "give true");
    change.give_nothing();
    assert_eq!(change.told(), "", "nothing is left that could move");
    assert_eq!(change.new.take_all().len(), 2);
    assert_eq!(change.trial.plane.switchboard.tally().moved, 2);
}

#[test]
fn what_a_client_has_sent_moves_with_its_connection() {
    let mut change = Change::giving(1);
    change.clients[0].write_all(b"hello").expect("it is open");
    change.leave();
    change.told();
    change.give_one();
    change.told();
    let heir = change.new.take_all().pop().expect("it was moved");
    let mut text = [0; 5];
    let mut stream = TcpStream::from(heir);
    stream.read_exact(&mut text).expect("what was sent to the old worker");
    stream.write_all(&text).expect("the client is there");
    change.clients[0].read_exact(&mut text).expect("its connection never ended");
    assert_eq!(&text, b"hello");
}

#[test]
fn a_worker_that_gives_nothing_is_told_to_leave_all_the_same() {
    let mut change = Change::giving(1);
    change.leave();
    assert_eq!(change.told(), "give false, drain true");
    assert_eq!(change.told_after(Duration::from_millis(900)), "");
    change.give_one();
    assert_eq!(change.told_after(Duration::from_millis(900)), "give false", "it gets on");
    assert_eq!(change.told_after(Duration::from_millis(900)), "");
    assert_eq!(change.told_after(Duration::from_millis(200)), "disconnect");
    change.give_nothing();
    assert_eq!(change.told(), "give true", "a late answer changes nothing");
}

#[test]
fn nobody_is_asked_when_nobody_could_take() {
    let mut change = Change::giving(1);
    let successor = change.new.worker;
    change.trial.plane.on_command(Command::Rotate { worker: successor, in_rotation: false });
    change.leave();
    assert_eq!(change.told(), "drain false, disconnect");

    let mut change = Change::giving(1);
    let _drained = change.trial.close_app();
    change.leave();
    assert_eq!(change.told(), "drain false, disconnect", "the app ends");
}

#[test]
fn who_leaves_by_itself_meanwhile_is_not_told_to() {
    let mut change = Change::giving(1);
    change.leave();
    assert_eq!(change.told(), "give false, drain true");
    change.old.say(b"{\"cmd\":\"NODE_CLUSTER\",\"act\":\"exitedAfterDisconnect\",\"seq\":1}\n".as_slice());
    assert_eq!(change.told(), "");
    change.give_nothing();
    assert_eq!(change.told(), "give true");
    assert_eq!(change.told_after(Duration::from_secs(2)), "");
}

#[test]
fn only_who_can_is_asked() {
    for (can, told) in [(&[][..], "disconnect"), (&[Ability::Drain], "drain false, disconnect")] {
        let mut change = Change::new(1, can);
        change.leave();
        assert_eq!(change.told(), told);
    }
}

#[test]
fn no_more_is_asked_for_while_connections_wait() {
    let mut change = Change::giving(WINDOW + 3);
    change.leave();
    assert_eq!(change.told(), "give false, drain true");
    for _ in 0..WINDOW {
        change.give_one();
        assert_eq!(change.told(), "give false");
    }
    assert!(change.trial.plane.half_full.is_empty(), "it was looked at without a new connection");
    change.give_one();
    assert_eq!(change.told(), "", "the new worker has not taken what it has, and one waits");
    assert_eq!(change.new.take_all().len(), WINDOW);
    assert_eq!(change.told_after(Duration::from_millis(10)), "give false");
}

#[test]
fn with_half_of_its_time_left_a_worker_is_told_to_hurry_and_asked_again() {
    let mut change = Change::giving(WINDOW + 3);
    change.leave_within(Duration::from_secs(4));
    assert_eq!(change.told(), "give false, drain true");
    for _ in 0..WINDOW {
        change.give_one();
        assert_eq!(change.told(), "give false");
    }
    change.give_one();
    assert_eq!(change.told(), "", "one waits for the new worker");
    assert_eq!(change.told_after(Duration::from_millis(1500)), "disconnect");
    assert_eq!(change.told_after(Duration::from_millis(500)), "hurry, give false");
    change.give_one();
    assert_eq!(change.told(), "give false", "although two wait");
    assert_eq!(change.told_after(Duration::from_mins(1)), "", "it is told once");
    assert_eq!(change.trial.plane.next_deadline().filter(|at| *at <= change.trial.now), None);
}

#[test]
fn who_is_told_to_leave_when_its_time_is_half_over_hurries_at_once() {
    let mut change = Change::giving(1);
    change.trial.plane.hurry_after(SeatId(0), Duration::ZERO);
    assert_eq!(change.told(), "");
    change.leave();
    assert_eq!(change.told(), "give false, drain true, hurry");
}

#[test]
fn who_has_time_for_ever_need_not_hurry() {
    let mut change = Change::giving(1);
    change.leave_within(Duration::MAX);
    assert_eq!(change.told(), "give false, drain true");
    change.give_nothing();
    assert_eq!(change.told(), "disconnect, give true");
    assert_eq!(change.told_after(Duration::from_hours(9)), "");
}

#[test]
fn who_closes_its_last_server_is_asked_for_what_it_still_has() {
    let mut change = Change::giving(2);
    let key = change.old.servers.pop().expect("its only server");
    change.old.say(encode::close(&key, 1));
    assert_eq!(change.told(), "give true");
    change.give_one();
    assert_eq!(change.told(), "give true");
    change.give_nothing();
    assert_eq!(change.told(), "");
    assert_eq!(change.new.take_all().len(), 1);
}

#[test]
fn who_closes_a_server_that_nobody_else_serves_keeps_its_connections() {
    let mut change = Change::giving(1);
    let successor = change.new.worker;
    change.trial.plane.on_command(Command::Rotate { worker: successor, in_rotation: false });
    let key = change.old.servers.pop().expect("its only server");
    change.old.say(encode::close(&key, 1));
    assert_eq!(change.told(), "");
}

#[test]
fn a_datagram_socket_of_its_own_keeps_no_connection_from_moving() {
    for closes in [false, true] {
        let mut change = Change::giving(1);
        let address = Some("127.0.0.1".to_owned());
        let address_type = AddressType::Udp4;
        let query = ServerQuery { address, port: Some(0), address_type, ..ServerQuery::default() };
        change.old.say(encode::query_server(&query, 2));
        assert_eq!((change.told().as_str(), change.old.sockets.len()), ("", 1));
        if closes {
            let servers = &change.trial.plane.peer(SeatId(0)).expect("it is there").servers;
            let key = servers.keys().find(|key| key.contains("udp4")).expect("it has the socket").clone();
            change.old.say(encode::close(&key, 3));
            assert_eq!(change.told(), "");
        }
        change.leave();
        assert_eq!(change.told(), "give false, drain true", "it closes the socket: {closes}");
    }
}

#[test]
fn what_waits_for_a_blocked_owner_holds_up_no_leaving_worker() {
    let key = Key::of_address(IpAddr::from([127, 0, 0, 1]));
    let (home, other) = if key.weight(1) > key.weight(2) { (1, 2) } else { (2, 1) };
    let mut trial = Trial::with_policy("sticky:ip".parse().expect("a policy"));
    let mut old = trial.listening_member_in(1, other);
    old.say(Extension::Hello { can: vec![Ability::Give, Ability::Drain] }.encode());
    let mut clients = trial.connect(1);
    let taken = old.take_all();
    let new = trial.listening_member_in(2, other);
    let blocked = trial.listening_member_in(3, home);
    clients.extend(trial.connect(WINDOW + 2));
    assert!(trial.plane.ports.iter().flatten().count() == 1 && trial.plane.switchboard.is_waiting(LineId(0)));
    let mut change = Change { trial, old, new, taken, clients };
    change.leave();
    assert_eq!(change.told(), "give false, drain true");
    change.give_one();
    assert_eq!((change.told().as_str(), change.new.take_all().len()), ("give false", 1));
    change.give_nothing();
    assert_eq!(change.told(), "disconnect, give true");
    drop(blocked);
}

#[test]
fn a_worker_that_stays_is_emptied_and_may_come_back() {
    let mut change = Change::giving(2);
    let worker = change.old.worker;
    change.trial.plane.on_command(Command::Rotate { worker, in_rotation: false });
    assert_eq!(change.told(), "give false");
    change.give_nothing();
    assert_eq!(change.told(), "give true", "what becomes idle goes, too");
    change.trial.plane.on_command(Command::Rotate { worker, in_rotation: true });
    change.give_one();
    assert_eq!(change.told(), "", "it keeps the other one");
    assert_eq!(change.new.take_all().len(), 1, "the one that it gave late is not lost");
}

#[test]
fn a_newcomer_gets_its_share_and_no_more() {
    let mut change = Change::giving(6);
    let newcomer = change.new.worker;
    change.trial.plane.on_command(Command::Rebalance { newcomer });
    assert_eq!(change.told(), "ping");
    let seq = change.trial.plane.peers.iter().flatten().find_map(|peer| peer.ping).expect("it was pinged");
    change.old.say(Extension::Pong { ack: seq, open: 6 }.encode());
    for _ in 0..3 {
        assert_eq!(change.told(), "give true");
        change.give_one();
    }
    assert_eq!(change.told(), "", "half of six");
    assert_eq!(change.new.take_all().len(), 3);
}

#[test]
fn newcomers_that_come_together_get_a_share_each() {
    let mut change = Change::giving(9);
    let third = change.trial.listening_member(3);
    for newcomer in [change.new.worker, third.worker] {
        change.trial.plane.on_command(Command::Rebalance { newcomer });
    }
    assert_eq!(change.told(), "ping");
    let seq = change.trial.plane.peers.iter().flatten().find_map(|peer| peer.ping).expect("it was pinged");
    change.old.say(Extension::Pong { ack: seq, open: 9 }.encode());
    for _ in 0..6 {
        assert_eq!(change.told(), "give true");
        change.give_one();
    }
    assert_eq!(change.told(), "", "two thirds of nine");
}

#[test]
fn a_worker_that_answers_no_ping_gets_nothing_new_until_it_does() {
    let mut change = Change::giving(0);
    assert_eq!(change.told_after(Duration::from_secs(5)), "ping");
    for _ in 0..7 {
        change.told_after(Duration::from_millis(200));
    }
    let facts = change.trial.facts();
    assert!(facts.iter().any(|fact| matches!(fact, Fact::Overdue { .. })), "{facts:?}");
    let clients = change.trial.connect(4);
    assert_eq!((change.old.take_all().len(), change.new.take_all().len()), (0, 4));

    let seq = change.trial.plane.peers.iter().flatten().find_map(|peer| peer.ping).expect("it was pinged");
    change.old.say(Extension::Pong { ack: seq + 1, open: 0 }.encode());
    change.told();
    assert!(change.trial.facts().is_empty(), "an answer to no ping");
    change.old.say(Extension::Pong { ack: seq, open: 0 }.encode());
    change.told();
    let facts = change.trial.facts();
    assert!(facts.iter().any(|fact| matches!(fact, Fact::Answering { .. })), "{facts:?}");
    drop(clients);
}

#[test]
fn a_gift_without_a_listener_is_closed_and_counted() {
    let mut change = Change::giving(1);
    change.leave();
    change.told();
    let (ours, _theirs) = std::os::unix::net::UnixStream::pair().expect("a pair");
    change.old.channel.send(given(), Some(ours.as_fd().try_clone_to_owned().expect("a copy"))).expect("room");
    change.told();
    let facts = change.trial.facts();
    assert!(facts.iter().any(|fact| matches!(fact, Fact::Dropped { count: 1, .. })), "{facts:?}");
    assert_eq!(change.trial.plane.switchboard.tally().moved, 0);
}

#[test]
fn a_gift_that_nobody_asked_for_is_refused() {
    let mut change = Change::giving(1);
    change.give_one();
    change.told();
    let facts = change.trial.facts();
    assert!(facts.iter().any(|fact| matches!(fact, Fact::Garbage { .. })), "{facts:?}");
    assert_eq!(change.new.take_all().len(), 0);
    assert_eq!(change.clients[0].read(&mut [0]).expect("it is closed in order"), 0);
}

#[test]
fn one_that_left_before_anybody_could_take_is_asked_when_somebody_can() {
    let mut change = Change::giving(1);
    let (worker, successor) = (change.old.worker, change.new.worker);
    change.trial.plane.on_command(Command::Rotate { worker: successor, in_rotation: false });
    change.trial.plane.on_command(Command::Rotate { worker, in_rotation: false });
    assert_eq!(change.told(), "");
    change.trial.plane.on_command(Command::Rotate { worker: successor, in_rotation: true });
    assert_eq!(change.told(), "give true");
}

#[test]
fn one_that_starts_is_asked_for_nothing_when_another_one_is_ready() {
    let mut trial = Trial::new();
    let mut starting = trial.starting_member(1);
    starting.say(Extension::Hello { can: vec![Ability::Give, Ability::Ping] }.encode());
    trial.run_after(Duration::ZERO);
    starting.read();
    starting.told.clear();
    let _ready = trial.listening_member(2);
    starting.read();
    assert_eq!(starting.told.join(", "), "");
}

#[test]
fn the_end_of_the_app_ends_the_wait_for_a_move() {
    let mut change = Change::giving(1);
    change.leave();
    change.told();
    change.give_nothing();
    assert_eq!(change.told(), "disconnect, give true");
    let _drained = change.trial.close_app();
    assert_eq!(change.told(), "drain false");
    change.give_nothing();
    assert_eq!(change.told(), "");
}

#[test]
fn nothing_is_asked_for_that_nobody_else_serves() {
    let mut change = Change::giving(1);
    let query = ServerQuery {
        address: Some("127.0.0.1".to_owned()),
        port: Some(0),
        address_type: AddressType::V4,
        index: 1,
        ..ServerQuery::default()
    };
    change.old.say(encode::query_server(&query, 7));
    change.told();
    change.leave();
    assert_eq!(change.told(), "drain false, disconnect", "the other worker has no such server");
}

#[test]
fn a_gift_that_ended_on_its_way_is_followed_by_the_next() {
    let mut change = Change::giving(2);
    change.leave();
    assert_eq!(change.told(), "give false, drain true");
    change.old.say(Extension::Given.encode());
    assert_eq!(change.told(), "give false");
}

#[test]
fn a_gift_that_did_not_arrive_is_asked_for_again() {
    let mut change = Change::giving(1);
    change.leave();
    assert_eq!(change.told(), "give false, drain true");
    // As it comes here when there is no descriptor for the connection.
    change.old.say(given());
    assert_eq!(change.told(), "lost");
    assert_eq!(change.told_after(Duration::from_millis(20)), "give false");
    change.give_one();
    change.told();
    assert_eq!(change.new.take_all().len(), 1);
}

#[test]
fn a_gift_that_its_worker_sends_again_is_not_asked_for_twice() {
    let mut change = Change::giving(1);
    let node = change.trial.plane.peers.iter_mut().flatten().next().expect("the old worker");
    node.flavour = Some(NodeFlavour::Node);
    change.leave();
    assert_eq!(change.told(), "give false, drain true");
    change.old.say(given());
    assert_eq!(change.told(), "lost");
    assert_eq!(change.told_after(Duration::from_millis(100)), "");
    change.give_one();
    assert_eq!(change.told(), "give false");
    assert_eq!(change.new.take_all().len(), 1);
}
