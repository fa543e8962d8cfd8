//! Traffic that Node 18, 20, 22 and 24 really wrote (`golden/record.py`): we read all of it, and write the same bytes.

use std::fs;
use std::path::{Path, PathBuf};

use worksong_channel::Message;
use worksong_channel::message::{
    AddressType, Cluster, Handle, HandleAnswer, Reply, ServerQuery, SocketList, encode,
};

const MAJORS: [&str; 4] = ["18", "20", "22", "24"];

fn folder(major: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("golden").join(major)
}

/// The lines of one recording, each with its newline.
fn lines(major: &str, recording: &str) -> Vec<String> {
    let path = folder(major).join(recording).with_extension("jsonl");
    let text = fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    text.split_inclusive('\n').map(str::to_owned).collect()
}

fn decoded(line: &str) -> Message {
    Message::decode(line.trim_end().as_bytes()).unwrap_or_else(|error| panic!("{line}: {error}"))
}

/// What kind of message it is, in short.
fn name(message: &Message) -> String {
    match message {
        Message::Cluster(cluster) => match cluster {
            Cluster::Online { .. } => "online".to_owned(),
            Cluster::QueryServer { .. } => "queryServer".to_owned(),
            Cluster::Listening { .. } => "listening".to_owned(),
            Cluster::Close { .. } => "close".to_owned(),
            Cluster::ExitedAfterDisconnect { .. } => "exitedAfterDisconnect".to_owned(),
            Cluster::NewConnection { .. } => "newconn".to_owned(),
            Cluster::Disconnect => "disconnect".to_owned(),
            Cluster::Reply(Reply { accepted: Some(accepted), .. }) => format!("accepted:{accepted}"),
            Cluster::Reply(Reply { server: Some(server), .. }) => format!("server:{}", server.errno),
            Cluster::Reply(_) => "acknowledged".to_owned(),
            Cluster::Unknown { act } => format!("act {act}"),
        },
        Message::Handle(Handle { kind, message, .. }) => format!("{kind}({})", name(message)),
        Message::HandleAck => "ack".to_owned(),
        Message::HandleNack => "nack".to_owned(),
        Message::SocketList(SocketList::GetCount { .. }) => "getCount".to_owned(),
        Message::SocketList(SocketList::NotifyClose { .. }) => "notifyClose".to_owned(),
        Message::SocketList(SocketList::Answer) => "socketListAnswer".to_owned(),
        Message::Extension(message) => format!("{message:?}"),
        Message::Unknown { cmd } => cmd.clone(),
        Message::User(value) => format!("user {}", value.get()),
    }
}

fn names(major: &str, recording: &str) -> Vec<String> {
    lines(major, recording).iter().map(|line| name(&decoded(line))).collect()
}

fn is_socket_list(name: &str) -> bool {
    matches!(name, "getCount" | "notifyClose")
}

#[test]
fn every_line_of_every_recording_is_known() {
    for major in MAJORS {
        let mut recordings = 0;
        for entry in fs::read_dir(folder(major)).expect("recordings") {
            let path = entry.expect("a readable folder").path();
            let recording = path.file_stem().expect("a name").to_str().expect("UTF-8").to_owned();
            for line in lines(major, &recording) {
                let name = name(&decoded(&line));
                assert!(!name.starts_with("act "), "{}: {line}", path.display());
                assert!(!name.starts_with("NODE_") || name == "NODE_SOMETHING", "{}: {line}", path.display());
            }
            recordings += 1;
        }
        assert!(recordings >= 24, "only {recordings} recordings of Node {major}");
    }
}

#[test]
fn workers_say_what_we_expect() {
    for major in MAJORS {
        let connection = [
            "online",
            "queryServer",
            "listening",
            "ack",
            "accepted:true",
            "close",
            r#"user "closed""#,
            "ack",
            "accepted:false",
            "exitedAfterDisconnect",
        ];
        assert_eq!(names(major, "worker-connection"), connection, "Node {major}");
        assert_eq!(
            names(major, "worker-disconnected"),
            ["online", "queryServer", "listening", "close"],
            "Node {major}"
        );
        let user = names(major, "worker-user");
        assert_eq!(
            user[1..4],
            [r#"user {"cmd":"NODE_"}"#, r#"user {"cmd":"node_x","act":"online"}"#, r#"user {"cmd":7}"#]
        );
        assert_eq!(user[4], "NODE_SOMETHING");
        assert_eq!(user[6], r#"user "\ud800""#, "half a letter is passed on as it came");
        let handles: Vec<_> =
            names(major, "worker-handles").into_iter().filter(|name| !is_socket_list(name)).collect();
        assert_eq!(
            handles[1..4],
            [
                r#"net.Socket(user "socket")"#,
                r#"net.Server(user "server")"#,
                r#"dgram.Socket(user "datagram")"#
            ]
        );
        assert!(names(major, "worker-handles").iter().any(|name| is_socket_list(name)), "Node {major}");
    }
}

fn only_query(major: &str, recording: &str) -> ServerQuery {
    let queries: Vec<_> = lines(major, recording)
        .iter()
        .filter_map(|line| match decoded(line) {
            Message::Cluster(Cluster::QueryServer { query, .. }) => Some(*query),
            _ => None,
        })
        .collect();
    match <[ServerQuery; 1]>::try_from(queries) {
        Ok([query]) => query,
        Err(queries) => panic!("Node {major}, {recording}: {queries:?}"),
    }
}

#[test]
fn queries_mean_the_same_in_every_version() {
    for major in MAJORS {
        let flags_without_host = matches!(major, "22" | "24").then_some(0);
        for (recording, address, port, kind, flags, backlog) in [
            ("tcp-port", None, Some(8101), AddressType::V4, flags_without_host, None),
            ("tcp-any-port", None, Some(0), AddressType::V4, flags_without_host, None),
            ("tcp-string-port", None, Some(8101), AddressType::V4, flags_without_host, None),
            ("tcp-backlog", None, Some(8101), AddressType::V4, flags_without_host, Some(77)),
            ("tcp-host", Some("127.0.0.1"), Some(8101), AddressType::V4, Some(0), None),
            ("tcp-host6", Some("::1"), Some(8101), AddressType::V6, Some(0), None),
            ("tcp-ipv6only", Some("::"), Some(8101), AddressType::V6, Some(1), None),
            ("tls", None, Some(8101), AddressType::V4, flags_without_host, None),
            ("path", Some("/tmp/golden.sock"), Some(-1), AddressType::Path, None, None),
            ("path-abstract", Some("/tmp/\0golden"), Some(-1), AddressType::Path, None, None),
            ("descriptor", None, None, AddressType::Descriptor, None, None),
            ("udp4", Some("0.0.0.0"), Some(8105), AddressType::Udp4, Some(0), None),
            ("udp6", Some("::"), Some(8105), AddressType::Udp6, Some(0), None),
            ("udp-any-port", Some("0.0.0.0"), Some(0), AddressType::Udp4, Some(0), None),
            ("udp-string-port", Some("0.0.0.0"), Some(8105), AddressType::Udp4, Some(0), None),
            ("udp-reuse", Some("0.0.0.0"), Some(8105), AddressType::Udp4, Some(4), None),
            ("udp-ipv6only", Some("::"), Some(8105), AddressType::Udp6, Some(1), None),
            ("udp-descriptor", None, None, AddressType::Udp4, None, None),
        ] {
            let query = only_query(major, &format!("worker-{recording}"));
            let sent = (query.address.as_deref(), query.port, query.address_type, query.flags, query.backlog);
            assert_eq!(sent, (address, port, kind, flags, backlog), "Node {major}, {recording}");
            let fd = recording.ends_with("descriptor").then_some(7);
            assert_eq!((query.fd, query.index), (fd, 0), "Node {major}, {recording}");
            assert_eq!(query.data.is_some(), recording == "tls", "Node {major}, {recording}");
        }
        let path = only_query(major, "worker-path-all");
        assert!(path.readable_all && path.writable_all);
    }
}

/// Encodes a decoded message again with our own encoders; `None` for what we never write.
fn encoded(message: &Message, line: &str) -> Option<Vec<u8>> {
    let seq = || {
        let at = line.rfind(r#""seq":"#).expect("a number");
        line[at + 6..].trim_end().trim_end_matches('}').parse().expect("a number")
    };
    Some(match message {
        Message::Cluster(cluster) => encoded_cluster(cluster, seq()),
        Message::Handle(Handle { kind, message, key }) => match &**message {
            Message::Cluster(Cluster::NewConnection { key, seq }) => {
                let mut out = Vec::new();
                encode::new_connection(&mut out, &encode::EncodedKey::new(key), *seq);
                out
            }
            Message::Cluster(Cluster::Reply(Reply { ack, server: Some(server), .. })) => {
                encode::shared_server_reply(server, kind == "dgram.Native", *ack, seq())
            }
            Message::User(value) if kind == "net.Socket" && key.is_none() => encode::user_with_socket(value),
            _ => return None,
        },
        Message::HandleAck => encode::handle_answer(HandleAnswer::Ack).to_vec(),
        Message::HandleNack => encode::handle_answer(HandleAnswer::Nack).to_vec(),
        Message::User(value) => encode::user(value),
        Message::Extension(message) => message.encode(),
        Message::SocketList(_) | Message::Unknown { .. } => return None,
    })
}

fn encoded_cluster(cluster: &Cluster, seq: u64) -> Vec<u8> {
    match cluster {
        Cluster::Online { seq } => encode::act("online", *seq),
        Cluster::QueryServer { query, seq } => encode::query_server(query, *seq),
        Cluster::Listening { query } => encode::listening(query, seq),
        Cluster::Close { key } => encode::close(key, seq),
        Cluster::ExitedAfterDisconnect { seq } => encode::act("exitedAfterDisconnect", *seq),
        Cluster::Disconnect => encode::disconnect(seq),
        Cluster::Reply(Reply { ack, accepted: Some(accepted), .. }) => encode::accepted(*ack, *accepted, seq),
        Cluster::Reply(Reply { ack, server: Some(server), .. }) => encode::server_reply(server, *ack, seq),
        Cluster::Reply(Reply { ack, .. }) => encode::acknowledge(*ack, seq),
        Cluster::NewConnection { .. } | Cluster::Unknown { .. } => panic!("not sent without a descriptor"),
    }
}

/// Where one meaning has several spellings in Node, we write the commonest.
fn common_spelling(recording: &str, line: &str) -> String {
    let line = line.replace(r#""backlog":false"#, r#""backlog":0"#);
    match recording {
        "worker-udp-any-port" => line.replace(r#""addressType":"udp4""#, r#""port":0,"addressType":"udp4""#),
        "worker-udp-string-port" => line.replace(r#""8105""#, "8105"),
        "worker-udp-descriptor" => line.replace(r#","flags":null"#, ""),
        _ => line,
    }
}

#[test]
fn we_write_the_bytes_that_node_writes() {
    for major in MAJORS {
        let mut compared = std::collections::BTreeMap::<String, usize>::new();
        for entry in fs::read_dir(folder(major)).expect("recordings") {
            let path = entry.expect("a readable folder").path();
            let recording = path.file_stem().expect("a name").to_str().expect("UTF-8").to_owned();
            for line in lines(major, &recording) {
                let message = decoded(&line);
                let Some(ours) = encoded(&message, &line) else { continue };
                let ours = String::from_utf8(ours).expect("UTF-8");
                assert_eq!(ours, common_spelling(&recording, &line), "Node {major}, {recording}");
                *compared.entry(name(&message)).or_default() += 1;
            }
        }
        for kind in [
            "online",
            "queryServer",
            "listening",
            "close",
            "exitedAfterDisconnect",
            "ack",
            "accepted:true",
            "accepted:false",
            "server:0",
            "server:-99",
            "net.Native(server:0)",
            "dgram.Native(server:0)",
            "net.Native(newconn)",
            "disconnect",
            "acknowledged",
        ] {
            assert!(compared.contains_key(kind), "Node {major}: no {kind} was compared: {compared:?}");
        }
    }
}
