//! The data plane with real sockets and a clock that the test sets.

use std::net::{TcpListener, TcpStream};
use std::sync::mpsc::{SyncSender, sync_channel};

use tokio::sync::oneshot;
use worksong_channel::message::{AddressType, Cluster, Extension, Handle, Message, ServerQuery, encode};
use worksong_channel::{Channel, Progress};

use super::*;
use crate::handover::{Tally, WINDOW};
use crate::ids::{Slot, WorkerId};
use crate::listen;
use crate::spec::Policy;

mod depth;
mod flows;
mod giving;
mod looking;
mod relaying;
mod shortage;
mod spreading;
mod turning_away;

const APP: AppId = AppId(1);
const HOLD: Duration = Duration::from_secs(7);

/// A data plane of one app, which runs when the test says so.
struct Trial {
    plane: Plane,
    /// Dropped with the plane: without it the control plane would be gone.
    _commands: SyncSender<Command>,
    facts: UnboundedReceiver<Fact>,
    now: Instant,
}

/// A worker's end of its channel.
struct Member {
    worker: WorkerId,
    channel: Channel,
    /// Connections that it was handed and has not answered.
    connections: Vec<(u64, OwnedFd)>,
    /// The keys of its servers.
    servers: Vec<String>,
    /// The listening sockets that it was sent.
    sockets: Vec<OwnedFd>,
    /// What it was told about leaving, and asked for, in order.
    told: Vec<String>,
}

impl Trial {
    fn new() -> Self {
        Self::with_policy(Policy::default())
    }

    fn with_policy(policy: Policy) -> Self {
        Self::with_limits(policy, OpenLimits::default())
    }

    fn with_limits(policy: Policy, limits: OpenLimits) -> Self {
        let (commands, inbox) = sync_channel(1);
        let (told, facts) = unbounded_channel();
        let mut plane = Plane::new(inbox, told).expect("epoll");
        plane.on_command(Command::OpenApp {
            app: APP,
            policies: policy.into(),
            inherited: Vec::new(),
            hold: HOLD,
            limits,
        });
        let now = plane.now;
        Self { plane, _commands: commands, facts, now }
    }

    /// Lets the plane do everything that is ready, some time later.
    fn run_after(&mut self, time: Duration) {
        self.now += time;
        let mut ready = Vec::new();
        for _ in 0..100 {
            self.plane.poll.wait(Some(Duration::ZERO), &mut ready);
            self.plane.turn(&mut ready, self.now);
        }
    }

    fn member(&mut self, number: u32) -> Member {
        self.member_in(number, number)
    }

    fn member_in(&mut self, number: u32, slot: u32) -> Member {
        let worker = WorkerId { app: APP, number };
        let (ours, theirs) = worksong_channel::pair().expect("a channel");
        rustix::io::ioctl_fionbio(&theirs, true).expect("non-blocking");
        self.plane.on_command(Command::AddPeer(PeerSpec {
            worker,
            slot: Slot(slot),
            channel: ours,
            flavour: None,
            enough: None,
        }));
        let channel = Channel::new(theirs);
        Member {
            worker,
            channel,
            connections: Vec::new(),
            servers: Vec::new(),
            sockets: Vec::new(),
            told: Vec::new(),
        }
    }

    /// Adds a worker in rotation that listens; port 0 is the one that the first such worker got.
    fn listening_member(&mut self, number: u32) -> Member {
        self.listening_member_in(number, number)
    }

    fn listening_member_in(&mut self, number: u32, slot: u32) -> Member {
        let mut member = self.starting_member_in(number, slot);
        self.rotate(&member, true);
        member.read();
        member
    }

    fn rotate(&mut self, member: &Member, in_rotation: bool) {
        self.plane.on_command(Command::Rotate { worker: member.worker, in_rotation });
        self.run_after(Duration::ZERO);
    }

    /// Adds a worker that listens and is not ready.
    fn starting_member(&mut self, number: u32) -> Member {
        self.starting_member_in(number, number)
    }

    fn starting_member_in(&mut self, number: u32, slot: u32) -> Member {
        let mut member = self.member_in(number, slot);
        let query = ServerQuery {
            address: Some("127.0.0.1".to_owned()),
            port: Some(0),
            address_type: AddressType::V4,
            ..ServerQuery::default()
        };
        member.say(encode::query_server(&query, 1));
        self.run_after(Duration::ZERO);
        member.read();
        member
    }

    fn connect(&mut self, count: usize) -> Vec<TcpStream> {
        let port = self.plane.ports.iter().flatten().next().expect("a listener");
        let listen::Address::Tcp(address) = port.listener.address else { panic!("not TCP") };
        let clients = (0..count).map(|_| TcpStream::connect(address).expect("the kernel takes it")).collect();
        self.run_after(Duration::from_millis(1));
        clients
    }

    fn close_app(&mut self) -> oneshot::Receiver<()> {
        let (drained, all_handed_over) = oneshot::channel();
        self.plane.on_command(Command::CloseApp { app: APP, drained });
        self.run_after(Duration::from_secs(1));
        all_handed_over
    }

    fn closed_listeners(&mut self) -> u64 {
        let (count, mut counted) = oneshot::channel();
        self.plane.on_command(Command::CountOf { app: APP, count });
        counted.try_recv().expect("it is answered at once").closed_listeners
    }

    fn open_ports(&self) -> usize {
        self.plane.ports.iter().flatten().count()
    }

    fn facts(&mut self) -> Vec<Fact> {
        std::iter::from_fn(|| self.facts.try_recv().ok()).collect()
    }
}

impl Member {
    fn say(&mut self, message: impl Into<Vec<u8>>) {
        self.channel.send(message, None).expect("there is room");
    }

    fn read(&mut self) {
        let mut scratch = vec![0; READ_BUFFER];
        let mut incoming = Vec::new();
        while let Ok(Progress::Read | Progress::ReadAll) = self.channel.receive(&mut scratch, &mut incoming) {
        }
        for incoming in incoming {
            let incoming = incoming.expect("the primary speaks the protocol");
            match incoming.message {
                Message::Handle(Handle { message, .. }) => {
                    let handle = incoming.handle.expect("it comes with it");
                    match *message {
                        Message::Cluster(Cluster::NewConnection { seq, .. }) => {
                            self.connections.push((seq, handle));
                        }
                        Message::Cluster(Cluster::Reply(_)) => self.sockets.push(handle),
                        _ => continue,
                    }
                    self.say(encode::handle_answer(worksong_channel::message::HandleAnswer::Ack));
                }
                Message::Cluster(Cluster::Reply(reply)) => {
                    self.servers.extend(reply.server.map(|server| server.key));
                }
                Message::Cluster(Cluster::Disconnect) => self.told.push("disconnect".to_owned()),
                Message::Extension(message) => self.told.push(match message {
                    Extension::Drain { moves } => format!("drain {moves}"),
                    Extension::Give { wait } => format!("give {wait}"),
                    Extension::Hurry => "hurry".to_owned(),
                    Extension::Ping { .. } => "ping".to_owned(),
                    other => format!("{other:?}"),
                }),
                Message::User(body) => self.told.push(format!("{} bytes", body.get().len())),
                Message::HandleAck => assert!(self.channel.answered(), "it gave something"),
                Message::HandleNack => self.told.push("lost".to_owned()),
                _ => {}
            }
        }
    }

    /// Takes the connections that it was handed.
    fn accept_all(&mut self) -> usize {
        self.read();
        let taken = std::mem::take(&mut self.connections);
        for (seq, _connection) in &taken {
            self.say(encode::accepted(*seq, true, 1));
        }
        taken.len()
    }
}

#[test]
fn a_stop_waits_for_the_answers_to_what_is_handed_over() {
    let mut trial = Trial::new();
    let (mut first, mut second) = (trial.listening_member(1), trial.listening_member(2));
    let clients = trial.connect(8);
    assert_eq!(second.accept_all(), 4);
    let mut drained = trial.close_app();
    drained.try_recv().expect_err("four are unanswered");
    first.read();
    assert_eq!(first.connections.len(), 4);
    drop(first);
    trial.run_after(Duration::from_millis(1));
    assert_eq!(second.accept_all(), 4, "they find the listener and the other worker");
    trial.run_after(Duration::from_millis(10));
    drained.try_recv().expect("everything is answered");
    assert_eq!((trial.open_ports(), trial.plane.switchboard.tally().dropped), (0, 0));
    drop(clients);
}

#[test]
fn nobody_is_late_whose_answer_has_come_and_is_not_read() {
    let mut trial = Trial::new();
    let (mut first, mut second) = (trial.listening_member(1), trial.listening_member(2));
    let clients = trial.connect(2);
    assert_eq!(second.accept_all(), 1);
    trial.run_after(SWEEP_EVERY);
    assert_eq!(first.accept_all(), 1);
    // The primary does not run for a while.
    trial.now += SWEEP_EVERY * 10;
    let next = trial.connect(1);
    assert_eq!((first.accept_all(), second.accept_all()), (1, 0));
    drop((clients, next));
}

#[test]
fn a_stop_accepts_no_more_than_workers_can_take() {
    let mut trial = Trial::new();
    let mut blocked = trial.listening_member(1);
    let clients = trial.connect(40);
    let mut drained = trial.close_app();
    drained.try_recv().expect_err("most of them wait");
    assert_eq!(trial.plane.switchboard.tally().accepted, WINDOW as u64);
    assert_eq!(blocked.accept_all(), WINDOW);
    trial.run_after(Duration::from_millis(10));
    assert_eq!(trial.plane.switchboard.tally().accepted, 2 * WINDOW as u64, "the next ones come in turn");
    trial.plane.on_command(Command::Rotate { worker: blocked.worker, in_rotation: false });
    trial.run_after(Duration::from_millis(10));
    drained.try_recv().expect("nobody is left to take the rest");
    assert_eq!(trial.open_ports(), 0);
    drop(clients);
}

#[test]
fn a_stop_waits_for_workers_only_where_they_accept() {
    let mut trial = Trial::new();
    let own = TcpListener::bind("127.0.0.1:0").expect("a port");
    trial.plane.apps.get_mut(&APP).expect("the app").inherited.push(own.into());
    let mut blocked = trial.member(1);
    let address_type = AddressType::Descriptor;
    let query = ServerQuery { fd: Some(3), address_type, ..ServerQuery::default() };
    blocked.say(encode::query_server(&query, 1));
    trial.rotate(&blocked, true);
    let clients = trial.connect(WINDOW + 1);
    let (drained, mut all_gone) = oneshot::channel();
    trial.plane.on_command(Command::CloseApp { app: APP, drained });
    trial.run_after(Duration::from_millis(110));
    trial.rotate(&blocked, false);
    all_gone.try_recv().expect("nobody is left to take the last one");
    drop(clients);
}

#[test]
fn what_is_closed_with_its_listener_is_told() {
    let mut trial = Trial::new();
    let mut first = trial.listening_member(1);
    let clients = trial.connect(3);
    first.read();
    trial.plane.on_command(Command::Forget { worker: first.worker });
    trial.plane.on_command(Command::ForgetApp { app: APP });
    let dropped = |fact: &Fact| matches!(fact, Fact::Dropped { count: 3, .. });
    assert!(trial.facts().iter().any(dropped));
    drop(clients);
}

#[test]
fn a_listener_that_only_a_gone_worker_wanted_is_closed_when_others_do_well_without_it() {
    let mut trial = Trial::new();
    let steady = trial.member(1);
    trial.plane.on_command(Command::Rotate { worker: steady.worker, in_rotation: true });
    let short_lived = trial.listening_member(2);
    trial.plane.on_command(Command::Forget { worker: short_lived.worker });
    for _ in 0..6 {
        trial.run_after(Duration::from_secs(10));
        assert_eq!(trial.open_ports(), 1, "a successor may want it");
    }
    assert_eq!(trial.closed_listeners(), 0);
    trial.run_after(Duration::from_secs(10));
    assert_eq!((trial.open_ports(), trial.closed_listeners()), (0, 1));
}

#[test]
fn a_listener_waits_for_a_successor_while_no_other_worker_does_well() {
    let mut trial = Trial::new();
    let first = trial.listening_member(1);
    trial.plane.on_command(Command::Forget { worker: first.worker });
    for _ in 0..100 {
        trial.run_after(Duration::from_secs(10));
    }
    let second = trial.listening_member(2);
    assert_eq!((trial.open_ports(), second.servers.len()), (1, 1));
    for _ in 0..100 {
        trial.run_after(Duration::from_secs(10));
    }
    assert_eq!(trial.open_ports(), 1);
}

#[test]
fn a_worker_that_has_said_that_it_leaves_comes_into_rotation_no_more() {
    let mut trial = Trial::new();
    let (mut leaving, mut other) = (trial.listening_member(1), trial.listening_member(2));
    trial.plane.on_command(Command::Rotate { worker: leaving.worker, in_rotation: false });
    leaving.say(encode::act("exitedAfterDisconnect", 2));
    trial.run_after(Duration::ZERO);
    trial.plane.on_command(Command::Rotate { worker: leaving.worker, in_rotation: true });
    let clients = trial.connect(4);
    assert_eq!((leaving.accept_all(), other.accept_all()), (0, 4));
    drop(clients);
}

fn is_closed(facts: &[Fact]) -> bool {
    facts.iter().any(|fact| matches!(fact, Fact::Closed { .. }))
}

#[test]
fn the_end_of_a_channel_is_seen_when_its_reader_goes_on() {
    let mut trial = Trial::new();
    let mut talker = trial.member(1);
    // More than its credit, in one read.
    talker.say(b"\"x\"\n".repeat(5000));
    trial.run_after(Duration::ZERO);
    talker.say(b"\"last words\"\n".as_slice());
    drop(talker.channel);
    trial.run_after(Duration::ZERO);
    let unconsumed = trial.facts();
    assert!(unconsumed.len() >= 5000 && !is_closed(&unconsumed));
    drop(unconsumed);
    trial.run_after(Duration::ZERO);
    assert!(is_closed(&trial.facts()));
}

#[test]
fn a_report_quotes_little() {
    let mut trial = Trial::new();
    let mut member = trial.member(1);
    let long =
        format!("{{\"cmd\":\"NODE_CLUSTER\",\"act\":\"online\",\"seq\":\"{}\"}}\n", "A".repeat(20_000));
    member.say(long);
    trial.run_after(Duration::ZERO);
    let facts = trial.facts();
    let Some(Fact::Garbage { error, .. }) = facts.first() else { panic!("{facts:?}") };
    assert!(error.chars().count() <= 201, "{} characters", error.len());
}

impl Trial {
    /// Hands a worker the connection of a probe; what it says to that is awaited.
    fn probe(&mut self, worker: WorkerId) -> (TcpStream, oneshot::Receiver<Result<(), NotTaken>>) {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        let ours = TcpStream::connect(listener.local_addr().expect("bound")).expect("it listens");
        let (theirs, _address) = listener.accept().expect("it is there");
        let (taken, answer) = oneshot::channel();
        self.plane.on_command(Command::Probe { worker, connection: theirs.into(), taken });
        self.run_after(Duration::from_millis(10));
        (ours, answer)
    }
}

#[test]
fn a_probe_reaches_its_worker_and_no_other() {
    let mut trial = Trial::new();
    let mut other = trial.listening_member(1);
    let mut asked = trial.listening_member(2);
    trial.plane.on_command(Command::Rotate { worker: asked.worker, in_rotation: false });

    let (_ours, mut answer) = trial.probe(asked.worker);
    answer.try_recv().expect_err("it is not answered yet");
    assert_eq!(trial.probe(asked.worker).1.try_recv(), Ok(Err(NotTaken::Busy)), "one at a time");
    assert_eq!((other.accept_all(), asked.accept_all()), (0, 1));
    trial.run_after(Duration::from_millis(10));
    assert_eq!(answer.try_recv(), Ok(Ok(())));

    let (_ours, mut answer) = trial.probe(asked.worker);
    asked.read();
    let (seq, _connection) = asked.connections.pop().expect("the second one");
    asked.say(encode::accepted(seq, false, 1));
    trial.run_after(Duration::from_millis(10));
    assert_eq!(answer.try_recv(), Ok(Err(NotTaken::Refused)));

    let (_ours, mut answer) = trial.probe(asked.worker);
    trial.plane.on_command(Command::Forget { worker: asked.worker });
    trial.run_after(Duration::from_millis(10));
    assert!(answer.try_recv().is_err(), "its worker is gone");
    assert_eq!(other.accept_all(), 0, "what it leaves behind is nobody else's");
    assert_eq!(trial.plane.switchboard.tally(), Tally::default(), "probes do not count");

    let silent = trial.member(3);
    assert_eq!(trial.probe(silent.worker).1.try_recv(), Ok(Err(NotTaken::NoServer)));
    assert_eq!(trial.probe(asked.worker).1.try_recv(), Ok(Err(NotTaken::Gone)));
}

fn held_too_long(facts: &[Fact]) -> u64 {
    let count = |fact: &Fact| match fact {
        Fact::HeldTooLong { count, .. } => Some(*count),
        _ => None,
    };
    facts.iter().filter_map(count).sum()
}

#[test]
fn connections_are_closed_when_nobody_has_been_ready_for_too_long() {
    use std::io::{Read, Write};

    let mut trial = Trial::new();
    let mut first = trial.listening_member(1);
    let mut given = trial.connect(1);
    first.read();
    assert_eq!(first.connections.len(), 1, "it dies without having answered");
    trial.plane.on_command(Command::Rotate { worker: first.worker, in_rotation: false });
    trial.plane.on_command(Command::Forget { worker: first.worker });
    drop(first);
    let mut queued = trial.connect(3);
    queued[0].write_all(b"GET / HTTP/1.1\r\n\r\n").expect("it is open");
    trial.run_after(HOLD.saturating_sub(Duration::from_millis(10)));
    assert_eq!(held_too_long(&trial.facts()), 0, "not yet");
    trial.run_after(Duration::from_millis(20));
    assert_eq!(held_too_long(&trial.facts()), 4);
    for client in queued.iter_mut().chain(&mut given) {
        client.set_read_timeout(Some(Duration::from_secs(10))).expect("a time");
        assert_eq!(client.read(&mut [0; 8]).expect("not reset"), 0, "closed");
    }

    let _later = trial.connect(2);
    trial.run_after(Duration::from_millis(500));
    assert_eq!(held_too_long(&trial.facts()), 0, "once a second");
    trial.run_after(Duration::from_millis(600));
    assert_eq!(held_too_long(&trial.facts()), 2);

    let last = trial.connect(1);
    let mut successor = trial.listening_member(2);
    trial.run_after(HOLD + Duration::from_secs(2));
    assert_eq!((held_too_long(&trial.facts()), successor.accept_all()), (0, 1));
    drop(last);
}

#[test]
fn a_socket_that_no_worker_has_asked_for_is_held_as_long() {
    let mut trial = Trial::new();
    let app = AppId(2);
    let socket = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = socket.local_addr().expect("it is bound");
    let blocking = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let blocking_address = blocking.local_addr().expect("it is bound");
    socket.set_nonblocking(true).expect("a socket");
    let (inherited, policy) = (vec![socket.into(), blocking.into()], Policy::default());
    trial.plane.on_command(Command::OpenApp {
        app,
        policies: policy.into(),
        inherited,
        hold: HOLD,
        limits: OpenLimits::default(),
    });
    let _clients =
        [address, address, blocking_address].map(|address| TcpStream::connect(address).expect("open"));
    trial.run_after(HOLD);
    let facts = trial.facts();
    let [Fact::HeldTooLong { app: AppId(2), address: told, count: 2 }] = facts.as_slice() else {
        panic!("{facts:?}")
    };
    assert_eq!(*told, address.to_string(), "one that may block is not touched");
}

#[test]
fn what_workers_accept_themselves_is_theirs_while_one_of_them_listens() {
    let mut trial = Trial::new();
    let policy = Policy::Shared;
    trial.plane.on_command(Command::OpenApp {
        app: APP,
        policies: policy.into(),
        inherited: Vec::new(),
        hold: HOLD,
        limits: OpenLimits::default(),
    });
    let member = trial.listening_member(1);
    trial.plane.on_command(Command::Rotate { worker: member.worker, in_rotation: false });
    let _clients = trial.connect(2);
    trial.run_after(HOLD);
    assert_eq!(held_too_long(&trial.facts()), 0, "it may accept them yet");
    trial.plane.on_command(Command::Forget { worker: member.worker });
    trial.run_after(Duration::from_secs(1));
    assert_eq!(held_too_long(&trial.facts()), 2);
}
