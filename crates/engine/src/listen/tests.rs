use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};

use super::*;

fn query(address: Option<&str>, port: i64, address_type: AddressType) -> ServerQuery {
    ServerQuery {
        address: address.map(str::to_owned),
        port: Some(port),
        address_type,
        ..ServerQuery::default()
    }
}

fn path_query(path: &Path) -> ServerQuery {
    query(path.to_str(), -1, AddressType::Path)
}

fn folder(name: &str) -> PathBuf {
    let folder = std::env::temp_dir().join(format!("worksong-listen-{}-{name}", std::process::id()));
    fs::create_dir_all(&folder).expect("create a folder");
    folder
}

#[test]
fn no_host_means_both_families() {
    let listener = for_query(&query(None, 0, AddressType::V4), &[], None).expect("bind");
    let Address::Tcp(address) = listener.address else { panic!("not TCP: {:?}", listener.address) };
    assert!(address.port() > 0);
    for host in ["127.0.0.1", "::1"] {
        std::net::TcpStream::connect((host, address.port())).expect(host);
    }
}

#[test]
fn v6only_is_honoured() {
    let asked = ServerQuery { flags: Some(1), ..query(Some("::"), 0, AddressType::V6) };
    let listener = for_query(&asked, &[], None).expect("bind");
    let Address::Tcp(address) = listener.address else { panic!("not TCP") };
    std::net::TcpStream::connect(("::1", address.port())).expect("IPv6");
    std::net::TcpStream::connect(("127.0.0.1", address.port())).expect_err("IPv4 must not get in");
}

#[test]
fn a_taken_port_is_node_s_error() {
    let first = for_query(&query(Some("127.0.0.1"), 0, AddressType::V4), &[], None).expect("bind");
    let Address::Tcp(address) = first.address else { panic!("not TCP") };
    let again = query(Some("127.0.0.1"), i64::from(address.port()), AddressType::V4);
    let error = for_query(&again, &[], None).expect_err("the port is taken");
    assert_eq!((error.errno(), error.address), (-98, address.to_string()));
}

#[test]
fn an_own_socket_is_found_by_its_address() {
    for (listen, host) in [("127.0.0.1:0", Some("127.0.0.1")), ("[::1]:0", Some("::1"))] {
        let listen = ListenAddress::Tcp(listen.parse().expect("an address"));
        let own = for_address(&listen).expect("bind");
        let inherited = [own.socket().try_clone_to_owned().expect("copy")];
        let Address::Tcp(address) = own.address else { panic!("not TCP") };
        let asked = query(host, i64::from(address.port()), AddressType::V4);
        assert_eq!(for_query(&asked, &inherited, None).expect("found").address, own.address);
        let other = query(Some("192.0.2.1"), i64::from(address.port()), AddressType::V4);
        assert_eq!(for_query(&other, &inherited, None).expect_err("another address").errno(), -99);
    }
    let own = for_address(&ListenAddress::AnyInterface(0)).expect("bind");
    let Address::Tcp(address) = own.address else { panic!("not TCP") };
    let inherited = [own.socket().try_clone_to_owned().expect("copy")];
    let asked = query(None, i64::from(address.port()), AddressType::V4);
    assert_eq!(for_query(&asked, &inherited, None).expect("found").address, own.address);
    let any = for_query(&query(None, 0, AddressType::V4), &inherited, None).expect("bind");
    assert_ne!(any.address, own.address, "port 0 asks for a new one");

    let path = folder("own").join("socket");
    let own = for_address(&ListenAddress::Unix(path.clone())).expect("bind");
    let inherited = [own.socket().try_clone_to_owned().expect("copy")];
    assert_eq!(for_query(&path_query(&path), &inherited, None).expect("found").address, own.address);
}

#[test]
fn odd_queries_are_errors_and_no_panics() {
    for (asked, errno) in [
        (query(None, 70_000, AddressType::V4), -22),
        (query(Some("no-address"), 1, AddressType::V4), -22),
        (query(Some("192.0.2.1"), 0, AddressType::V4), -99),
        (query(None, -1, AddressType::Path), -22),
        (query(None, -1, AddressType::V4), -22),
        (ServerQuery { fd: Some(99_999), ..query(None, 0, AddressType::Descriptor) }, -22),
        (ServerQuery { fd: Some(-7), ..query(None, 0, AddressType::Descriptor) }, -22),
        (ServerQuery { fd: Some(1 << 40), ..query(None, 0, AddressType::Descriptor) }, -22),
    ] {
        let error = for_query(&asked, &[], None).expect_err("not bindable");
        assert_eq!(error.errno(), errno, "{asked:?}: {}", error.source);
    }
}

#[test]
fn a_descriptor_that_is_no_socket_is_refused() {
    let file = fs::File::open("/dev/null").expect("open");
    let number = i64::from(std::os::fd::AsRawFd::as_raw_fd(&file));
    let asked = ServerQuery { fd: Some(number), ..query(None, 0, AddressType::Descriptor) };
    assert_eq!(for_query(&asked, &[], None).expect_err("no socket").errno(), -88);
}

#[test]
fn an_app_finds_its_own_sockets_from_number_three() {
    let own = for_address(&ListenAddress::Tcp("127.0.0.1:0".parse().expect("an address"))).expect("bind");
    let inherited = [own.socket().try_clone_to_owned().expect("copy")];
    let asked = ServerQuery { fd: Some(3), port: None, ..query(None, 0, AddressType::Descriptor) };
    assert_eq!(for_query(&asked, &inherited, None).expect("found").address, own.address);
}

#[test]
fn udp_sockets_are_bound_without_listening() {
    let listener = for_query(&query(Some("127.0.0.1"), 0, AddressType::Udp4), &[], None).expect("bind");
    assert!(matches!(listener.address, Address::Udp(address) if address.port() > 0));
    assert!(listener.address.to_string().starts_with("udp 127.0.0.1:"));
}

#[test]
fn a_stale_path_is_replaced_and_a_live_one_is_not() {
    let folder = folder("stale");
    let path = folder.join("socket");
    drop(UnixListener::bind(&path).expect("bind"));
    assert!(path.exists(), "a dead owner leaves its path");
    let listener = for_query(&path_query(&path), &[], None).expect("a stale path is replaced");
    UnixStream::connect(&path).expect("ours");
    assert_eq!(for_query(&path_query(&path), &[], None).expect_err("a live owner").errno(), -98);
    drop(listener);
    assert!(!path.exists(), "we clean up after ourselves");
    fs::write(&path, "a file").expect("write");
    assert_eq!(for_query(&path_query(&path), &[], None).expect_err("no socket at all").errno(), -98);
    assert!(path.exists(), "other people's files stay");
    fs::remove_dir_all(folder).expect("clean up");
}

#[test]
fn a_path_that_somebody_took_over_is_left_to_them() {
    let folder = folder("taken");
    let path = folder.join("socket");
    let listener = for_query(&path_query(&path), &[], None).expect("bind");
    fs::remove_file(&path).expect("remove");
    let _other = UnixListener::bind(&path).expect("bind");
    drop(listener);
    assert!(path.exists());
    fs::remove_dir_all(folder).expect("clean up");
}

#[test]
fn modes_and_long_paths() {
    let folder = folder("long").join("x".repeat(120));
    fs::create_dir_all(&folder).expect("create");
    let path = folder.join("socket");
    let asked = ServerQuery { readable_all: true, writable_all: true, ..path_query(&path) };
    let listener = for_query(&asked, &[], None).expect("a path of more than 107 bytes");
    let mode = fs::metadata(&path).expect("metadata").permissions().mode();
    assert_eq!(mode & 0o777, 0o666, "{mode:o}");
    drop(listener);
    fs::remove_dir_all(folder.parent().expect("a parent")).expect("clean up");
}

#[test]
fn an_abstract_name_starts_at_its_nul_byte() {
    let name = format!("/some/where/\0worksong-{}", std::process::id());
    let listener = for_query(&query(Some(&name), -1, AddressType::Path), &[], None).expect("bind");
    assert_eq!(listener.address.to_string(), format!("@worksong-{}", std::process::id()));
}

#[test]
fn a_listener_that_refuses_what_is_new_still_gives_what_came_before() {
    let mut listener = for_query(&query(Some("127.0.0.1"), 0, AddressType::V4), &[], None).expect("bind");
    let Address::Tcp(address) = listener.address else { panic!("not TCP") };
    let mut early = std::net::TcpStream::connect(address).expect("connect");
    listener.refuse_new();
    let late = std::net::TcpStream::connect_timeout(&address, std::time::Duration::from_millis(100));
    assert_eq!(late.expect_err("nobody answers").kind(), io::ErrorKind::TimedOut);
    let (accepted, _) = SockRef::from(&listener.socket()).accept().expect("the early one waits");
    drop(listener);
    io::Write::write_all(&mut early, b"all the same").expect("it goes on");
    let mut buffer = [0; 12];
    accepted.set_nonblocking(false).expect("wait for it");
    io::Read::read_exact(&mut &accepted, &mut buffer).expect("packets of a connection pass");
    assert_eq!(&buffer, b"all the same");
}

#[test]
fn a_path_is_gone_as_soon_as_nobody_new_is_let_in() {
    let folder = folder("refuse");
    let path = folder.join("socket");
    let mut listener = for_query(&path_query(&path), &[], None).expect("bind");
    let _early = UnixStream::connect(&path).expect("connect");
    listener.refuse_new();
    assert!(!path.exists());
    SockRef::from(&listener.socket()).accept().expect("the early one waits");
    fs::remove_dir_all(folder).expect("clean up");
}

#[test]
fn an_adopted_socket_goes_on_without_us() {
    let theirs = std::net::TcpListener::bind("127.0.0.1:0").expect("bind");
    let number = i64::from(std::os::fd::AsRawFd::as_raw_fd(&theirs));
    let asked = ServerQuery { fd: Some(number), ..query(None, 0, AddressType::Descriptor) };
    let mut listener = for_query(&asked, &[], None).expect("adopt");
    listener.refuse_new();
    drop(listener);
    std::net::TcpStream::connect(theirs.local_addr().expect("address")).expect("it still listens");
}
