//! A worker's program started with environments that no primary makes, and with none.

use std::io::{BufRead, BufReader, Read};
use std::net::TcpListener;
use std::os::fd::AsRawFd;
use std::process::{Command, Output, Stdio};

use rustix::process::Signal;
use worksong_testkit::{binary, eventually, process};

fn run(variables: &[(&str, &str)]) -> Output {
    // A primary's address that does not exist: whoever ignores the environment fails with another text.
    let mut command = Command::new(binary("examples/under_node"));
    command.arg("no address").envs(variables.iter().copied()).output().expect("the program starts")
}

#[track_caller]
fn refused(variables: &[(&str, &str)], reason: &str) {
    let output = run(variables);
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert!(text.contains(reason), "{text}");
    assert!(!text.contains("panicked"), "{text}");
}

#[test]
fn a_channel_that_is_none_is_refused() {
    let open = TcpListener::bind("127.0.0.1:0").expect("a port");
    rustix::io::fcntl_setfd(&open, rustix::io::FdFlags::empty()).expect("inheritable");
    for fd in ["0", "1", "2", "-1", "99", &open.as_raw_fd().to_string()] {
        refused(
            &[("NODE_UNIQUE_ID", "1"), ("NODE_CHANNEL_FD", fd)],
            &format!("descriptor {fd} of NODE_CHANNEL_FD is no channel"),
        );
    }
}

#[test]
fn variables_with_nonsense_are_named() {
    refused(
        &[("NODE_UNIQUE_ID", "x"), ("NODE_CHANNEL_FD", "3")],
        "NODE_UNIQUE_ID=\"x\" is not a worker's number",
    );
    refused(
        &[("NODE_UNIQUE_ID", "1"), ("NODE_CHANNEL_FD", "3x")],
        "NODE_CHANNEL_FD=\"3x\" is not a descriptor",
    );
    refused(
        &[("NODE_UNIQUE_ID", "1"), ("NODE_CHANNEL_FD", "3"), ("NODE_CHANNEL_SERIALIZATION_MODE", "advanced")],
        "set serialization: 'json'",
    );
}

#[test]
fn a_plain_child_of_node_is_no_worker() {
    for variables in [&[][..], &[("NODE_CHANNEL_FD", "3")], &[("NODE_UNIQUE_ID", "1")]] {
        refused(variables, "\"no address\" is no address");
    }
}

#[test]
fn alone_the_program_drains_on_sigterm() {
    let mut child = Command::new(binary("examples/under_node"))
        .stdout(Stdio::piped())
        .spawn()
        .expect("the program starts");
    let mut output = BufReader::new(child.stdout.take().expect("a pipe"));
    let mut line = String::new();
    output.read_line(&mut line).expect("its address");
    let mut client = std::net::TcpStream::connect(line.trim()).expect("it listens");
    std::io::Write::write_all(&mut client, b"GET /slow HTTP/1.1\r\n\r\n").expect("it reads");
    client.read_exact(&mut [0; 4]).expect("it has begun to answer");
    process::kill(child.id(), Signal::TERM);
    eventually("its listener closed", || std::net::TcpStream::connect(line.trim()).err());
    std::io::Write::write_all(&mut client, b"\n").expect("it reads");
    let mut rest = String::new();
    client.read_to_string(&mut rest).expect("it finishes");
    assert!(rest.ends_with("worker 0"), "{rest}");
    assert_eq!(child.wait().expect("ours").code(), Some(0));
}
