//! Servers that fail in one way each: the ledger has to say which, and nothing else.

mod http2;
mod websocket;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicU64, Ordering};
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
    torture_with(&Plan::default(), class, serve)
}

fn torture_with(plan: &Plan, class: Class, serve: fn(&mut BufReader<TcpStream>)) -> Ledger {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
    let address = listener.local_addr().expect("an address");
    let (done, all_done) = sync_channel(1);
    thread::spawn(move || accept(&listener, serve, &done));
    let population = start(plan, class, address);
    all_done.recv().expect("three connections");
    population.finish()
}

/// Goes on until the process ends: a client that is asked to end may just have connected again.
fn accept(listener: &TcpListener, serve: fn(&mut BufReader<TcpStream>), done: &SyncSender<()>) {
    for (stream, number) in listener.incoming().zip(1..) {
        serve(&mut BufReader::new(stream.expect("a connection")));
        // The fourth shows that the client has seen the end of the third.
        if number == 4 {
            done.send(()).expect("the test waits for it");
        }
    }
}

fn start(plan: &Plan, class: Class, http: SocketAddr) -> Population {
    let plan = Plan { crowd: Crowd::nobody().with(class, 1), ..plan.clone() };
    Population::start(&plan, &Target { http, http2: Some(http), contract: Contract::Full })
}

/// Returns an address at which nobody listens.
fn nobody() -> SocketAddr {
    (Ipv4Addr::LOCALHOST, worksong_testkit::free_port()).into()
}

#[track_caller]
fn assert_only(ledger: &Ledger, class: Class, fate: Fate) {
    let tally = ledger.class(class);
    assert!(tally.fate(fate) >= 3, "{tally:?}");
    let others = Fate::ALL.into_iter().filter(|other| ![fate, Fate::Served].contains(other));
    assert_eq!(others.map(|other| tally.fate(other)).sum::<u64>(), 0, "{tally:?}");
    assert_eq!(tally.failed(), ledger.failures().len() as u64);
    // An answer that is whole ends nothing, or the server has said that it does.
    if fate.is_failure() && fate != Fate::WrongStatus {
        assert_eq!(tally.ending(Ending::Lost), tally.opened, "{tally:?}");
    }
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
    let plan = Plan { patience: Duration::from_secs(1), ..Plan::default() };
    // Waits until the client does not.
    let ledger = torture_with(&plan, Class::KeepAlive, |stream| while request(stream).is_some() {});
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
fn every_request_of_a_pipeline_has_a_fate() {
    static RECEIVED: AtomicU64 = AtomicU64::new(0);
    let ledger = torture(Class::Pipelined, |stream| {
        let word = request(stream).expect("a request");
        stream.get_mut().write_all(right(&word).as_bytes()).expect("written");
        stream.get_ref().shutdown(Shutdown::Write).expect("it is open");
        let others = std::iter::from_fn(|| request(stream)).count() as u64;
        RECEIVED.fetch_add(1 + others, Ordering::SeqCst);
    });
    let tally = ledger.class(Class::Pipelined);
    // Each pipeline is of two or more: one is served, the next one finds the end.
    let fates = [Fate::Served, Fate::ClosedBefore].map(|fate| tally.fate(fate));
    assert_eq!(fates, [tally.opened; 2], "{tally:?}");
    assert_eq!(fates[0] + fates[1] + tally.fate(Fate::Unanswered), tally.requests(), "{tally:?}");
    assert!(tally.fate(Fate::Unanswered) > 0, "{tally:?}");
    assert_eq!(tally.failed(), ledger.failures().len() as u64);
    worksong_testkit::eventually("the server's count of what was sent", || {
        (RECEIVED.load(Ordering::SeqCst) == tally.requests()).then_some(())
    });
}

#[test]
fn where_nobody_listens_clients_are_refused() {
    let population = start(&Plan::default(), Class::Fresh, nobody());
    worksong_testkit::eventually("three refusals", || {
        (population.ledger().class(Class::Fresh).fate(Fate::Refused) >= 3).then_some(())
    });
    assert_only(&population.finish(), Class::Fresh, Fate::Refused);
}

#[test]
fn a_stream_that_ends_early_is_told_from_a_wrong_one() {
    const HEAD: &[u8] = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n0\n\r\n";
    let closed = torture(Class::Stream, |stream| {
        request(stream);
        stream.get_mut().write_all(HEAD).expect("written");
    });
    assert_only(&closed, Class::Stream, Fate::ClosedWithin);
    let short = torture(Class::Stream, |stream| {
        request(stream);
        stream.get_mut().write_all(&[HEAD, b"0\r\n\r\n"].concat()).expect("written");
    });
    assert_only(&short, Class::Stream, Fate::WrongAnswer);
    let disordered = torture(Class::Stream, |stream| {
        request(stream);
        stream.get_mut().write_all(&[HEAD, b"2\r\n2\n\r\n"].concat()).expect("written");
    });
    assert_only(&disordered, Class::Stream, Fate::WrongAnswer);
}

#[test]
fn an_upload_that_arrives_in_part_is_told_from_one_that_is_reset() {
    let reset = torture(Class::Upload, |stream| {
        request(stream);
        reset(stream.get_ref());
    });
    assert_only(&reset, Class::Upload, Fate::ResetBefore);
    let partial = torture(Class::Upload, |stream| {
        request(stream);
        std::io::copy(&mut stream.take(UPLOAD), &mut std::io::sink()).expect("it sends them");
        let digest = "0".repeat(64);
        stream.get_mut().write_all(right(&digest).as_bytes()).expect("written");
    });
    assert_only(&partial, Class::Upload, Fate::WrongAnswer);
}

/// How many bytes an upload has.
const UPLOAD: u64 = 10_000_000;

#[test]
fn failures_belong_to_what_was_done_then() {
    let population = start(&Plan::default(), Class::Fresh, nobody());
    let failures = |count| {
        worksong_testkit::eventually("refusals", || {
            Some(population.ledger().failures().to_vec()).filter(|failures| failures.len() >= count)
        })
    };
    let before = failures(3).len();
    population.begin("the second act");
    let after = failures(before + 3);
    let (first, second) = after.split_at(before);
    // One may have come between the two moments in which both were looked at.
    assert!(first.iter().all(|failure| failure.during.starts_with("the start, ")), "{first:?}");
    assert!(second[1..].iter().all(|failure| failure.during.starts_with("the second act, ")), "{second:?}");
}
