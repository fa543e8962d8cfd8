//! Unix sockets: paths with their modes and owners, abstract names.

use std::collections::BTreeSet;
use std::fs;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{self as unix, UnixListener};

use serde_json::{Value, json};
use worksong_testkit::{Folder, Launch, NODE_VERSIONS, Worksong, http, patience};

use crate::{ours, report, reports, start, stop};

/// Starts it with a umask that takes everything away, and returns how a path looks for each combination of options.
fn modes(launch: Launch) -> [String; 4] {
    let folder = Folder::new();
    let forms = json!([
        { "path": folder.join("plain") },
        { "path": folder.join("readable"), "readableAll": true },
        { "path": folder.join("writable"), "writableAll": true },
        { "path": folder.join("both"), "readableAll": true, "writableAll": true },
    ]);
    let worksong = start(launch.after("umask 077"), &forms);
    reports(&worksong, &forms);
    let names = ["plain", "readable", "writable", "both"];
    // Who may not write cannot connect.
    for (index, name) in names.into_iter().enumerate().filter(|(_, name)| *name != "readable") {
        assert_eq!(http::get(folder.join(name).as_path(), "/").unwrap().json()["index"], index);
    }
    names.map(|name| {
        let mode = fs::symlink_metadata(folder.join(name)).unwrap().permissions().mode();
        format!("{name} {mode:o}")
    })
}

/// Node 20 and older add to what the umask leaves.
#[test]
fn paths_have_the_modes_that_node_gives_them() {
    let ours = modes(ours(&[]));
    assert_eq!(ours, ["plain 140700", "readable 140444", "writable 140222", "both 140666"]);
    for version in ["22", "24"] {
        assert_eq!(ours, modes(Worksong::reference(version, 2)), "Node {version}");
    }
}

/// Node forgets `readableAll` and `writableAll` there.
#[test]
fn paths_that_workers_share_have_the_same_modes() {
    assert_eq!(modes(ours(&["--policy", "shared"])), modes(ours(&[])));
}

#[test]
fn the_path_of_a_dead_owner_is_replaced() {
    let folder = Folder::new();
    let path = folder.join("stale");
    drop(UnixListener::bind(&path).unwrap());
    assert!(path.exists(), "closing a socket leaves its path");
    let worksong = start(ours(&[]), &json!([{ "path": path }]));
    worksong.wait_ready(2);
    assert_eq!(http::get(path.as_path(), "/").unwrap().status, 200);
    stop(&worksong);
    assert!(!path.exists(), "the path goes with its socket");
}

#[test]
fn the_path_of_a_live_owner_is_not_replaced() {
    let folder = Folder::new();
    let path = folder.join("live");
    let owner = UnixListener::bind(&path).unwrap();
    let worksong = start(ours(&[]), &json!([{ "path": path }, 0]));
    assert_eq!(report(&worksong, 0, 0)["error"], "EADDRINUSE");
    stop(&worksong);
    let client = unix::UnixStream::connect(&path).expect("the path is still its owner's");
    owner.accept().unwrap();
    drop(client);
}

#[test]
fn abstract_names_are_listened_on() {
    let name = format!("worksong-test-{}", std::process::id());
    for version in NODE_VERSIONS {
        let worksong = start(ours(&[]).node(version), &json!([format!("\0{name}")]));
        worksong.wait_ready(2);
        let listening = worksong.wait_event("listening", |_| true);
        assert_eq!(listening["address"], format!("@{name}"), "Node {version}");
        let address = unix::SocketAddr::from_abstract_name(&name).unwrap();
        let pids: BTreeSet<u64> = [0, 1].iter().map(|_| ask_stream(&address)).collect();
        assert_eq!(pids.len(), 2, "both workers answer on Node {version}");
        stop(&worksong);
    }
}

/// Asks over a Unix socket by its address, and returns the pid that answered.
fn ask_stream(address: &unix::SocketAddr) -> u64 {
    use std::io::{Read as _, Write as _};
    let mut stream = unix::UnixStream::connect_addr(address).unwrap();
    stream.set_read_timeout(Some(patience())).unwrap();
    stream.write_all(b"GET / HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n").unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    let (_, body) = text.split_once("\r\n\r\n").expect("an answer has a body");
    // Node sends it in chunks where the length is not known; the object is on a line of its own then.
    let object = &body[body.find('{').unwrap()..=body.rfind('}').unwrap()];
    serde_json::from_str::<Value>(object).unwrap()["pid"].as_u64().unwrap()
}
