//! The task that owns what is known of the workers' loads, and answers one question after the other.

use std::collections::BTreeMap;
use std::time::Instant;

use tokio::sync::{mpsc, oneshot};
use tokio::task::spawn_blocking;
use worksong_engine::engine::{App, Place};

use crate::assign::Loads;
use crate::connections::{self, Found};

/// How many questions may wait; there are no more connections that could ask.
const QUESTIONS: usize = 64;

/// The way to ask; the task ends with the last of these.
#[derive(Clone, Debug)]
pub(crate) struct Clerk(mpsc::Sender<Question>);

/// Where a client is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Assigned {
    pub(crate) place: Place,
    /// How many connections it had, with those of clients that are on their way.
    pub(crate) connections: u64,
}

/// An app, and what is known of its workers.
#[derive(Debug)]
struct Desk {
    app: App,
    loads: Loads,
    /// The places that the loads are about.
    known: Vec<Place>,
}

#[derive(Debug)]
struct Question {
    /// The index of the app.
    app: usize,
    assigned: oneshot::Sender<Option<Assigned>>,
}

impl Clerk {
    /// Starts the task on the current runtime.
    pub(crate) fn start(apps: Vec<App>) -> Self {
        let (questions, inbox) = mpsc::channel(QUESTIONS);
        tokio::spawn(run(apps, inbox));
        Self(questions)
    }

    /// Returns where the next client of an app is sent; `None` when no worker in rotation listens at a port of its own.
    pub(crate) async fn assign(&self, app: usize) -> Option<Assigned> {
        let (assigned, answer) = oneshot::channel();
        self.0.send(Question { app, assigned }).await.ok()?;
        answer.await.ok()?
    }
}

async fn run(apps: Vec<App>, mut questions: mpsc::Receiver<Question>) {
    let mut desks: Vec<Desk> = apps.into_iter().map(Desk::new).collect();
    while let Some(Question { app, assigned }) = questions.recv().await {
        let answer = match desks.get_mut(app) {
            Some(desk) => desk.assign().await,
            None => None,
        };
        // Who asked may have gone.
        let _unheard = assigned.send(answer);
    }
}

impl Desk {
    fn new(app: App) -> Self {
        Self { app, loads: Loads::default(), known: Vec::new() }
    }

    async fn assign(&mut self) -> Option<Assigned> {
        let places = self.app.places().await;
        let ports: Vec<u16> = places.iter().map(|place| place.port).collect();
        // A new worker may not listen yet, although its predecessor did at the same port.
        if self.loads.is_old(Instant::now()) || places != self.known {
            let all = found_at(ports.clone()).await;
            self.loads.count(&ports, &all, Instant::now());
            self.known.clone_from(&places);
        }
        let (port, connections) = self.loads.choose(&ports, Instant::now())?;
        let place = places.into_iter().find(|place| place.port == port)?;
        Some(Assigned { place, connections })
    }
}

async fn found_at(ports: Vec<u16>) -> BTreeMap<u16, Found> {
    let asked = ports.clone();
    let all = spawn_blocking(move || connections::count(&asked)).await;
    all.ok().and_then(Result::ok).unwrap_or_else(|| {
        // Where the kernel does not tell, as in some containers, the clients that were sent are all that counts.
        let unseen = Found { listens: true, connections: 0 };
        ports.into_iter().map(|port| (port, unseen)).collect()
    })
}
