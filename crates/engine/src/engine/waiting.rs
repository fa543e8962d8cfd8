//! When a worker that inherited a socket of its own waits for connections there: before that it gets none.
//!
//! It says so to nobody, and may take its time to start. So it is looked at for as long as it lives. What cannot be seen is
//! believed after a while.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::address::{self, Opened};
use super::control::{Control, Note};
use super::state::AppState;
use crate::ids::WorkerId;
use crate::listen::Address;
use crate::process::mark::Mark;
use crate::process::tree;
use crate::process::waiting::{self, Waiting};
use crate::slots::Identity;
use crate::supervise::Input;

/// How often it is looked at, at most and at least; in between for a twentieth of the time that it has had.
const LOOK_EVERY: Duration = Duration::from_millis(50);
const LOOK_EVERY_AT_LEAST: Duration = Duration::from_secs(1);
const PARTS_OF_ITS_TIME: u32 = 20;
/// The part of the time that looking may take is one in so many.
const SHARE: u32 = 5;
/// After so long a worker that hides whether it waits is believed to wait.
const BELIEVED_AFTER: Duration = Duration::from_secs(5);

/// A socket that a worker inherited for itself, and its address as it is told.
#[derive(Clone, Debug)]
struct Inherited {
    inode: u64,
    address: String,
}

/// What was seen of a worker and its sockets.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Found {
    /// It waits at one of them.
    Waits,
    /// That cannot be seen.
    Hidden,
    /// Why not, as a sentence without a full stop.
    DoesNot(String),
}

impl Control {
    /// Looks until a worker waits at one of its own sockets, which is noted; nothing is done for one that has none.
    pub(super) fn await_waiting(&self, id: WorkerId) {
        let Some(app) = self.apps.get(&id.app).filter(|app| app.spec.has_own_sockets()) else { return };
        let Some((slots, worker)) = app.slots.clone().zip(app.workers.get(&id)) else { return };
        let own = slots.own(id).into_iter().map(|(socket, address)| app.inherited(socket, &address));
        let sockets: Arc<[Inherited]> = own.collect();
        let (leader, mark, notes) = (worker.pid, worker.mark.clone(), self.notes.clone());
        let (begun, one_at_a_time) = (Instant::now(), Arc::clone(&self.looks));
        tokio::spawn(async move {
            let (mut pause, mut told) = (LOOK_EVERY, None);
            loop {
                tokio::time::sleep(pause).await;
                if !slots.has(id) {
                    return;
                }
                let (sockets, mark) = (Arc::clone(&sockets), mark.clone());
                let Ok(_turn) = one_at_a_time.acquire().await else { return };
                let look = tokio::task::spawn_blocking(move || {
                    let begun = Instant::now();
                    (look(leader, &mark, &sockets), begun.elapsed())
                });
                // A look that failed saw nothing.
                let (found, took) = look.await.unwrap_or((Found::Hidden, Duration::ZERO));
                match found {
                    Found::Waits => break,
                    Found::Hidden if begun.elapsed() >= BELIEVED_AFTER => break,
                    Found::Hidden => {}
                    Found::DoesNot(why) => {
                        if told.as_ref() != Some(&why) {
                            let _ended = notes.send(Note::DoesNotWait { worker: id, why: why.clone() });
                            told = Some(why);
                        }
                    }
                }
                let patience = begun.elapsed() / PARTS_OF_ITS_TIME;
                pause = patience.clamp(LOOK_EVERY, LOOK_EVERY_AT_LEAST).max(took * SHARE);
            }
            let _ended = notes.send(Note::Waits { worker: id });
        });
    }

    /// A worker waits at its own sockets: it listens.
    pub(super) fn on_waits(&mut self, worker: WorkerId) {
        let Some(app) = self.apps.get(&worker.app) else { return };
        let opened = app.spec.listen.iter().zip(&app.listeners);
        let own = opened.filter(|(_, opened)| matches!(opened, Opened::Each(_)));
        let told: Vec<_> = own.map(|(asked, opened)| address::told(asked, opened.address())).collect();
        for (address, port) in told {
            self.tell(worker.app, Input::Captured { worker, address, port });
        }
    }
}

impl AppState {
    fn inherited(&self, socket: Identity, at: &Address) -> Inherited {
        let mut opened = self.spec.listen.iter().zip(&self.listeners);
        let asked = opened.find(|(_, opened)| opened.address() == at);
        let address = asked.map_or_else(|| at.to_string(), |(asked, _)| address::told(asked, at).0);
        Inherited { inode: socket.inode(), address }
    }
}

/// Looks at all processes of a worker.
fn look(leader: u32, mark: &Mark, sockets: &[Inherited]) -> Found {
    let processes = tree::members(leader, mark);
    let seen = sockets.iter().map(|socket| (waiting::look(&processes, socket.inode), &socket.address));
    match seen.max_by_key(|(waiting, _)| *waiting) {
        Some((Waiting::Seen, _)) => Found::Waits,
        Some((Waiting::Open, address)) => {
            Found::DoesNot(format!("it does not wait for connections at {address}, which it inherited"))
        }
        Some((Waiting::Closed, address)) => {
            Found::DoesNot(format!("it has closed {address}, which it inherited"))
        }
        Some((Waiting::Hidden, _)) | None => Found::Hidden,
    }
}
