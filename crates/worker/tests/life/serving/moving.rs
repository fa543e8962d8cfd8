//! Connections that move all the time, under clients that never pause.

use std::io::{BufRead, BufReader, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use tokio::runtime::{Builder, Runtime};
use tokio::time::timeout;
use worksong_channel::message::HandleAnswer;
use worksong_channel::pair;
use worksong_worker::Worker;

use super::Served;
use crate::primary::Primary;

const CLIENTS: usize = 4;
const MOVES: usize = 1000;

/// Asks one question after the other on one connection, and now and then two at once or one in parts. Returns how many
/// were answered; each got its own answer.
fn never_pause(stream: TcpStream, stop: Arc<AtomicBool>) -> JoinHandle<u64> {
    stream.set_nodelay(true).expect("a socket");
    stream.set_read_timeout(Some(Duration::from_secs(10))).expect("a socket");
    thread::spawn(move || {
        let mut answers = BufReader::new(stream.try_clone().expect("a descriptor"));
        let mut asked = 0;
        while !stop.load(Ordering::Relaxed) {
            let one = format!("GET /echo/{asked} HTTP/1.1\r\nhost: x\r\n\r\n");
            let two = format!("GET /echo/{} HTTP/1.1\r\nhost: x\r\n\r\n", asked + 1);
            let write = |bytes: &str| { &stream }.write_all(bytes.as_bytes()).expect("open");
            match asked % 7 {
                0 => write(&(one + &two)),
                3 => {
                    write(&one);
                    write(&two[..20]);
                    write(&two[20..]);
                }
                _ => {
                    write(&one);
                    expect(&mut answers, asked);
                    write(&two);
                    expect(&mut answers, asked + 1);
                    asked += 2;
                    continue;
                }
            }
            expect(&mut answers, asked);
            expect(&mut answers, asked + 1);
            asked += 2;
        }
        asked
    })
}

fn expect(answers: &mut impl BufRead, number: u64) {
    let mut length = 0;
    loop {
        let mut line = String::new();
        let count = answers.read_line(&mut line).unwrap_or_else(|error| panic!("question {number}: {error}"));
        assert!(count > 0, "the connection was closed before answer {number}");
        match line.strip_prefix("content-length: ") {
            Some(text) => length = text.trim().parse().expect("a number"),
            None if line == "\r\n" => break,
            None => {}
        }
    }
    let mut body = vec![0; length];
    answers.read_exact(&mut body).expect("a body");
    assert_eq!(String::from_utf8(body).expect("text"), number.to_string());
}

#[test]
fn a_thousand_moves_lose_nothing() {
    move_connections(&Builder::new_current_thread().enable_all().build().expect("a runtime"));
}

#[test]
fn a_thousand_moves_between_threads_lose_nothing() {
    move_connections(&Builder::new_multi_thread().worker_threads(3).enable_all().build().expect("a runtime"));
}

fn move_connections(runtime: &Runtime) {
    runtime.block_on(async {
        let (mut from, mut to) = (start().await, start().await);
        let stop = Arc::new(AtomicBool::new(false));
        let mut clients = Vec::new();
        for seq in 0..CLIENTS {
            let client = from.primary.hand_over("k", seq as u64);
            from.taken(seq as u64).await;
            clients.push(never_pause(client, Arc::clone(&stop)));
        }
        from.next_seq = CLIENTS as u64;
        let moves = async {
            let mut moves = 0;
            while moves < MOVES {
                match from.give(moves % 2 == 0).await {
                    Ok(connection) => {
                        from.acknowledge(HandleAnswer::Ack);
                        to.hand_over(connection).await;
                        moves += 1;
                    }
                    Err(0) => std::mem::swap(&mut from, &mut to),
                    // All of them are busy; let them become idle.
                    Err(_) => tokio::task::yield_now().await,
                }
            }
        };
        timeout(Duration::from_mins(1), moves).await.expect("they move");
        stop.store(true, Ordering::Relaxed);
        let finished = tokio::task::spawn_blocking(|| clients.into_iter().map(JoinHandle::join).collect());
        let finished: Vec<_> = finished.await.expect("no panic");
        for answered in finished {
            let answered = answered.expect("every question got its answer");
            assert!(answered > 10, "{answered} answers to a client that never pauses");
        }
    });
}

async fn start() -> Served {
    let (ours, theirs) = pair().expect("a channel");
    let worker = Worker::on_channel(theirs, 1).expect("a worker");
    worker.outlive_primary();
    Served::start(Primary::new(ours), &worker).await
}
