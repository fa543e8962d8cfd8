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

#[test]
fn closed_loop_counts_answers_and_names_who_gave_them() {
    let mut load = Load::new(serve(GOOD, true), Mode::Close, Arrival::Closed, 4).unwrap();
    let sample = load.drive(SHORT).unwrap();
    assert!(sample.completed > 10, "{sample:?}");
    assert_eq!(sample.failed, 0, "{:?}", sample.first_failure);
    assert_eq!(sample.answers, BTreeMap::from([(42, sample.completed)]));
    assert_eq!(sample.latencies_us.len() as u64, sample.completed);
    assert!(sample.latencies_us.is_sorted());
}

#[test]
fn keep_alive_uses_the_same_connections_again() {
    let mut load = Load::new(serve(GOOD, false), Mode::KeepAlive, Arrival::Closed, 2).unwrap();
    let sample = load.drive(SHORT).unwrap();
    assert!(sample.completed > 10, "{sample:?}");
    assert_eq!(sample.failed, 0, "{:?}", sample.first_failure);
}

#[test]
fn open_loop_keeps_to_its_rate() {
    let arrival = Arrival::Open { per_second: 500 };
    let mut load = Load::new(serve(GOOD, true), Mode::Close, arrival, 64).unwrap();
    let sample = load.drive(Duration::from_millis(500)).unwrap();
    assert!((200..=251).contains(&sample.completed), "{}", sample.completed);
}

#[test]
fn an_open_loop_that_falls_behind_says_so_in_its_latencies() {
    let mut load = Load::new(serve(GOOD, true), Mode::Close, Arrival::Open { per_second: 1000 }, 64).unwrap();
    load.due = Instant::now().checked_sub(SHORT).unwrap();
    let sample = load.drive(SHORT).unwrap();
    let slowest = sample.latencies_us.last().copied().unwrap();
    assert!(slowest > 100_000, "the requests that were due before the start waited {slowest} us");
}

#[test]
fn wrong_answers_end_the_run() {
    let wrong = "HTTP/1.1 500 Internal Server Error\r\nContent-Length: 9\r\n\r\nhello 42\n";
    let error = Load::new(serve(wrong, true), Mode::Close, Arrival::Closed, 4)
        .unwrap()
        .drive(SHORT * 10)
        .unwrap_err();
    assert!(error.to_string().contains("the status is not 200"), "{error}");
}

#[test]
fn a_cut_answer_is_a_failure() {
    let cut = "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhello";
    let error =
        Load::new(serve(cut, true), Mode::Close, Arrival::Closed, 4).unwrap().drive(SHORT * 10).unwrap_err();
    assert!(error.to_string().contains("before a whole answer"), "{error}");
}

#[test]
fn a_port_without_a_server_is_a_failure() {
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let error = Load::new(port, Mode::Close, Arrival::Closed, 1).unwrap().drive(SHORT).unwrap_err();
    assert!(error.to_string().contains("refused"), "{error}");
}
