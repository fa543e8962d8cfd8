//! A client that opens one new connection after another, without a pause.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};

use worksong_testkit::http::{self, Address, Response};
use worksong_testkit::{eventually, patience};

/// The running client.
pub(crate) struct Load {
    shared: Arc<Shared>,
    thread: JoinHandle<()>,
}

#[derive(Default)]
struct Shared {
    stop: AtomicBool,
    answers: AtomicUsize,
    pids: Mutex<BTreeSet<u32>>,
    failures: Mutex<Vec<String>>,
}

impl Load {
    /// Starts it; `pid_of` reads from an answer who gave it.
    pub(crate) fn start(address: impl Into<Address>, pid_of: fn(&Response) -> u32) -> Self {
        let shared = Arc::new(Shared::default());
        let (client, address) = (Arc::clone(&shared), address.into());
        let thread = thread::spawn(move || {
            while !client.stop.load(Ordering::Relaxed) {
                match http::get(address.clone(), "/load") {
                    Ok(answer) if answer.status == 200 => {
                        lock(&client.pids).insert(pid_of(&answer));
                        client.answers.fetch_add(1, Ordering::Relaxed);
                    }
                    Ok(answer) => lock(&client.failures).push(format!("status {}", answer.status)),
                    Err(error) => lock(&client.failures).push(error.to_string()),
                }
            }
        });
        Self { shared, thread }
    }

    /// Waits for so many more answers.
    pub(crate) fn wait_answers(&self, count: usize) {
        let enough = self.shared.answers.load(Ordering::Relaxed) + count;
        eventually(&format!("{count} answers within {:?}", patience()), || {
            (self.shared.answers.load(Ordering::Relaxed) >= enough).then_some(())
        });
    }

    /// Ends it after its last answer, and returns who answered; not one connection may have failed.
    #[track_caller]
    pub(crate) fn finish_without_failure(self) -> BTreeSet<u32> {
        self.shared.stop.store(true, Ordering::Relaxed);
        self.thread.join().expect("the client goes on whatever it gets");
        let failures = lock(&self.shared.failures);
        let answers = self.shared.answers.load(Ordering::Relaxed);
        assert!(failures.is_empty(), "{} failures beside {answers} answers: {failures:?}", failures.len());
        lock(&self.shared.pids).clone()
    }
}

fn lock<T>(value: &Mutex<T>) -> MutexGuard<'_, T> {
    value.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Reads the answer of the Node and Python fixtures.
pub(crate) fn json_pid(answer: &Response) -> u32 {
    answer.json()["pid"].as_u64().and_then(|pid| u32::try_from(pid).ok()).expect("an answer has a pid")
}
