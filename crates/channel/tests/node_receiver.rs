//! Real Node at the other end: each connection arrives with its own message, whatever else is on the channel.
//!
//! Runs with every prepared Node version, or with the `node` in `PATH`, or says that it was skipped.

#![expect(clippy::print_stderr, reason = "says which Node was used, or that there was none")]

use std::env;
use std::io::{IoSlice, Read};
use std::mem::MaybeUninit;
use std::net::{TcpListener, TcpStream};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
use rustix::process::{Pid, Signal, WaitOptions, kill_process, waitpid};
use serde_json::value::RawValue;
use worksong_channel::channel::{NotSent, READ_BUFFER};
use worksong_channel::message::{Cluster, Reply, ServerReply, SockName, encode};
use worksong_channel::{Channel, Message, Progress, pair};

#[expect(dead_code, reason = "other tests use more of the model")]
#[path = "../../../fuzz/bodies/pairing.rs"]
mod model;

const PATIENCE: Duration = Duration::from_secs(30);

/// Runs a test with each Node version that is there.
fn with_each_node(test: fn(&Path)) {
    let prepared = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../apps/runtimes/bin");
    let mut nodes: Vec<PathBuf> =
        ["node-18", "node-20", "node-22", "node-24"].map(|name| prepared.join(name)).to_vec();
    nodes.retain(|node| node.exists());
    if nodes.is_empty() {
        let path = env::var_os("PATH").unwrap_or_default();
        nodes.extend(env::split_paths(&path).map(|folder| folder.join("node")).find(|node| node.exists()));
    }
    if nodes.is_empty() {
        eprintln!("skipped: no Node here; `cargo xtask test` prepares it");
    }
    for node in nodes {
        eprintln!("with {}", node.display());
        test(&node);
    }
}

/// A Node process at the other end of a channel, killed when dropped.
struct Worker {
    child: Child,
    channel: Channel,
    scratch: Vec<u8>,
    deadline: Instant,
    /// What came and was not looked at yet.
    messages: Vec<Message>,
    /// Answers to handle messages, and how many of them were refusals.
    answers: usize,
    nacks: usize,
    /// True when the test writes connections by itself, unseen by the outbox.
    around_the_fence: bool,
}

impl Worker {
    fn start(node: &Path, program: &str) -> Self {
        let (ours, theirs) = pair().expect("a socketpair");
        let program = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/node").join(program);
        // The channel may have any number; as standard input it needs no code between fork and exec.
        let child = Command::new(node)
            .arg(program)
            .env("NODE_CHANNEL_FD", "0")
            .env("NODE_UNIQUE_ID", "1")
            .env_remove("NODE_OPTIONS")
            .stdin(Stdio::from(theirs))
            .spawn()
            .expect("Node starts");
        Self {
            child,
            channel: Channel::new(ours),
            scratch: vec![0; READ_BUFFER],
            deadline: Instant::now() + PATIENCE,
            messages: Vec::new(),
            answers: 0,
            nacks: 0,
            around_the_fence: false,
        }
    }

    fn pid(&self) -> Pid {
        Pid::from_child(&self.child)
    }

    /// Stops the process, and returns when it stands still.
    fn stop(&self) {
        kill_process(self.pid(), Signal::STOP).expect("it runs");
        let (_pid, status) =
            waitpid(Some(self.pid()), WaitOptions::UNTRACED).expect("a child").expect("a status");
        assert!(status.stopped(), "{status:?}");
    }

    fn go_on(&self) {
        kill_process(self.pid(), Signal::CONT).expect("it is there");
    }

    /// Waits for the channel once, reads and writes what is possible.
    fn turn(&mut self) {
        let mut interest = PollFlags::IN;
        interest.set(PollFlags::OUT, self.channel.wants_write());
        let left = self.deadline.checked_duration_since(Instant::now()).expect("Node answers in time");
        let left = left.try_into().expect("a short time");
        poll(&mut [PollFd::new(&self.channel, interest)], Some(&left)).expect("poll works");
        let mut out = Vec::new();
        let progress = self.channel.receive(&mut self.scratch, &mut out).expect("a working channel");
        assert_ne!(progress, Progress::Closed, "Node left");
        for item in out {
            let message = item.expect("Node's messages can be decoded").message;
            match message {
                Message::HandleAck | Message::HandleNack => {
                    self.answers += 1;
                    self.nacks += usize::from(matches!(message, Message::HandleNack));
                    let owed = self.channel.answered();
                    assert!(owed || self.around_the_fence, "an answer to each, in order");
                }
                message => self.messages.push(message),
            }
        }
        self.channel.flush().expect("a working channel");
    }

    /// Waits for a message that `wanted` makes something of.
    fn wait_for<T>(&mut self, wanted: impl Fn(&Message) -> Option<T>) -> T {
        loop {
            if let Some((at, found)) =
                self.messages.iter().enumerate().find_map(|(at, message)| Some((at, wanted(message)?)))
            {
                self.messages.remove(at);
                return found;
            }
            self.turn();
        }
    }

    fn wait_for_text(&mut self, text: &str) {
        self.wait_for(|message| matches!(message, Message::User(value) if value.get() == text).then_some(()));
    }

    fn hand_over_patiently(&mut self, message: &[u8], connection: &OwnedFd) {
        loop {
            match self.channel.hand_over(message, connection.as_fd()) {
                Ok(()) => return,
                Err(NotSent::Full | NotSent::Fenced | NotSent::Exhausted) => self.turn(),
                Err(NotSent::Broken(error)) => panic!("{error}"),
            }
        }
    }

    fn wait_until_answered(&mut self) {
        while !self.channel.outbox().is_empty() || self.channel.outbox().unanswered() > 0 {
            self.turn();
        }
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Returns connected pairs: the client, and the accepted socket, non-blocking as Node wants it.
fn connections(count: usize) -> Vec<(TcpStream, OwnedFd)> {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("an address");
    let connect = |_| {
        let client = TcpStream::connect(address).expect("connected");
        client.set_read_timeout(Some(PATIENCE)).expect("a time");
        let (accepted, _peer) = listener.accept().expect("accepted");
        accepted.set_nonblocking(true).expect("non-blocking");
        (client, accepted.into())
    };
    (0..count).map(connect).collect()
}

fn text_of(client: &mut TcpStream) -> String {
    let mut text = String::new();
    client.read_to_string(&mut text).expect("an answer");
    text
}

fn numbered(id: usize) -> Vec<u8> {
    let value = RawValue::from_string(format!("{{\"id\":{id}}}")).expect("JSON");
    encode::user_with_socket(&value)
}

/// A user message of `length` bytes, newline included.
fn padding(length: usize) -> Vec<u8> {
    let mut message = vec![b'x'; length];
    message[0] = b'"';
    message[length - 2] = b'"';
    message[length - 1] = b'\n';
    message
}

/// Closes our copies, then every client must read the number of its own message.
fn assert_all_right(worker: &Worker, connections: Vec<(TcpStream, OwnedFd)>) {
    for (id, (mut client, accepted)) in (1..).zip(connections) {
        drop(accepted);
        assert_eq!(text_of(&mut client), id.to_string());
    }
    assert_eq!(worker.nacks, 0);
}

#[test]
fn a_burst_of_connections() {
    with_each_node(|node| {
        let mut worker = Worker::start(node, "sockets.js");
        worker.wait_for_text("\"ready\"");
        let connections = connections(100);
        for (id, (_client, accepted)) in (1..).zip(&connections) {
            worker.hand_over_patiently(&numbered(id), accepted);
        }
        worker.wait_until_answered();
        assert_all_right(&worker, connections);
    });
}

#[test]
fn a_burst_for_a_stopped_worker() {
    with_each_node(|node| {
        let mut worker = Worker::start(node, "sockets.js");
        worker.wait_for_text("\"ready\"");
        worker.stop();
        let connections = connections(100);
        for (id, (_client, accepted)) in (1..).zip(&connections) {
            if id % 3 == 0 {
                worker.channel.send(padding(200), None).expect("sent");
            }
            worker.channel.hand_over(&numbered(id), accepted.as_fd()).expect("room for all of them");
        }
        worker.go_on();
        worker.wait_until_answered();
        assert_all_right(&worker, connections);
    });
}

#[test]
fn connections_among_large_messages() {
    with_each_node(|node| {
        let mut worker = Worker::start(node, "sockets.js");
        worker.wait_for_text("\"ready\"");
        worker.stop();
        let connections = connections(40);
        for (id, (_client, accepted)) in (1..).zip(&connections) {
            if id % 2 == 0 {
                worker.channel.send(padding(100_000), None).expect("queued");
            }
            let copy = accepted.try_clone().expect("a copy");
            worker.channel.send(numbered(id), Some(copy)).expect("queued");
        }
        worker.go_on();
        worker.wait_until_answered();
        assert_all_right(&worker, connections);
    });
}

/// Both ways of writing the same: with the fence all is right; without it Node does exactly what our model says.
#[test]
fn connections_at_the_border_of_a_read() {
    with_each_node(|node| {
        let length = numbered(1).len();
        for over in [0, 1, 40] {
            let plain = READ_BUFFER - length + over;

            let mut worker = Worker::start(node, "sockets.js");
            worker.wait_for_text("\"ready\"");
            worker.stop();
            let fenced = connections(4);
            worker.channel.send(padding(plain), None).expect("sent");
            let sent = fenced.iter().zip(1..).take_while(|((_client, accepted), id)| {
                worker.channel.hand_over(&numbered(*id), accepted.as_fd()).is_ok()
            });
            let sent = sent.count();
            assert_eq!(sent, if over == 0 { 4 } else { 1 });
            worker.go_on();
            for (id, (_client, accepted)) in (1..).zip(&fenced).skip(sent) {
                worker.hand_over_patiently(&numbered(id), accepted);
            }
            worker.wait_until_answered();
            assert_all_right(&worker, fenced);

            let expected = unfenced_by_the_model(plain, length);
            assert_eq!(expected.contains(&None), over > 0, "the model goes wrong behind the border only");
            assert_eq!(unfenced_by_node(node, plain, &expected), expected, "{plain} bytes before");
        }
    });
}

/// Which message each of four connections gets, when nobody holds them back.
fn unfenced_by_the_model(plain: usize, length: usize) -> Vec<Option<u32>> {
    let mut simulation = model::Simulation::new(model::Fence::Off);
    simulation.step(&model::Step::Queue { length: plain, handle: false });
    simulation.step(&model::Step::Flush { room: usize::MAX });
    for _ in 0..4 {
        simulation.step(&model::Step::HandOver { length, room: length });
    }
    let deliveries = simulation.finish();
    let message_of = |connection| deliveries.iter().find(|one| one.got == Some(connection));
    (1..=4).map(|connection| message_of(connection).map(|one| one.wanted)).collect()
}

fn unfenced_by_node(node: &Path, plain: usize, expected: &[Option<u32>]) -> Vec<Option<u32>> {
    let mut worker = Worker::start(node, "sockets.js");
    worker.wait_for_text("\"ready\"");
    worker.stop();
    worker.around_the_fence = true;
    let connections = connections(4);
    worker.channel.send(padding(plain), None).expect("sent");
    for (id, (_client, accepted)) in (1..).zip(&connections) {
        let handles = [accepted.as_fd()];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        assert!(control.push(SendAncillaryMessage::ScmRights(&handles)));
        let bytes = numbered(id);
        sendmsg(&worker.channel, &[IoSlice::new(&bytes)], &mut control, SendFlags::empty()).expect("sent");
    }
    worker.go_on();
    while worker.answers < connections.len() {
        worker.turn();
    }
    connections
        .into_iter()
        .zip(expected)
        .map(|((mut client, accepted), expected)| {
            drop(accepted);
            // Those that shall get an answer are waited for; by then the others would have theirs too.
            let patience = if expected.is_some() { PATIENCE } else { Duration::from_millis(200) };
            client.set_read_timeout(Some(patience)).expect("a time");
            let mut text = String::new();
            client.read_to_string(&mut text).ok().and_then(|_length| text.parse().ok())
        })
        .collect()
}

#[test]
fn two_servers_of_a_cluster_worker() {
    with_each_node(|node| {
        let mut worker = Worker::start(node, "servers.js");
        worker.wait_for(|message| matches!(message, Message::Cluster(Cluster::Online { .. })).then_some(()));
        for _ in 0..2 {
            let (ack, port) = worker.wait_for(|message| match message {
                Message::Cluster(Cluster::QueryServer { seq, query }) => Some((*seq, query.port?)),
                _ => None,
            });
            let port = u16::try_from(port).expect("a port");
            let sockname = SockName { address: "::".to_owned(), family: "IPv6".to_owned(), port };
            let reply =
                ServerReply { key: port.to_string(), sockname: Some(sockname), ..ServerReply::default() };
            worker.channel.send(encode::server_reply(&reply, ack, 0), None).expect("sent");
        }
        for _ in 0..2 {
            worker.wait_for(|message| {
                matches!(message, Message::Cluster(Cluster::Listening { .. })).then_some(())
            });
        }

        worker.stop();
        let connections = connections(100);
        let keys = ["1", "2"].map(encode::EncodedKey::new);
        for (number, (_client, accepted)) in connections.iter().enumerate() {
            let mut message = Vec::new();
            encode::new_connection(&mut message, &keys[number % 2], number as u64);
            worker.channel.hand_over(&message, accepted.as_fd()).expect("room for all of them");
        }
        worker.go_on();
        for number in 0..100 {
            let accepted = worker.wait_for(|message| match message {
                Message::Cluster(Cluster::Reply(Reply { ack, accepted, .. })) if *ack == number => *accepted,
                _ => None,
            });
            assert!(accepted, "connection {number}");
        }
        for (number, (mut client, accepted)) in connections.into_iter().enumerate() {
            drop(accepted);
            assert_eq!(text_of(&mut client), ["1", "2"][number % 2]);
        }
        assert_eq!((worker.nacks, worker.channel.outbox().unanswered()), (0, 0));

        worker.channel.send(encode::disconnect(100), None).expect("sent");
        for _ in 0..2 {
            worker
                .wait_for(|message| matches!(message, Message::Cluster(Cluster::Close { .. })).then_some(()));
        }
        assert!(worker.child.wait().expect("a status").success(), "it leaves by itself");
    });
}
