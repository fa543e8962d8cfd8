use std::io::{Read, Write};
use std::net::TcpListener;
use std::thread;

use super::*;

/// Answers every request of every connection with `answer`, closing after each when told; ends with the client's
/// last connection.
fn serve(answer: &'static str, close: bool) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            thread::spawn(move || {
                let mut buffer = [0; 512];
                while stream.read(&mut buffer).is_ok_and(|count| count > 0) {
                    if stream.write_all(answer.as_bytes()).is_err() || close {
                        return;
                    }
                }
            });
        }
    });
    port
}

const GOOD: &str = "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhello 42\n";
const SHORT: Duration = Duration::from_millis(200);

fn closed(port: u16, mode: Mode, connections: usize) -> Load {
    Load::new(port, Shape::closed(mode, connections)).unwrap()
}

#[test]
fn closed_loop_counts_answers_and_names_who_gave_them() {
    let mut load = closed(serve(GOOD, true), Mode::Close, 4);
    let sample = load.drive(SHORT).unwrap();
    assert!(sample.completed > 10, "{sample:?}");
    assert_eq!(sample.failed, 0, "{:?}", sample.first_failure);
    assert_eq!(sample.answers, BTreeMap::from([(42, sample.completed)]));
    assert_eq!(sample.latencies_us.len() as u64, sample.completed);
    assert!(sample.latencies_us.is_sorted());
}

#[test]
fn keep_alive_uses_the_same_connections_again() {
    let mut load = closed(serve(GOOD, false), Mode::KeepAlive, 2);
    let sample = load.drive(SHORT).unwrap();
    assert!(sample.completed > 10, "{sample:?}");
    assert_eq!(sample.failed, 0, "{:?}", sample.first_failure);
}

#[test]
fn connections_in_turn_are_opened_when_those_before_have_an_answer() {
    let in_turn = Shape { opening: Opening::InTurn, ..Shape::closed(Mode::KeepAlive, 3) };
    let open = |load: &Load| load.slots.iter().flatten().count();
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut load = Load::new(silent.local_addr().unwrap().port(), in_turn).unwrap();
    load.drive(SHORT).unwrap_err();
    assert_eq!(open(&load), 1);
    let mut load = Load::new(serve(GOOD, false), in_turn).unwrap();
    load.drive(SHORT).unwrap();
    assert_eq!(open(&load), 3);
}

#[test]
fn open_loop_keeps_to_its_rate() {
    let mut load = Load::new(serve(GOOD, true), Shape::open(500, Ask::Hello)).unwrap();
    let sample = load.drive(Duration::from_millis(500)).unwrap();
    assert!((200..=251).contains(&sample.completed), "{}", sample.completed);
}

#[test]
fn an_open_loop_that_falls_behind_says_so_in_its_latencies() {
    let mut load = Load::new(serve(GOOD, true), Shape::open(1000, Ask::Hello)).unwrap();
    load.due = Instant::now().checked_sub(SHORT).unwrap();
    let sample = load.drive(SHORT).unwrap();
    let slowest = sample.latencies_us.last().copied().unwrap();
    assert!(slowest > 100_000, "the requests that were due before the start waited {slowest} us");
}

#[test]
fn wrong_answers_end_the_run() {
    let wrong = "HTTP/1.1 500 Internal Server Error\r\nContent-Length: 9\r\n\r\nhello 42\n";
    let error = closed(serve(wrong, true), Mode::Close, 4).drive(SHORT * 10).unwrap_err();
    assert!(error.to_string().contains("the status is not 200"), "{error}");
}

#[test]
fn a_cut_answer_is_a_failure() {
    let cut = "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhello";
    let error = closed(serve(cut, true), Mode::Close, 4).drive(SHORT * 10).unwrap_err();
    assert!(error.to_string().contains("before a whole answer"), "{error}");
}

#[test]
fn a_port_without_a_server_is_a_failure() {
    // Nobody is given the first port.
    let error = closed(1, Mode::Close, 1).drive(SHORT).unwrap_err();
    assert!(error.to_string().contains("refused"), "{error}");
}

#[test]
fn a_number_of_requests_is_kept_to() {
    let sample = closed(serve(GOOD, true), Mode::Close, 8).make(100).unwrap();
    assert_eq!((sample.completed, sample.failed), (100, 0), "{:?}", sample.first_failure);
    let sample = closed(serve(GOOD, false), Mode::KeepAlive, 8).make(100).unwrap();
    assert_eq!((sample.completed, sample.failed), (100, 0), "{:?}", sample.first_failure);
}

#[test]
fn held_connections_stay_open_after_their_answer() {
    let mut load = closed(serve(GOOD, false), Mode::Hold, 20);
    let sample = load.make(20).unwrap();
    assert_eq!((sample.completed, sample.failed), (20, 0), "{:?}", sample.first_failure);
    assert!(load.slots.iter().flatten().all(Connection::is_held));
    assert_eq!(load.slots.iter().flatten().count(), 20);
}

#[test]
fn a_sweep_says_who_answered_each_key() {
    let shape = Shape { ask: Ask::Sweep { first: 7 }, ..Shape::closed(Mode::Close, 4) };
    let mut by_key = Load::new(serve(GOOD, true), shape).unwrap().make(50).unwrap().by_key;
    by_key.sort_unstable();
    assert_eq!(by_key, (7..57).map(|key| (key, 42)).collect::<Vec<_>>());
}

#[test]
fn many_sources_are_addresses_of_their_own() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let seen = thread::spawn(move || {
        let peers = (0..20).map(|_| {
            let (mut stream, peer) = listener.accept().unwrap();
            let _request = stream.read(&mut [0; 512]).unwrap();
            stream.write_all(GOOD.as_bytes()).unwrap();
            peer.ip()
        });
        peers.collect::<std::collections::BTreeSet<_>>()
    });
    let shape = Shape { sources: Sources::Many, ..Shape::closed(Mode::Close, 4) };
    let sample = Load::new(port, shape).unwrap().make(20).unwrap();
    assert_eq!(sample.failed, 0, "{:?}", sample.first_failure);
    assert_eq!(seen.join().unwrap().len(), 20);
}

#[test]
fn an_end_that_waits_leaves_out_no_slow_answer() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let (over, is_over) = std::sync::mpsc::sync_channel(1);
    thread::spawn(move || {
        // Nothing is answered before the time of the run is over.
        let _over = is_over.recv();
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let _request = stream.read(&mut [0; 512]).unwrap();
            stream.write_all(GOOD.as_bytes()).unwrap();
        }
    });
    let mut load = Load::new(port, Shape::open(100, Ask::Hello)).unwrap();
    let timer = thread::spawn(move || {
        let (_keep, never) = std::sync::mpsc::sync_channel::<()>(1);
        let _timeout = never.recv_timeout(SHORT * 2);
        over.send(()).unwrap();
    });
    let sample = load.drive_to_end(SHORT).unwrap();
    timer.join().unwrap();
    assert_eq!(sample.failed, 0, "{:?}", sample.first_failure);
    assert_eq!(sample.completed, sample.latencies_us.len() as u64);
    assert!((15..=21).contains(&sample.completed), "{}", sample.completed);
    assert!(sample.latencies_us[0] > 150_000, "{:?}", sample.latencies_us);
}
