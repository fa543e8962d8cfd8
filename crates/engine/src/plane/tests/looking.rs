//! Connections that are looked at before they are handed over.

use std::io::{Read, Write};
use std::net::IpAddr;

use super::*;
use crate::inet::{self, Protocol, State};
use crate::plane::looking::LOOK_FOR;
use crate::sticky::Key;

const COOKIE: &str = "sticky:cookie:session";

/// An app with a worker in each of two slots.
struct Pair {
    trial: Trial,
    members: [Member; 2],
}

impl Pair {
    fn new(policy: &str) -> Self {
        let mut trial = Trial::with_policy(policy.parse().expect("a policy"));
        let members = [trial.listening_member(1), trial.listening_member(2)];
        Self { trial, members }
    }

    /// Connects a client, which says this at once.
    fn connect(&mut self, text: &str) -> TcpStream {
        let client = self.trial.connect(1).pop().expect("one");
        client.set_nodelay(true).expect("a TCP socket");
        self.say(client, text)
    }

    fn say(&mut self, mut client: TcpStream, text: &str) -> TcpStream {
        client.write_all(text.as_bytes()).expect("it is open");
        self.trial.run_after(Duration::from_millis(1));
        client
    }

    /// Lets the workers take what they were handed, as many times as needed; returns how many each of them took.
    fn taken(&mut self) -> [usize; 2] {
        let mut sums = [0, 0];
        loop {
            let taken = [self.members[0].accept_all(), self.members[1].accept_all()];
            self.trial.run_after(Duration::from_millis(1));
            if taken == [0, 0] {
                return sums;
            }
            sums = [sums[0] + taken[0], sums[1] + taken[1]];
        }
    }

    /// Returns how many connections were accepted and are neither handed over nor closed.
    fn held(&self) -> u64 {
        let Tally { accepted, handed_over, dropped, .. } = self.trial.plane.switchboard.tally();
        accepted - handed_over - dropped
    }
}

/// Returns one at the place of the worker where the key belongs.
fn at_home(key: Key) -> [usize; 2] {
    if key.weight(1) > key.weight(2) { [1, 0] } else { [0, 1] }
}

fn by_address() -> [usize; 2] {
    at_home(Key::of_address(IpAddr::from([127, 0, 0, 1])))
}

/// Returns a user who belongs where connections without a key do not go.
fn stranger() -> (String, [usize; 2]) {
    let users = (0..).map(|number| format!("user-{number}"));
    let mut homes = users.map(|user| (at_home(Key::of(user.as_bytes())), user));
    let (home, user) = homes.find(|(home, _)| *home != by_address()).expect("half of them");
    (user, home)
}

fn request(user: &str) -> String {
    format!("GET / HTTP/1.1\r\nCookie: session={user}\r\n\r\n")
}

#[test]
fn bytes_that_come_in_pieces_are_waited_for_and_left_to_the_worker() {
    let mut pair = Pair::new(COOKIE);
    let (user, home) = stranger();
    let request = request(&user);
    let (first, rest) = request.split_at(25);
    let mut client = pair.connect("");
    for letter in first.split_inclusive(|_| true) {
        client = pair.say(client, letter);
    }
    assert_eq!((pair.taken(), pair.held()), ([0, 0], 1));
    let client = pair.say(client, rest);
    let member = &mut pair.members[home[1]];
    member.read();
    let (_seq, connection) = member.connections.first().expect("it is at home");
    let mut text = vec![0; request.len()];
    let mut stream = TcpStream::from(connection.try_clone().expect("a copy"));
    stream.read_exact(&mut text).expect("nothing was taken from it");
    assert_eq!(text, request.as_bytes());
    assert_eq!(pair.taken(), home);
    drop(client);
}

#[test]
fn a_silent_client_goes_by_its_address_in_the_end() {
    let mut pair = Pair::new(COOKIE);
    let client = pair.connect("");
    pair.trial.run_after(LOOK_FOR.saturating_sub(Duration::from_millis(10)));
    assert_eq!((pair.taken(), pair.held()), ([0, 0], 1));
    pair.trial.run_after(Duration::from_millis(10));
    assert_eq!((pair.taken(), pair.held()), (by_address(), 0));
    drop(client);
}

#[test]
fn a_first_packet_that_was_lost_once_is_still_waited_for() {
    let mut pair = Pair::new(COOKIE);
    let (user, home) = stranger();
    let client = pair.connect("");
    pair.trial.run_after(Duration::from_secs(3));
    let client = pair.say(client, &request(&user));
    assert_eq!((pair.taken(), pair.held()), (home, 0));
    drop(client);
}

#[test]
fn clients_that_say_nothing_delay_no_other() {
    let mut pair = Pair::new(COOKIE);
    let silent: Vec<TcpStream> = (0..10).flat_map(|_| pair.trial.connect(100)).collect();
    let (user, home) = stranger();
    let client = pair.connect(&request(&user));
    assert_eq!((pair.taken(), pair.held()), (home, 1000));
    pair.trial.run_after(LOOK_FOR);
    assert_eq!((pair.taken(), pair.held()), (by_address().map(|one| one * 1000), 0));
    drop((silent, client));
}

#[test]
fn what_was_looked_at_leaves_nothing_behind() {
    let mut pair = Pair::new(COOKIE);
    let mut deadline = None;
    for number in 0..100 {
        let client = pair.connect("");
        deadline = pair.trial.plane.next_look_over();
        let client = pair.say(client, &request(&format!("user-{number}")));
        assert_eq!(pair.taken().iter().sum::<usize>(), 1);
        drop(client);
    }
    assert!(deadline.is_some(), "it was waited for each of them");
    assert_eq!(pair.trial.plane.next_look_over(), None, "nobody has to wake up for them any more");
}

#[test]
fn when_descriptors_are_short_those_that_were_looked_at_longest_go_first() {
    let mut pair = Pair::new(COOKIE);
    let clients = pair.trial.connect(3);
    let speaking = pair.say(clients[0].try_clone().expect("a copy"), &request("user-1"));
    pair.taken();
    pair.trial.plane.end_oldest_looks(1);
    assert_eq!((pair.taken(), pair.held()), (by_address(), 1));
    pair.trial.plane.end_oldest_looks(9);
    assert_eq!((pair.taken(), pair.held()), (by_address(), 0));
    drop((clients, speaking));
}

#[test]
fn a_client_that_closes_at_once_is_handed_over_at_once() {
    let mut pair = Pair::new(COOKIE);
    drop(pair.connect(""));
    pair.trial.run_after(Duration::ZERO);
    assert_eq!((pair.taken(), pair.held()), (by_address(), 0));
}

#[test]
fn without_bytes_to_look_at_nobody_waits() {
    let mut pair = Pair::new("sticky:ip");
    let client = pair.connect("");
    assert_eq!(pair.taken(), by_address());
    drop(client);
}

#[test]
fn a_proxy_header_names_the_client() {
    let mut pair = Pair::new("sticky:proxy");
    for number in 0..20 {
        let address = IpAddr::from([192, 0, 2, number]);
        let client = pair.connect(&format!("PROXY TCP4 {address} 192.0.2.1 4711 80\r\n"));
        assert_eq!(pair.taken(), at_home(Key::of_address(address)), "{address}");
        drop(client);
    }
}

#[test]
fn what_any_worker_may_have_goes_in_turn() {
    let mut pair = Pair::new("sticky:socket.io");
    let clients: Vec<_> =
        (0..10).map(|_| pair.connect("GET /?transport=websocket HTTP/1.1\r\n\r\n")).collect();
    assert_eq!(pair.taken(), [5, 5]);
    let request = "GET /?transport=polling&sid=a.slot2 HTTP/1.1\r\n\r\n";
    let at_home: Vec<_> = (0..10).map(|_| pair.connect(request)).collect();
    assert_eq!(pair.taken(), [0, 10], "the second worker is that of slot 2");
    drop((clients, at_home));
}

#[test]
fn a_stop_loses_nothing_that_is_looked_at() {
    let mut pair = Pair::new(COOKIE);
    let looked_at = pair.trial.connect(5);
    assert_eq!(pair.held(), 5);
    // These are still in the kernel's queue when the app is told to stop.
    let port = pair.trial.plane.ports.iter().flatten().next().expect("a listener");
    let listen::Address::Tcp(address) = port.listener.address else { panic!("not TCP") };
    let queued: Vec<_> = (0..5).map(|_| TcpStream::connect(address).expect("it listens")).collect();
    let by = Instant::now() + Duration::from_secs(10);
    let port = address.port();
    let open =
        || inet::sockets_at(Protocol::Tcp, port..=port, &[State::Established]).expect("the kernel tells");
    while open().len() < looked_at.len() + queued.len() {
        assert!(Instant::now() < by, "not all are in the queue");
    }
    let mut drained = pair.trial.close_app();
    drained.try_recv().expect_err("they are not answered");
    assert_eq!(pair.taken(), by_address().map(|one| one * 10));
    pair.trial.run_after(Duration::ZERO);
    drained.try_recv().expect("all are answered");
    assert_eq!(pair.trial.plane.switchboard.tally().dropped, 0);
    drop((looked_at, queued));
}

#[test]
fn what_is_looked_at_is_closed_with_its_listener_and_told() {
    let mut pair = Pair::new(COOKIE);
    let mut clients = pair.trial.connect(3);
    pair.trial.plane.on_command(Command::ForgetApp { app: APP });
    let facts = pair.trial.facts();
    assert!(facts.iter().any(|fact| matches!(fact, Fact::Dropped { count: 3, .. })), "{facts:?}");
    assert_eq!((pair.held(), pair.trial.plane.next_look_over()), (0, None));
    for client in &mut clients {
        assert_eq!(client.read(&mut [0]).expect("not reset"), 0, "closed");
    }
}

#[test]
fn without_a_worker_in_rotation_connections_stay_with_the_kernel() {
    let mut pair = Pair::new(COOKIE);
    let both = pair.members.each_ref().map(|member| member.worker);
    for worker in both {
        pair.trial.plane.on_command(Command::Rotate { worker, in_rotation: false });
    }
    let (user, home) = stranger();
    let client = pair.connect(&request(&user));
    assert_eq!(pair.trial.plane.switchboard.tally().accepted, 0);
    for worker in both {
        pair.trial.plane.on_command(Command::Rotate { worker, in_rotation: true });
    }
    pair.trial.run_after(Duration::ZERO);
    assert_eq!(pair.taken(), home);
    drop(client);
}

#[test]
fn the_next_worker_of_a_slot_gets_what_came_after_a_sudden_end() {
    let mut pair = Pair::new(COOKIE);
    let (user, home) = stranger();
    let slot = 1 + home[1] as u32;
    let dead = pair.members[home[1]].worker;
    pair.members[home[1]].channel = Channel::new(worksong_channel::pair().expect("a channel").1);
    // The supervisor may be quicker with what it knows than the channel.
    pair.trial.plane.on_command(Command::Rotate { worker: dead, in_rotation: false });
    let client = pair.connect(&request(&user));
    pair.trial.run_after(Duration::from_secs(1));
    assert_eq!((pair.taken(), pair.held()), ([0, 0], 1));
    let mut heir = pair.trial.listening_member_in(3, slot);
    assert_eq!(heir.accept_all(), 1);
    drop(client);
}

mod moving {
    //! What workers give back where connections belong to slots.

    use worksong_channel::message::Ability;

    use super::*;

    /// Returns a pair whose first worker gives its connections back.
    fn giving() -> Pair {
        let mut pair = Pair::new(COOKIE);
        let can = vec![Ability::Give, Ability::Ping, Ability::Drain];
        pair.members[0].say(Extension::Hello { can }.encode());
        pair.trial.run_after(Duration::ZERO);
        pair
    }

    impl Pair {
        /// Lets the plane do what it can, and returns what the first worker has been told since the last call.
        fn told(&mut self) -> String {
            self.trial.run_after(Duration::from_millis(1));
            self.members[0].read();
            std::mem::take(&mut self.members[0].told).join(", ")
        }

        fn first_leaves(&mut self) {
            let worker = self.members[0].worker;
            self.trial.plane.on_command(Command::Rotate { worker, in_rotation: false });
            self.trial.plane.on_command(Command::Disconnect { worker, within: Duration::from_secs(30) });
        }
    }

    #[test]
    fn a_newcomer_gets_no_share() {
        let mut pair = giving();
        let newcomer = pair.trial.listening_member(3).worker;
        pair.trial.plane.on_command(Command::Rebalance { newcomer });
        assert_eq!(pair.told(), "");
    }

    #[test]
    fn one_out_of_rotation_keeps_what_it_has_until_its_slot_has_another_worker() {
        let mut pair = giving();
        let worker = pair.members[0].worker;
        pair.trial.plane.on_command(Command::Rotate { worker, in_rotation: false });
        assert_eq!(pair.told(), "");
        let _newcomer = pair.trial.listening_member(3);
        assert_eq!(pair.told(), "");
        let _heir = pair.trial.listening_member_in(4, 1);
        assert_eq!(pair.told(), "give true");
    }

    #[test]
    fn one_that_leaves_its_slot_for_good_keeps_what_it_has() {
        let mut pair = giving();
        pair.first_leaves();
        assert_eq!(pair.told(), "drain false, disconnect");
    }

    #[test]
    fn one_that_leaves_gives_to_the_next_worker_of_its_slot() {
        let mut pair = giving();
        let users = (0..100).map(|number| format!("user-{number}"));
        let user =
            users.into_iter().find(|user| at_home(Key::of(user.as_bytes())) == [1, 0]).expect("half of them");
        let client = pair.connect(&request(&user));
        pair.members[0].read();
        let (seq, connection) = pair.members[0].connections.pop().expect("it is at home");
        pair.members[0].say(encode::accepted(seq, true, 1));
        let mut heir = pair.trial.listening_member_in(3, 1);
        let mut newest = pair.trial.listening_member_in(4, 3);
        pair.first_leaves();
        assert_eq!(pair.told(), "give false, drain true");
        let given = worksong_channel::message::extension::given();
        pair.members[0].channel.send(given, Some(connection)).expect("there is room");
        assert_eq!(pair.told(), "give false");
        assert_eq!((heir.accept_all(), newest.accept_all(), pair.taken()), (1, 0, [0, 0]));
        drop(client);
    }
}
