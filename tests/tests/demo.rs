//! `worksong demo`, as somebody meets it who has nothing else installed.

use std::collections::BTreeSet;
use std::net::TcpListener;

use worksong_testkit::http::{self, Response};
use worksong_testkit::{Folder, Launch, Load, Signal, Worksong, process};

fn demo(listen: &str) -> Launch {
    Worksong::with(["demo", "--json", "-i", "2", "--listen", listen])
}

/// Reads `slot 0  worker 1  pid 42  requests 3`, or the front page's sentence about its process.
fn pid(answer: &Response) -> u32 {
    let text = answer.text();
    let after =
        text.split_once("pid ").or_else(|| text.split_once("process ")).expect("a page names its process").1;
    let digits = after.split(|character: char| !character.is_ascii_digit()).next().unwrap_or_default();
    digits.parse().expect("a pid")
}

#[test]
fn every_page_says_which_worker_made_it() {
    let demo = demo("127.0.0.1:0").start();
    let workers = demo.wait_ready(2);
    let port = demo.listening_port();
    let front = http::get(port, "/").expect("the front page");
    assert_eq!(front.status, 200);
    assert!(front.text().contains(&format!("http://127.0.0.1:{port}/who")), "{}", front.text());
    assert!(front.text().contains(&format!("kill -HUP {}", demo.pid())), "{}", front.text());
    assert!(workers.contains(&pid(&front)));
    let served: BTreeSet<u32> = (0..8).map(|_| pid(&http::get(port, "/who").expect("a page"))).collect();
    assert_eq!(served, workers);
    assert_eq!(http::get(port, "/nowhere").expect("a page").status, 404);
}

#[test]
fn its_front_page_keeps_its_promises() {
    let demo = demo("127.0.0.1:0").start();
    let first = demo.wait_ready(2);
    let port = demo.listening_port();
    let killed = *first.first().expect("two workers");
    process::kill(killed, Signal::KILL);
    let successor = demo.wait_event("ready", |event| !first.contains(&event.pid()));
    assert_eq!(demo.wait_event("exit", |event| event.pid() == killed).slot(), successor.slot());
    let load = Load::start(port, pid);
    for generation in 2..=6 {
        demo.signal(Signal::HUP);
        demo.wait_event("reload_done", |event| event.generation() == generation);
    }
    for old in first.iter().filter(|pid| **pid != killed) {
        demo.wait_event("exit", |event| event.pid() == *old && event["voluntary"] == true);
    }
    load.finish_without_failure();
    demo.signal(Signal::TERM);
    assert_eq!(demo.wait_exit().code(), Some(0));
}

#[test]
fn a_unix_socket_will_do() {
    let folder = Folder::new();
    let socket = folder.join("demo.sock");
    let demo = demo(&socket.display().to_string()).start();
    let workers = demo.wait_ready(2);
    let front = http::get(socket.as_path(), "/").expect("the front page");
    assert!(workers.contains(&pid(&front)));
    assert!(front.text().contains("curl -s --unix-socket"), "{}", front.text());
}

#[test]
fn a_port_in_use_ends_it_with_the_holder_and_the_way_out() {
    let holder = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = holder.local_addr().expect("an address").to_string();
    let (status, lines) = demo(&address).finish();
    assert_eq!(status.code(), Some(1));
    let text: Vec<&str> = lines.iter().map(|line| line.text.as_str()).collect();
    let told = text.iter().find(|line| line.contains(&format!("could not listen on {address}")));
    let told = told.unwrap_or_else(|| panic!("no reason in {text:?}"));
    assert!(told.contains(&format!("pid {}", std::process::id())), "{told}");
    assert!(told.contains("listen on another address"), "{told}");
    assert!(!text.iter().any(|line| line.contains("\"forked\"")), "no worker was started: {text:?}");
    assert!(
        !text.iter().any(|line| line.contains("listening on")),
        "it does not say that it listens: {text:?}"
    );
}
