//! `--policy sticky:…`: connections that belong together find the same slot.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking, also in its helpers")]

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddrV4, TcpStream};
use std::path::PathBuf;
use std::process::Command;

use rustix::net::{AddressFamily, SocketType};
use worksong_testkit::http::{Connection, Response};
use worksong_testkit::{Folder, NODE_VERSIONS, Program, Signal, Worksong, binary, fixture, node, patience};

const USERS: u32 = 24;

/// Who answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct By {
    slot: u32,
    pid: u32,
}

/// Reads who answered.
type ReadBy = fn(&Response) -> By;

fn start_node(version: &str, policy: &str, program: PathBuf) -> Worksong {
    let worksong = Worksong::run(["-i", "4", "--policy", policy]).node(version).program(program).start();
    worksong.wait_ready(4);
    worksong
}

fn start_rust(policy: &str) -> Worksong {
    let options = ["-i", "4", "--dialect", "native", "--policy", policy];
    let worksong = Worksong::run(options).program(binary("examples/hello_serve"));
    let worksong = worksong.args(["127.0.0.1:0"]).start();
    worksong.wait_ready(4);
    worksong
}

/// Writes a program that answers its slot, and the first bytes that it read.
fn raw(folder: &Folder) -> PathBuf {
    folder.write(
        "raw.js",
        "const slot = Number(process.env.WORKSONG_SLOT);\n\
         require('node:net').createServer((socket) => {\n\
           socket.on('error', () => {});\n\
           socket.once('data', (first) => socket.end(JSON.stringify({ slot, first: first.toString('latin1') })));\n\
         }).listen(0);\n",
    )
}

/// Reads who answered from what the Node fixture says.
fn node_by(answer: &Response) -> By {
    let slot = answer.json()["slot"].as_str().and_then(|slot| slot.parse().ok()).expect("a slot");
    By { slot, pid: answer.json_pid() }
}

/// Reads `worker 1 of slot Some(0), process 9698`.
fn rust_by(answer: &Response) -> By {
    let number = |text: &str| text.parse().expect("a number");
    let (before, pid) = answer.text().trim().rsplit_once(' ').expect("a process");
    let slot = before.split(['(', ')']).nth(1).expect("a slot");
    By { slot: number(slot), pid: number(pid) }
}

/// Connects from an address of this machine.
fn connect_from(source: [u8; 4], port: u16) -> TcpStream {
    let socket = rustix::net::socket(AddressFamily::INET, SocketType::STREAM, None).unwrap();
    rustix::net::bind(&socket, &SocketAddrV4::new(Ipv4Addr::from(source), 0)).unwrap();
    rustix::net::connect(&socket, &SocketAddrV4::new(Ipv4Addr::LOCALHOST, port)).unwrap();
    let stream = TcpStream::from(socket);
    stream.set_read_timeout(Some(patience())).unwrap();
    stream
}

/// Says this to the program that [`raw`] writes; returns its slot and what it read.
fn ask(mut stream: TcpStream, text: &[u8]) -> (u64, String) {
    stream.write_all(text).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let answer: serde_json::Value = serde_json::from_str(&answer).unwrap();
    (answer["slot"].as_u64().unwrap(), answer["first"].as_str().unwrap().to_owned())
}

/// Asks for each user over a connection of its own, three times, and returns their slots.
fn slots<U: Ord + Copy>(users: impl Iterator<Item = U>, slot_of: impl Fn(U) -> u64) -> BTreeMap<U, u64> {
    let slots: BTreeMap<U, u64> = users.map(|user| (user, slot_of(user))).collect();
    for _ in 0..2 {
        for (user, slot) in &slots {
            assert_eq!(slot_of(*user), *slot, "one user, one slot");
        }
    }
    slots
}

fn are_spread(slots: &BTreeMap<impl Ord, u64>) -> bool {
    slots.values().copied().collect::<BTreeSet<u64>>() == BTreeSet::from([0, 1, 2, 3])
}

fn cookie_slots(port: u16, by: ReadBy) -> BTreeMap<u32, u64> {
    slots(0..USERS, |user| {
        let cookie = format!("theme=dark; session=user-{user}");
        let mut connection = Connection::open(port).unwrap();
        by(&connection.request("GET", "/", &[("cookie", &cookie)], b"").unwrap()).slot.into()
    })
}

#[test]
fn a_cookie_finds_one_slot_under_all_runtimes() {
    let mut all = Vec::new();
    for version in NODE_VERSIONS {
        let worksong = start_node(version, "sticky:cookie:session", fixture("node/http.js"));
        all.push(cookie_slots(worksong.listening_port(), node_by));
    }
    let worksong = start_rust("sticky:cookie:session");
    all.push(cookie_slots(worksong.listening_port(), rust_by));
    assert!(are_spread(&all[0]), "{:?}", all[0]);
    assert!(all.iter().all(|slots| *slots == all[0]), "a key has the same slot in every app: {all:?}");
}

#[test]
fn headers_queries_and_paths_find_one_slot() {
    let request = |policy: &str, user: u32| match policy {
        "sticky:header:x-user" => ("/".to_owned(), Some(format!("user-{user}"))),
        "sticky:query:sid" => (format!("/socket.io/?EIO=4&sid=user-{user}"), None),
        _ => (format!("/user-{user}/page?x=1"), None),
    };
    for policy in ["sticky:header:x-user", "sticky:query:sid", "sticky:path"] {
        let worksong = start_node("22", policy, fixture("node/http.js"));
        let port = worksong.listening_port();
        let slots = slots(0..USERS, |user| {
            let (path, header) = request(policy, user);
            let headers: Vec<_> = header.iter().map(|user| ("X-User", user.as_str())).collect();
            let mut connection = Connection::open(port).unwrap();
            node_by(&connection.request("GET", &path, &headers, b"").unwrap()).slot.into()
        });
        assert!(are_spread(&slots), "{policy}: {slots:?}");
    }
}

#[test]
fn an_address_finds_one_slot() {
    let folder = Folder::new();
    let worksong = start_node("22", "sticky:ip", raw(&folder));
    let port = worksong.listening_port();
    let slots = slots(1..=USERS as u8, |host| ask(connect_from([127, 0, 7, host], port), b"hello").0);
    assert!(are_spread(&slots), "{slots:?}");
}

/// A PROXY header of version 2 for an IPv4 client.
fn proxy_v2(source: [u8; 4]) -> Vec<u8> {
    let signature = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c";
    [&signature[..], &source, &[192, 0, 2, 1], &4711_u16.to_be_bytes(), &80_u16.to_be_bytes()].concat()
}

#[test]
fn a_proxy_header_finds_one_slot_and_reaches_the_program() {
    let folder = Folder::new();
    let worksong = start_node("22", "sticky:proxy", raw(&folder));
    let port = worksong.listening_port();
    let slots = slots(1..=USERS as u8, |host| {
        let v1 = format!("PROXY TCP4 198.51.100.{host} 192.0.2.1 4711 80\r\nhello");
        let v2 = [proxy_v2([198, 51, 100, host]), b"hello".to_vec()].concat();
        let (slot, first) = ask(connect_from([127, 0, 0, 1], port), v1.as_bytes());
        assert_eq!(first, v1);
        let (same, first) = ask(connect_from([127, 0, 0, 2], port), &v2);
        assert!(first.chars().map(u32::from).eq(v2.into_iter().map(u32::from)), "{first:?}");
        assert_eq!(slot, same, "both versions name the same client");
        slot
    });
    assert!(are_spread(&slots), "{slots:?}");
}

#[test]
fn only_trusted_proxies_are_believed() {
    let folder = Folder::new();
    let worksong = start_node("22", "sticky:forwarded-for:127.0.0.0/24", raw(&folder));
    let port = worksong.listening_port();
    let request =
        |host: u8| format!("GET / HTTP/1.1\r\nX-Forwarded-For: 203.0.113.9, 198.51.100.{host}\r\n\r\n");
    let hosts = || 1..=USERS as u8;
    let trusted = slots(hosts(), |host| ask(connect_from([127, 0, 0, 9], port), request(host).as_bytes()).0);
    assert!(are_spread(&trusted), "{trusted:?}");
    let stranger = slots(hosts(), |host| ask(connect_from([127, 0, 1, 9], port), request(host).as_bytes()).0);
    assert_eq!(stranger.values().collect::<BTreeSet<_>>().len(), 1, "it has one address: {stranger:?}");
}

#[test]
fn a_server_name_finds_one_slot() {
    let folder = Folder::new();
    let client = folder.write(
        "client.js",
        "const tls = require('node:tls');\n\
         const [port, count] = process.argv.slice(2).map(Number);\n\
         const next = (number) => {\n\
           if (number === 3 * count) return;\n\
           const servername = `tenant-${number % count}.example`;\n\
           const socket = tls.connect({ host: '127.0.0.1', port, servername, rejectUnauthorized: false });\n\
           let text = '';\n\
           socket.on('data', (chunk) => (text += chunk));\n\
           socket.on('end', () => {\n\
             console.log(servername, JSON.parse(text.slice(text.indexOf('\\r\\n\\r\\n'))).slot);\n\
             next(number + 1);\n\
           });\n\
           socket.write('GET / HTTP/1.1\\r\\nHost: localhost\\r\\nConnection: close\\r\\n\\r\\n');\n\
         };\n\
         next(0);\n",
    );
    let worksong = start_node("22", "sticky:sni", fixture("node/https.js"));
    let port = worksong.listening_port().to_string();
    let client = Program::start(Command::new(node("22")).arg(client).args([&port, &USERS.to_string()]));
    assert_eq!(client.wait_exit().code(), Some(0));
    let mut slots: BTreeMap<String, BTreeSet<u64>> = BTreeMap::new();
    for line in client.lines() {
        let (name, slot) = line.text.rsplit_once(' ').unwrap();
        slots.entry(name.to_owned()).or_default().insert(slot.parse().unwrap());
    }
    assert_eq!(slots.len(), USERS as usize);
    assert!(slots.values().all(|slots| slots.len() == 1), "{slots:?}");
    assert_eq!(slots.values().flatten().collect::<BTreeSet<_>>().len(), 4, "{slots:?}");
}

/// Asks with each user's cookie over the connection that the user keeps.
fn ask_all(connections: &mut [Connection], by: ReadBy) -> Vec<By> {
    let ask = |(user, connection): (usize, &mut Connection)| {
        let cookie = format!("session=user-{user}");
        by(&connection.request("GET", "/", &[("cookie", &cookie)], b"").unwrap())
    };
    connections.iter_mut().enumerate().map(ask).collect()
}

#[test]
fn kept_connections_stay_with_their_slot_in_a_reload() {
    let folder = Folder::new();
    // Node closes what is idle for 5 s, which a loaded machine may take.
    let patient = folder.write(
        "patient.js",
        "const who = JSON.stringify({ pid: process.pid, slot: process.env.WORKSONG_SLOT });\n\
         const server = require('node:http').createServer((_, response) => response.end(who));\n\
         server.keepAliveTimeout = 600000;\n\
         server.listen(0);\n",
    );
    let starts: [(Worksong, ReadBy); 2] = [
        (start_node("22", "sticky:cookie:session", patient), node_by),
        (start_rust("sticky:cookie:session"), rust_by),
    ];
    for (worksong, by) in starts {
        let open = |_| Connection::open(worksong.listening_port()).unwrap();
        let mut connections: Vec<Connection> = (0..USERS).map(open).collect();
        let before = ask_all(&mut connections, by);
        for generation in 2..4 {
            worksong.signal(Signal::HUP);
            worksong.wait_event("reload_report", |event| event.generation() == generation);
        }
        let after = ask_all(&mut connections, by);
        let slots = |all: &[By]| all.iter().map(|by| by.slot).collect::<Vec<_>>();
        assert_eq!(slots(&before), slots(&after), "the same connections, and the same slots");
        let workers = worksong.worker_pids();
        assert!(after.iter().all(|by| workers.contains(&by.pid)), "by the new workers");
    }
}

#[test]
fn the_end_of_a_worker_moves_nobody_else_and_its_users_come_back() {
    let worksong = start_rust("sticky:cookie:session");
    let port = worksong.listening_port();
    let ask = |user: u32| {
        let cookie = format!("session=user-{user}");
        let headers = [("cookie", cookie.as_str()), ("connection", "close")];
        rust_by(&Connection::open(port).unwrap().request("GET", "/", &headers, b"").unwrap())
    };
    let before: Vec<By> = (0..USERS).map(ask).collect();
    let victim = before[0];
    worksong_testkit::process::kill(victim.pid, Signal::KILL);
    for user in 0..USERS {
        let now = ask(user);
        assert!(now.pid != victim.pid, "it is dead");
        assert!(
            before[user as usize].slot == victim.slot || now == before[user as usize],
            "user {user} moved"
        );
    }
    worksong.wait_event("ready", |event| event.slot() == victim.slot && event.pid() != victim.pid);
    let after: Vec<u32> = (0..USERS).map(|user| ask(user).slot).collect();
    assert_eq!(after, before.iter().map(|by| by.slot).collect::<Vec<_>>());
}

#[test]
fn a_large_upload_is_unharmed() {
    const LENGTH: usize = 100 * 1024 * 1024;
    let worksong = start_node("22", "sticky:cookie:session", fixture("node/net-echo.js"));
    let stream = TcpStream::connect(("127.0.0.1", worksong.listening_port())).unwrap();
    stream.set_read_timeout(Some(patience())).unwrap();
    let head = b"POST / HTTP/1.1\r\nCookie: session=a\r\nContent-Length: 104857600\r\n\r\n";
    let block: Vec<u8> = (0..65_537_u32).map(|byte| (byte ^ byte >> 8) as u8).collect();
    let sent = head.iter().chain(block.iter().cycle().take(LENGTH));
    let mut writer = stream.try_clone().unwrap();
    let text: Vec<u8> = sent.copied().collect();
    let expected = text.clone();
    let writing = std::thread::spawn(move || {
        writer.write_all(&text).unwrap();
        writer.shutdown(Shutdown::Write).unwrap();
    });
    let mut echo = Vec::with_capacity(expected.len());
    (&stream).read_to_end(&mut echo).unwrap();
    writing.join().unwrap();
    let greeting = 1 + echo.iter().position(|byte| *byte == b'\n').expect("a line that says who it is");
    assert!(echo[greeting..] == expected, "{} bytes came back of {}", echo.len() - greeting, expected.len());
}

#[test]
fn clients_that_begin_late_lose_nothing_and_delay_nobody() {
    let worksong = start_node("22", "sticky:cookie:session", fixture("node/http.js"));
    let port = worksong.listening_port();
    let mut silent: Vec<Connection> = (0..1000).map(|_| Connection::open(port).unwrap()).collect();
    let mut dripping: Vec<Connection> = (0..1000).map(|_| Connection::open(port).unwrap()).collect();
    let request = b"GET / HTTP/1.1\r\nhost: a\r\n\r\n";
    for (part, connection) in (0..20).cycle().zip(&mut dripping) {
        connection.send(&request[..=part]).unwrap();
    }
    let slots = cookie_slots(port, node_by);
    assert!(are_spread(&slots), "{slots:?}");
    for connection in &mut silent {
        assert_eq!(connection.get("/").unwrap().status, 200);
    }
    for (part, connection) in (0..20).cycle().zip(&mut dripping) {
        connection.send(&request[part + 1..]).unwrap();
        assert_eq!(connection.read_response(false).unwrap().status, 200);
    }
}
