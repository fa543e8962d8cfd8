//! Policies of a program's own: one that chooses, and one that panics.

use std::collections::BTreeSet;
use std::io::Write;
use std::net::TcpStream;

use rustix::process::Signal;
use worksong_testkit::http::{Connection, get};
use worksong_testkit::{Program, Worksong, binary, eventually, patience};

/// Starts the example, which prints nothing: its port is chosen here.
#[cfg(feature = "serve")]
fn start() -> (Program, u16) {
    let port = worksong_testkit::free_port();
    let mut command = std::process::Command::new(binary("examples/own_policy"));
    let program = Program::start(command.arg(format!("127.0.0.1:{port}")));
    let all = BTreeSet::from(["0", "1", "2"].map(str::to_owned));
    // Until slot 0 is there, administrators go to others.
    eventually("all workers", || {
        let paths = ["/admin", "/", "/"];
        let slots =
            paths.map(|path| get(port, path).map(|answer| answer.text().to_owned()).unwrap_or_default());
        (BTreeSet::from(slots) == all).then_some(())
    });
    (program, port)
}

#[cfg(feature = "serve")]
#[test]
fn a_policy_of_ones_own_chooses_by_the_first_bytes_and_by_what_workers_have() {
    let (program, port) = start();
    let hold = |path: &str| {
        let mut connection = Connection::open(port).expect("it listens");
        let slot = connection.get(path).expect("an answer").text().to_owned();
        (connection, slot)
    };
    let admins: Vec<_> = (0..10).map(|_| hold("/admin")).collect();
    assert!(admins.iter().all(|(_, slot)| slot == "0"));
    let visitors: Vec<_> = (0..20).map(|_| hold("/")).collect();
    for slot in ["1", "2"] {
        let share = visitors.iter().filter(|(_, of)| of == slot).count();
        assert!((8..=12).contains(&share), "{share} of 20 visitors are at slot {slot}");
    }
    // Nobody has to wait for a client that says nothing, and that one goes in turn.
    let mut silent = TcpStream::connect(("127.0.0.1", port)).expect("it listens");
    silent.set_read_timeout(Some(patience())).expect("a socket");
    assert_eq!(hold("/admin").1, "0");
    silent.write_all(b"GET /adm").expect("it is open");
    assert_eq!(hold("/admin").1, "0");
    silent.write_all(b"in HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n").expect("it is open");
    let answer = std::io::read_to_string(&mut silent).expect("an answer");
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    program.signal(Signal::TERM);
    assert!(program.wait_exit().success());
}

#[test]
fn a_policy_that_panics_costs_no_connection_and_is_told_of_once() {
    let cluster = Worksong::with(["2", "panics"]).binary(binary("examples/cluster_test_program")).start();
    let pids = cluster.wait_ready(2);
    let port = cluster.listening_port();
    let answers: Vec<u32> = (0..20)
        .map(|_| get(port, "/").expect("an answer").text().parse().expect("the answer is a pid"))
        .collect();
    // The first three went to slot 0, as it said.
    assert!(answers[..3].iter().all(|pid| *pid == answers[0]), "{answers:?}");
    assert_eq!(answers[3..].iter().copied().collect::<BTreeSet<u32>>(), pids);
    let failed = cluster.wait_event("policy_failed", |_| true);
    assert_eq!(failed["reason"], "three are enough");
    assert!(failed["address"].as_str().is_some_and(|address| address.ends_with(&format!(":{port}"))));
    cluster.signal(Signal::TERM);
    assert!(cluster.wait_exit().success());
    assert_eq!(cluster.events().iter().filter(|event| event.name() == "policy_failed").count(), 1);
}
