//! The task that owns what is known of the workers' loads, and answers one question after the other.

use std::collections::BTreeMap;
use std::time::Instant;

use tokio::sync::{mpsc, oneshot};
use tokio::task::spawn_blocking;
use worksong_engine::engine::{App, Place};

use crate::assign::Loads;
use crate::connections;

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

    /// Returns where the next client of an app is sent; `None` when no worker in rotation has a port of its own.
    pub(crate) async fn assign(&self, app: usize) -> Option<Assigned> {
        let (assigned, answer) = oneshot::channel();
        self.0.send(Question { app, assigned }).await.ok()?;
        answer.await.ok()?
    }
}

async fn run(apps: Vec<App>, mut questions: mpsc::Receiver<Question>) {
    let mut desks: Vec<(App, Loads)> = apps.into_iter().map(|app| (app, Loads::default())).collect();
    while let Some(Question { app, assigned }) = questions.recv().await {
        let answer = match desks.get_mut(app) {
            Some((app, loads)) => assign(app, loads).await,
            None => None,
        };
        // Who asked may have gone.
        let _unheard = assigned.send(answer);
    }
}

async fn assign(app: &App, loads: &mut Loads) -> Option<Assigned> {
    let places = app.places().await;
    let ports: Vec<u16> = places.iter().map(|place| place.port).collect();
    if loads.is_old(Instant::now()) && !ports.is_empty() {
        let asked = ports.clone();
        // Where the kernel does not tell, as in some containers, the clients that were sent are all that counts.
        let counts = spawn_blocking(move || connections::count(&asked).unwrap_or_default()).await;
        loads.count(&ports, &counts.unwrap_or_else(|_panicked| BTreeMap::new()), Instant::now());
    }
    let (port, connections) = loads.choose(&ports, Instant::now())?;
    let place = places.into_iter().find(|place| place.port == port)?;
    Some(Assigned { place, connections })
}
