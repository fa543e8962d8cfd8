//! A client that opens one new connection after another, without a pause.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};

use crate::http::{self, Address, Response};
use crate::patience::{eventually, patience};

/// A client that runs beside a test; [`finish_without_failure`](Load::finish_without_failure) is what it is for.
///
/// Dropping it ends the client after the request that it is at.
#[derive(Debug)]
pub struct Load {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct Shared {
    stop: AtomicBool,
    answers: AtomicUsize,
    pids: Mutex<BTreeSet<u32>>,
    failures: Mutex<Vec<String>>,
}

impl Load {
    /// Starts it; `pid_of` reads from an answer who gave it, as [`Response::json_pid`] does for many fixtures.
    #[must_use]
    pub fn start(address: impl Into<Address>, pid_of: fn(&Response) -> u32) -> Self {
        let shared = Arc::new(Shared::default());
        let (client, address) = (Arc::clone(&shared), address.into());
        let thread = thread::spawn(move || {
            while !client.stop.load(Ordering::Relaxed) {
                match http::get(address.clone(), "/") {
                    Ok(answer) if answer.status == 200 => {
                        lock(&client.pids).insert(pid_of(&answer));
                        client.answers.fetch_add(1, Ordering::Relaxed);
                    }
                    Ok(answer) => lock(&client.failures).push(format!("status {}", answer.status)),
                    Err(error) => lock(&client.failures).push(error.to_string()),
                }
            }
        });
        Self { shared, thread: Some(thread) }
    }

    /// Returns how many connections were answered until now.
    #[must_use]
    pub fn answers(&self) -> usize {
        self.shared.answers.load(Ordering::Relaxed)
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
    pub fn finish_without_failure(mut self) -> BTreeSet<u32> {
        self.shared.stop.store(true, Ordering::Relaxed);
        let thread = self.thread.take().expect("only this function takes it");
        thread.join().expect("the client goes on whatever it gets");
        let (failures, answers) = (lock(&self.shared.failures), self.answers());
        assert!(failures.is_empty(), "{} failures beside {answers} answers: {failures:?}", failures.len());
        lock(&self.shared.pids).clone()
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
