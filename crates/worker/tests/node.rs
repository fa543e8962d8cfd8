//! The same worker binary under real Node primaries: every version, both scheduling policies.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpStream, UdpSocket};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::thread;

use serde_json::{Value, json};
use worksong_testkit::process::Process;
use worksong_testkit::{NODE_VERSIONS, binary, eventually, node, patience};

const POLICIES: [&str; 2] = ["rr", "none"];

#[test]
fn requests_are_answered_under_every_node_and_policy() {
    each(2, |primary| {
        let workers = primary.served_by(200);
        if primary.policy == "rr" {
            // Node gives the next connection to whoever answered first, so it is nearly even only.
            assert!(workers.iter().all(|served| *served > 50), "{workers:?}");
        } else {
            assert_eq!(workers.iter().sum::<usize>(), 200);
        }
    });
}

#[test]
fn a_request_in_progress_outlives_the_disconnect() {
    each(1, |primary| {
        let mut slow = primary.connect();
        slow.write_all(b"GET /slow HTTP/1.1\r\n\r\n").expect("a worker reads");
        let mut head = [0; 4];
        slow.read_exact(&mut head).expect("the worker has begun to answer");
        primary.tell(&json!({"to": 1, "disconnect": true}));
        // Not a sign of the end: the worker only says that it takes no more.
        slow.write_all(b"\n").expect("the worker still reads");
        let mut rest = String::new();
        slow.read_to_string(&mut rest).expect("the worker finishes");
        assert!(rest.ends_with("slow worker 1"), "{rest}");
        let exit = primary.wait("exit", 1);
        assert_eq!((&exit["code"], &exit["voluntary"]), (&json!(0), &json!(true)), "{exit}");
        primary.wait("disconnect", 1);
    });
}

#[test]
fn a_worker_that_leaves_exits_voluntarily() {
    each(2, |primary| {
        primary.tell(&json!({"to": 1, "message": "leave"}));
        let exit = primary.wait("exit", 1);
        assert_eq!((&exit["code"], &exit["voluntary"]), (&json!(0), &json!(true)), "{exit}");
        assert_eq!(primary.served_by(10), [0, 10], "the other worker serves on");
    });
}

#[test]
fn a_panic_makes_only_its_worker_leave() {
    each(2, |primary| {
        let mut slow = primary.connect_to(1);
        primary.tell(&json!({"to": 1, "message": "panic"}));
        // Its other connection is finished before it goes.
        eventually("worker 1 out of rotation", || (primary.served_by(4) == [0, 4]).then_some(()));
        slow.write_all(b"\n").expect("the worker still reads");
        let mut rest = String::new();
        slow.read_to_string(&mut rest).expect("the worker finishes");
        assert!(rest.ends_with("worker 1"), "{rest}");
        let exit = primary.wait("exit", 1);
        assert_eq!((&exit["code"], &exit["voluntary"]), (&json!(0), &json!(true)), "{exit}");
    });
}

#[test]
fn messages_go_both_ways_and_the_channel_stays_ours() {
    each(1, |primary| {
        for body in
            [json!({"a": [1, null]}), json!("text\nwith a newline"), json!(7), json!("x".repeat(200_000))]
        {
            primary.tell(&json!({"to": 1, "message": body}));
            let heard = primary.wait("message", 1);
            assert_eq!(heard["body"], format!("1 heard {body}"));
        }
        primary.tell(&json!({"to": 1, "message": "environment"}));
        let heard = primary.wait("message", 1);
        let environment = heard["body"].as_str().expect("a text");
        assert!(environment.contains("PATH="), "{environment}");
        for name in ["NODE_CHANNEL_FD", "NODE_UNIQUE_ID", "NODE_CHANNEL_SERIALIZATION_MODE"] {
            assert!(!environment.contains(name), "a child of the worker got {name}");
        }
    });
}

#[test]
fn datagrams_are_answered() {
    each(2, |primary| {
        let socket = UdpSocket::bind("127.0.0.1:0").expect("a port");
        socket.set_read_timeout(Some(patience())).expect("a timeout");
        socket.send_to(b"hello", ("127.0.0.1", primary.udp_port)).expect("sent");
        let mut buffer = [0; 16];
        let (length, _peer) = socket.recv_from(&mut buffer).expect("an echo");
        assert_eq!(&buffer[..length], b"hello");
    });
}

#[test]
fn workers_end_with_their_killed_primary() {
    each(2, |primary| {
        let workers: Vec<Process> =
            primary.pids.iter().map(|pid| Process::find(*pid).expect("a running worker")).collect();
        let mut open = primary.connect();
        primary.child.kill().expect("the primary is ours");
        primary.child.wait().expect("the primary is ours");
        eventually("the end of all workers", || {
            workers.iter().all(|worker| !worker.is_alive()).then_some(())
        });
        // Ended or reset, but not open.
        let _end_or_reset = open.read(&mut [0]);
    });
}

/// Runs a test under every Node version and policy.
#[expect(clippy::print_stdout, reason = "shown when the test fails")]
fn each(count: usize, test: impl Fn(&mut Primary)) {
    for version in NODE_VERSIONS {
        for policy in POLICIES {
            println!("node {version}, policy {policy}");
            test(&mut Primary::start(version, policy, count));
        }
    }
}

/// A Node process with `count` workers that all listen.
struct Primary {
    policy: &'static str,
    child: Child,
    commands: Option<ChildStdin>,
    events: Receiver<Value>,
    seen: Vec<Value>,
    pids: Vec<u32>,
    port: u16,
    udp_port: u16,
}

impl Primary {
    fn start(version: &str, policy: &'static str, count: usize) -> Self {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/node/primary.js");
        let mut child = Command::new(node(version))
            .arg(script)
            .args([policy, &count.to_string()])
            .arg(binary("examples/under_node"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("node starts");
        let events = read_events(child.stdout.take().expect("a pipe"));
        let commands = child.stdin.take();
        let mut primary = Self {
            policy,
            child,
            commands,
            events,
            seen: Vec::new(),
            pids: Vec::new(),
            port: 0,
            udp_port: 0,
        };
        for id in 1..=count {
            let online = primary.wait("online", id);
            primary.pids.push(online["pid"].as_u64().and_then(|pid| u32::try_from(pid).ok()).expect("a pid"));
            for _ in 0..2 {
                let listening = primary.wait("listening", id);
                let port =
                    listening["port"].as_u64().and_then(|port| u16::try_from(port).ok()).expect("a port");
                match &listening["addressType"] {
                    Value::String(kind) if kind == "udp4" => primary.udp_port = port,
                    kind => {
                        assert_eq!(kind, 4);
                        primary.port = port;
                    }
                }
            }
        }
        primary
    }

    fn tell(&mut self, command: &Value) {
        let commands = self.commands.as_mut().expect("a running primary");
        writeln!(commands, "{command}").expect("the primary reads");
    }

    /// Takes the next event with this name about this worker.
    fn wait(&mut self, name: &str, id: usize) -> Value {
        let fits = |event: &Value| event["event"] == name && event["id"] == id;
        if let Some(at) = self.seen.iter().position(fits) {
            return self.seen.remove(at);
        }
        loop {
            let event = self.events.recv_timeout(patience());
            let event =
                event.unwrap_or_else(|error| panic!("no {name} of worker {id}: {error}; {:?}", self.seen));
            if fits(&event) {
                return event;
            }
            self.seen.push(event);
        }
    }

    fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(("127.0.0.1", self.port)).expect("somebody listens");
        stream.set_read_timeout(Some(patience())).expect("a timeout");
        stream
    }

    /// Opens a connection with a half answered request on this worker.
    fn connect_to(&self, id: usize) -> TcpStream {
        eventually("a connection to one worker", || {
            let mut stream = self.connect();
            stream.write_all(b"GET /slow HTTP/1.1\r\n\r\n").expect("a worker reads");
            stream.read_exact(&mut [0]).expect("the worker has begun to answer");
            // Who it is, a second connection at the same time would not tell: so ask the kernel.
            (self.owner(&stream) == Some(self.pids[id - 1])).then_some(stream)
        })
    }

    /// Returns the worker process that has the other end of a connection.
    fn owner(&self, stream: &TcpStream) -> Option<u32> {
        let ours = stream.local_addr().expect("connected").port();
        let theirs = stream.peer_addr().expect("connected").port();
        let table = std::fs::read_to_string("/proc/net/tcp").expect("a table of connections");
        let inode = table.lines().skip(1).find_map(|line| {
            let fields: Vec<&str> = line.split_whitespace().collect();
            let port = |field: &str| u16::from_str_radix(field.rsplit(':').next()?, 16).ok();
            (port(fields[1])? == theirs && port(fields[2])? == ours).then(|| fields[9].to_owned())
        })?;
        let socket = format!("socket:[{inode}]");
        self.pids.iter().copied().find(|pid| {
            let descriptors = std::fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
            descriptors
                .filter_map(|entry| std::fs::read_link(entry.path()).ok())
                .any(|target| target.as_os_str() == socket.as_str())
        })
    }

    /// Sends requests one by one and returns how many each worker answered.
    fn served_by(&self, requests: usize) -> Vec<usize> {
        let mut served = vec![0; self.pids.len()];
        for _ in 0..requests {
            let mut stream = self.connect();
            stream.write_all(b"GET / HTTP/1.1\r\n\r\n").expect("a worker reads");
            let mut response = String::new();
            stream.read_to_string(&mut response).expect("a whole answer");
            let id: usize = response
                .rsplit_once("worker ")
                .and_then(|(_, id)| id.parse().ok())
                .unwrap_or_else(|| panic!("no answer of a worker: {response:?}"));
            served[id - 1] += 1;
        }
        served
    }
}

impl Drop for Primary {
    fn drop(&mut self) {
        let workers: Vec<Process> = self.pids.iter().filter_map(|pid| Process::find(*pid)).collect();
        // Fails when it has ended; its workers end with it.
        let _ended = self.child.kill();
        let _status = self.child.wait();
        if !thread::panicking() {
            eventually("the end of all workers", || {
                workers.iter().all(|worker| !worker.is_alive()).then_some(())
            });
        }
    }
}

fn read_events(output: ChildStdout) -> Receiver<Value> {
    let (sender, receiver) = mpsc::channel();
    thread::spawn(move || {
        for line in BufReader::new(output).lines().map_while(Result::ok) {
            let event = serde_json::from_str(&line).expect("a line of JSON");
            if sender.send(event).is_err() {
                break;
            }
        }
    });
    receiver
}
