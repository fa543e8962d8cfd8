//! Clients that never pause: one new connection after another, or request after request on connections that stay.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use crate::http::{self, Address, Response};
use crate::patience::{eventually, patience};

/// A client that runs beside a test; [`finish_without_failure`](Load::finish_without_failure) is what it is for.
///
/// Dropping it ends the client after the request that it is at.
#[derive(Debug)]
pub struct Load {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct Shared {
    stop: AtomicBool,
    answers: AtomicUsize,
    /// The same of each connection that stays open.
    of_each: Vec<AtomicUsize>,
    pids: Mutex<BTreeSet<u32>>,
    failures: Mutex<Vec<Failure>>,
}

#[derive(Debug)]
enum Failure {
    Status(#[expect(dead_code, reason = "for the reader of a failed test")] u16),
    Exchange(http::Error),
}

impl Load {
    /// Starts it; `pid_of` reads from an answer who gave it, as [`Response::json_pid`] does for many fixtures.
    #[must_use]
    pub fn start(address: impl Into<Address>, pid_of: fn(&Response) -> u32) -> Self {
        Self::start_slowly(address, pid_of, Duration::ZERO)
    }

    /// Starts one that rests so long after each connection, to leave the machine to others.
    #[must_use]
    pub fn start_slowly(address: impl Into<Address>, pid_of: fn(&Response) -> u32, rest: Duration) -> Self {
        let shared = Arc::new(Shared::default());
        let (client, address) = (Arc::clone(&shared), address.into());
        let thread = thread::spawn(move || {
            while !client.stop.load(Ordering::Relaxed) {
                if !rest.is_zero() {
                    thread::park_timeout(rest);
                }
                client.note(http::get(address.clone(), "/"), pid_of);
            }
        });
        Self { shared, threads: vec![thread] }
    }

    /// Starts a client with so many connections that stay open: each sends a request when the one before it is answered.
    /// A connection that ends is a failure, also between two requests.
    #[must_use]
    pub fn keep_alive(address: impl Into<Address>, connections: usize, pid_of: fn(&Response) -> u32) -> Self {
        let of_each = (0..connections).map(|_| AtomicUsize::new(0)).collect();
        let shared = Arc::new(Shared { of_each, ..Shared::default() });
        let address = address.into();
        let client = |number: usize| {
            let (client, address) = (Arc::clone(&shared), address.clone());
            thread::spawn(move || {
                let mut connection = match http::Connection::open(address) {
                    Ok(connection) => connection,
                    Err(error) => return lock(&client.failures).push(Failure::Exchange(error)),
                };
                while !client.stop.load(Ordering::Relaxed) {
                    if !client.note(connection.request("GET", "/", &[], b""), pid_of) {
                        return;
                    }
                    client.of_each[number].fetch_add(1, Ordering::Relaxed);
                }
            })
        };
        let threads = (0..connections).map(client).collect();
        Self { shared, threads }
    }

    /// Returns how many connections were answered until now.
    #[must_use]
    pub fn answers(&self) -> usize {
        self.shared.answers.load(Ordering::Relaxed)
    }

    /// Waits until each of these processes has given an answer.
    #[track_caller]
    pub fn wait_answers_of(&self, pids: &BTreeSet<u32>) {
        eventually(&format!("answers of all of {pids:?}"), || {
            pids.is_subset(&lock(&self.shared.pids)).then_some(())
        });
    }

    /// Waits for one more answer on each of the connections that stay open: all of them are at workers then.
    #[track_caller]
    pub fn wait_answers_on_each(&self) {
        let count = || self.shared.of_each.iter().map(|one| one.load(Ordering::Relaxed));
        let before: Vec<usize> = count().collect();
        eventually("an answer on each connection", || {
            count().zip(&before).all(|(now, before)| now > *before).then_some(())
        });
    }

    /// Waits for so many more answers.
    #[track_caller]
    pub fn wait_answers(&self, count: usize) {
        let enough = self.answers() + count;
        eventually(&format!("{count} answers within {:?}", patience()), || {
            (self.answers() >= enough).then_some(())
        });
    }

    /// Ends it after its last answer, and returns who answered; not one connection may have failed.
    #[expect(clippy::must_use_candidate, reason = "many only want the assertion")]
    #[track_caller]
    pub fn finish_without_failure(self) -> BTreeSet<u32> {
        self.finish(|_any| true)
    }

    /// Ends it after its last answer, and returns who answered; each connection was opened, but workers may have died
    /// with it.
    #[expect(clippy::must_use_candidate, reason = "many only want the assertion")]
    #[track_caller]
    pub fn finish_without_refusal(self) -> BTreeSet<u32> {
        self.finish(|failure| {
            !matches!(failure, Failure::Exchange(http::Error::NoAnswer(_) | http::Error::Cut { .. }))
        })
    }

    #[track_caller]
    fn finish(mut self, counts: impl Fn(&Failure) -> bool) -> BTreeSet<u32> {
        self.shared.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            thread.join().expect("the client goes on whatever it gets");
        }
        let (mut failures, answers) = (lock(&self.shared.failures), self.answers());
        failures.retain(counts);
        assert!(failures.is_empty(), "{} failures beside {answers} answers: {failures:?}", failures.len());
        lock(&self.shared.pids).clone()
    }
}

impl Shared {
    /// Counts the end of a request; returns true when it was a good one.
    fn note(&self, answer: Result<Response, http::Error>, pid_of: fn(&Response) -> u32) -> bool {
        let failure = match answer {
            Ok(answer) if answer.status == 200 => {
                lock(&self.pids).insert(pid_of(&answer));
                self.answers.fetch_add(1, Ordering::Relaxed);
                return true;
            }
            Ok(answer) => Failure::Status(answer.status),
            Err(error) => Failure::Exchange(error),
        };
        lock(&self.failures).push(failure);
        false
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
    }
}

fn lock<T>(value: &Mutex<T>) -> MutexGuard<'_, T> {
    value.lock().unwrap_or_else(PoisonError::into_inner)
}
