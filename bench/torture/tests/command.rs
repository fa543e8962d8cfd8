//! The program as a whole: a server of its own, wrong use.

use std::io::{BufRead, BufReader, Write};
use std::net::{Ipv4Addr, TcpListener};
use std::process::{Command, Output};
use std::thread;

fn torture(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_worksong-torture")).args(arguments).output().expect("it can be started")
}

/// Starts a server that answers every request with 404, on any path, and returns its port.
fn not_found() -> u16 {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
    let port = listener.local_addr().expect("an address").port();
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            thread::spawn(move || {
                let mut answers = stream.try_clone().expect("a second descriptor");
                let heads = BufReader::new(stream).lines().map_while(Result::ok);
                for _end_of_a_head in heads.filter(String::is_empty) {
                    let answer = b"HTTP/1.1 404 Not Found\r\nContent-Length: 2\r\n\r\nno";
                    if answers.write_all(answer).is_err() {
                        return;
                    }
                }
            });
        }
    });
    port
}

#[test]
fn any_server_can_be_tortured_by_its_url() {
    let url = format!("http://127.0.0.1:{}/any", not_found());
    let output =
        torture(&["reload", "--reloads", "1", "--deadline", "0", "--url", &url, "--reload-command", "true"]);
    let stdout = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{stdout}{}", String::from_utf8_lossy(&output.stderr));
    let row = |name: &str| {
        let line = stdout.lines().find(|line| line.starts_with(&format!("| {name} | ")));
        line.unwrap_or_else(|| panic!("no row {name} in {stdout}")).to_owned()
    };
    assert!(row("**all**").contains("| 0 of "), "{stdout}");
    assert!(!row("keep-alive").contains("0 of 0") && row("upload").ends_with("|  |"), "{stdout}");
    assert!(row("steps").contains("| 1, median"), "{stdout}");
}

#[test]
fn a_reload_that_fails_ends_the_run() {
    let url = format!("http://127.0.0.1:{}", not_found());
    let output = torture(&["reload", "--deadline", "0", "--url", &url, "--reload-command", "exit 7"]);
    assert_eq!(output.status.code(), Some(1));
    let stdout = String::from_utf8_lossy(&output.stdout);
    assert!(stdout.contains("Ended early: `exit 7` failed: exit status: 7"), "{stdout}");
}

#[test]
fn wrong_use_is_named() {
    for (arguments, part) in [
        (
            &["none", "--systems", "apache"][..],
            "--systems apache: there is no such system; there are worksong-node, worksong-kernel",
        ),
        (
            &["none", "--clients", "telnet=1"],
            "--clients telnet: there is no such class; there are new, keep-alive",
        ),
        (&["none", "--clients", "new"], "--clients new is not CLASS=N"),
        (&["none", "--url", "https://x"], "https://x does not begin with http://"),
        (&["none", "--reload-command", "true"], "--url"),
    ] {
        let output = torture(arguments);
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {stderr}");
        assert!(stderr.contains(part), "{arguments:?}: {stderr}");
    }
}
