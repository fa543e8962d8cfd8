//! The crowd of clients, in a thread of its own.

use std::rc::Rc;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use tokio::runtime;
use tokio::sync::watch;
use tokio::task::LocalSet;

use crate::class::{Class, Crowd};
use crate::client::{self, Client};
use crate::ledger::{Book, Ledger};
use crate::random::Random;
use crate::target::{Contract, Target};

/// What the clients do.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Where their pauses and sizes come from.
    pub seed: u64,
    /// Who they are.
    pub crowd: Crowd,
    /// The longest time that a client waits for a connection, or for an answer that takes no time; default 20 s.
    pub patience: Duration,
}

impl Default for Plan {
    fn default() -> Self {
        Self { seed: 1, crowd: Crowd::default(), patience: Duration::from_secs(20) }
    }
}

/// A running crowd; dropping it ends it, after the requests that have begun.
#[derive(Debug)]
pub struct Population {
    book: Arc<Book>,
    stop: watch::Sender<bool>,
    thread: Option<JoinHandle<()>>,
}

impl Population {
    /// Starts the clients of a plan.
    ///
    /// # Panics
    ///
    /// When the system gives no thread.
    #[must_use = "dropping it ends the clients"]
    pub fn start(plan: &Plan, target: &Target) -> Self {
        let crowd = supported(plan.crowd.clone(), target);
        if crowd.iter().any(|(class, count)| class == Class::Upload && count > 0) {
            client::prepare_uploads();
        }
        let book = Arc::new(Book::new());
        let (stop, stopped) = watch::channel(false);
        let clients = Clients { seed: plan.seed, crowd, patience: plan.patience, target: target.clone() };
        let thread = std::thread::Builder::new().name("clients".to_owned()).spawn({
            let book = Arc::clone(&book);
            move || clients.run(&book, &stopped)
        });
        let thread = Some(thread.expect("invariant: the system gives a thread"));
        Self { book, stop, thread }
    }

    /// Says what begins to be done to the system: failures from now on are attributed to it.
    pub fn begin(&self, what: impl Into<String>) {
        self.book.begin(what.into());
    }

    /// Waits until a connection that is opened after this moment is served; false when that takes too long.
    #[must_use]
    pub fn wait_served(&self, moment: Instant, patience: Duration) -> bool {
        self.book.wait_served(moment, patience)
    }

    /// Returns what is written down until now.
    #[must_use]
    pub fn ledger(&self) -> Ledger {
        self.book.ledger()
    }

    /// Lets every client finish the request that it has begun, and returns what happened to all of them.
    #[must_use]
    pub fn finish(mut self) -> Ledger {
        self.end();
        self.book.ledger()
    }

    fn end(&mut self) {
        self.stop.send_replace(true);
        if let Some(thread) = self.thread.take() {
            // A panic of the clients has been printed; what they wrote down is still there.
            let _panicked = thread.join();
        }
    }
}

impl Drop for Population {
    fn drop(&mut self) {
        self.end();
    }
}

/// Leaves out the classes that the server has nothing for.
fn supported(crowd: Crowd, target: &Target) -> Crowd {
    let crowd = match target.contract {
        Contract::Full => crowd,
        Contract::Any { .. } => {
            crowd.only(&[Class::Fresh, Class::KeepAlive, Class::Pipelined, Class::SlowReader, Class::Silent])
        }
    };
    if target.http2.is_some() { crowd } else { crowd.with(Class::Http2, 0) }
}

/// What the thread needs.
struct Clients {
    seed: u64,
    crowd: Crowd,
    patience: Duration,
    target: Target,
}

impl Clients {
    fn run(self, book: &Arc<Book>, stop: &watch::Receiver<bool>) {
        let runtime = runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.expect("invariant: the system gives an epoll descriptor");
        let target = Rc::new(self.target);
        let tasks = LocalSet::new();
        for (class, count) in self.crowd.iter() {
            for number in 0..count {
                let client = Client {
                    class,
                    random: Random::new(self.seed, (class as u64) << 32 | number as u64),
                    target: Rc::clone(&target),
                    book: Arc::clone(book),
                    stop: stop.clone(),
                    patience: self.patience,
                };
                tasks.spawn_local(client.run());
            }
        }
        // Ends when all have: each wait of a client has its deadline.
        runtime.block_on(tasks);
    }
}
