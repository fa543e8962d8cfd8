//! Runs tests in a network namespace of their own: what a setting of the whole network does is tried there.

use std::process::{Command, Stdio};

use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, recv, send, socket_with};

/// Set in the run that has the namespace.
const INSIDE: &str = "WORKSONG_TEST_HAS_OWN_NETWORK";

/// Runs the test of this name once more, alone, in a network namespace of its own. Returns true in that run.
///
/// Where no namespace can be had, that is printed, and the test proves nothing.
#[track_caller]
pub(super) fn enter(test: &str) -> bool {
    if std::env::var_os(INSIDE).is_some() {
        bring_loopback_up();
        return true;
    }
    let ways: [&[&str]; 2] = [&["--net"], &["--user", "--map-root-user", "--net"]];
    let is_possible = |way: &&&[&str]| {
        let trial = Command::new("unshare").args(**way).arg("true").stderr(Stdio::null()).status();
        trial.is_ok_and(|status| status.success())
    };
    let Some(way) = ways.iter().find(is_possible) else {
        println!("skipped: nobody may have a network namespace of its own here");
        return false;
    };
    let this = std::env::current_exe().expect("a test is a program");
    let mut run = Command::new("unshare");
    run.args(*way).arg(this).args(["--exact", test, "--nocapture"]).env(INSIDE, "1");
    let output = run.output().expect("it was there just now");
    let told =
        [output.stdout, output.stderr].map(|text| String::from_utf8_lossy(&text).into_owned()).concat();
    assert!(output.status.success() && told.contains("1 passed"), "in a network of its own: {told}");
    print!("{told}");
    false
}

/// Writes a setting of the network, and returns whether this kernel has it for each namespace.
pub(super) fn set(setting: &str, value: &str) -> bool {
    let is_set = std::fs::write(format!("/proc/sys/net/{setting}"), value).is_ok();
    if !is_set {
        println!("skipped: {setting} is not to be had in a namespace of its own here");
    }
    is_set
}

/// Asks the kernel by `rtnetlink(7)`, which answers before the call of the system returns.
fn bring_loopback_up() {
    const LENGTH: u32 = 32;
    const LOOPBACK: i32 = 1;
    let up = (libc::IFF_UP as u32).to_ne_bytes();
    let flags = (libc::NLM_F_REQUEST | libc::NLM_F_ACK) as u16;
    let (sequence, sender, family) = ([0; 4], [0; 4], [0; 4]);
    let header = [&LENGTH.to_ne_bytes()[..], &libc::RTM_NEWLINK.to_ne_bytes(), &flags.to_ne_bytes()].concat();
    let request = [&header[..], &sequence, &sender, &family, &LOOPBACK.to_ne_bytes(), &up, &up].concat();
    let flags = SocketFlags::CLOEXEC;
    // Nothing else is asked for: `NETLINK_ROUTE` is zero.
    let socket = socket_with(AddressFamily::NETLINK, SocketType::RAW, flags, None);
    let socket = socket.expect("a socket");
    send(&socket, &request, SendFlags::empty()).expect("it takes requests");
    let mut answer = [0; 256];
    let (length, _all) = recv(&socket, &mut answer[..], RecvFlags::empty()).expect("an answer");
    // `struct nlmsghdr`, then the error of `struct nlmsgerr`.
    assert_eq!(answer.get(16..20).filter(|_| length >= 20), Some(&[0; 4][..]), "lo is not up");
}
