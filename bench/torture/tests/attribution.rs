//! Servers that fail in one way each: the ledger has to say which, and nothing else.

use std::io::{BufRead, BufReader, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::mpsc::{SyncSender, sync_channel};
use std::thread;
use std::time::Duration;

use worksong_torture::{Class, Contract, Crowd, Ending, Fate, Ledger, Plan, Population, Target};

/// Reads the head of a request and returns the last word of its path; `None` at the end of the connection.
fn request(stream: &mut BufReader<TcpStream>) -> Option<String> {
    let mut first = String::new();
    stream.read_line(&mut first).ok().filter(|count| *count > 0)?;
    let mut line = String::new();
    while stream.read_line(&mut line).ok()? > 2 {
        line.clear();
    }
    Some(first.split(' ').nth(1)?.rsplit('/').next()?.to_owned())
}

fn right(word: &str) -> String {
    format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{word}", word.len())
}

/// Sends a RST at the close: bytes that were not read remain.
fn reset(stream: &TcpStream) {
    socket2::SockRef::from(stream).set_linger(Some(Duration::ZERO)).expect("an option of a socket");
}

/// Lets one client use a server that treats each connection so, until it has done so three times.
fn torture(class: Class, serve: fn(&mut BufReader<TcpStream>)) -> Ledger {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
    let address = listener.local_addr().expect("an address");
    let (done, all_done) = sync_channel(0);
    thread::spawn(move || accept(&listener, serve, &done));
    let population = start(class, address);
    all_done.recv().expect("three connections");
    population.finish()
}

fn accept(listener: &TcpListener, serve: fn(&mut BufReader<TcpStream>), done: &SyncSender<()>) {
    for number in 1.. {
        let (stream, _) = listener.accept().expect("a connection");
        serve(&mut BufReader::new(stream));
        // The fourth shows that the client has seen the end of the third.
        if number == 4 && done.send(()).is_err() {
            return;
        }
    }
}

fn start(class: Class, http: SocketAddr) -> Population {
    let crowd = Crowd::nobody().with(class, 1);
    let plan = Plan { crowd, patience: Duration::from_secs(1), ..Plan::default() };
    Population::start(&plan, &Target { http, http2: None, contract: Contract::Full })
}

#[track_caller]
fn assert_only(ledger: &Ledger, class: Class, fate: Fate) {
    let tally = ledger.class(class);
    assert!(tally.fate(fate) >= 3, "{tally:?}");
    let others = Fate::ALL.into_iter().filter(|other| ![fate, Fate::Served].contains(other));
    assert_eq!(others.map(|other| tally.fate(other)).sum::<u64>(), 0, "{tally:?}");
    assert_eq!(tally.failed(), ledger.failures().len() as u64);
}

#[test]
fn an_answer_that_is_whole_is_served() {
    let ledger = torture(Class::Fresh, |stream| {
        let word = request(stream).expect("a request");
        stream.get_mut().write_all(right(&word).as_bytes()).expect("written");
    });
    assert_only(&ledger, Class::Fresh, Fate::Served);
}

#[test]
fn an_end_before_the_answer_is_told_from_a_reset() {
    let closed = torture(Class::KeepAlive, |stream| drop(request(stream)));
    assert_only(&closed, Class::KeepAlive, Fate::ClosedBefore);
    let reset = torture(Class::KeepAlive, |stream| {
        request(stream);
        reset(stream.get_ref());
    });
    assert_only(&reset, Class::KeepAlive, Fate::ResetBefore);
}

#[test]
fn an_end_within_the_answer_is_told_from_one_before() {
    let ledger = torture(Class::Fresh, |stream| {
        let word = request(stream).expect("a request");
        let answer = right(&word);
        stream.get_mut().write_all(&answer.as_bytes()[..answer.len() - 1]).expect("written");
    });
    assert_only(&ledger, Class::Fresh, Fate::ClosedWithin);
}

#[test]
fn wrong_answers_are_found() {
    let body = torture(Class::Fresh, |stream| {
        request(stream);
        stream.get_mut().write_all(right("x").as_bytes()).expect("written");
    });
    assert_only(&body, Class::Fresh, Fate::WrongAnswer);
    let status = torture(Class::Fresh, |stream| {
        request(stream);
        let answer = b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n";
        stream.get_mut().write_all(answer).expect("written");
    });
    assert_only(&status, Class::Fresh, Fate::WrongStatus);
}

#[test]
fn silence_is_given_up() {
    // Waits until the client does not.
    let ledger = torture(Class::KeepAlive, |stream| while request(stream).is_some() {});
    assert_only(&ledger, Class::KeepAlive, Fate::TimedOut);
}

#[test]
fn a_connection_that_ends_while_it_is_idle_is_no_failure() {
    let ledger = torture(Class::KeepAlive, |stream| {
        let word = request(stream).expect("a request");
        stream.get_mut().write_all(right(&word).as_bytes()).expect("written");
    });
    let tally = ledger.class(Class::KeepAlive);
    assert_eq!(tally.failed(), 0, "{:?}", ledger.failures());
    assert!(tally.ending(Ending::Idle) >= 3 && tally.ending(Ending::Polite) == 0, "{tally:?}");
}

#[test]
fn what_was_not_answered_after_a_goodbye_is_declined() {
    let ledger = torture(Class::Pipelined, |stream| {
        let word = request(stream).expect("a request");
        let answer = right(&word).replace("\r\n\r\n", "\r\nConnection: close\r\n\r\n");
        stream.get_mut().write_all(answer.as_bytes()).expect("written");
        // What was sent in vain is read, or a RST would take the answer away.
        while request(stream).is_some() {}
    });
    assert_only(&ledger, Class::Pipelined, Fate::Declined);
    assert!(ledger.class(Class::Pipelined).ending(Ending::Polite) >= 3);
}

#[test]
fn where_nobody_listens_clients_are_refused() {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
    let address = listener.local_addr().expect("an address");
    drop(listener);
    let population = start(Class::Fresh, address);
    worksong_testkit::eventually("three refusals", || {
        (population.ledger().class(Class::Fresh).fate(Fate::Refused) >= 3).then_some(())
    });
    assert_only(&population.finish(), Class::Fresh, Fate::Refused);
}
