//! When a worker that inherited a socket of its own waits for connections there: before that it gets none.
//!
//! It says so to nobody, and may take seconds to start. So it is looked at.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::address::{self, Opened};
use super::control::{Control, Note};
use crate::ids::WorkerId;
use crate::process::{tree, waiting};
use crate::slots::Identity;
use crate::supervise::Input;

/// How often it is looked at, at most.
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// The part of the time that looking may take is one in so many.
const SHARE: u32 = 5;
/// After so long it is believed to wait in a way that cannot be seen.
const BELIEVED_AFTER: Duration = Duration::from_secs(5);

impl Control {
    /// Looks until a worker waits at one of its own sockets, which is noted; nothing is done for one that has none.
    pub(super) fn await_waiting(&self, id: WorkerId) {
        let Some(app) = self.apps.get(&id.app).filter(|app| app.spec.has_own_sockets()) else { return };
        let Some((slots, worker)) = app.slots.as_ref().zip(app.workers.get(&id)) else { return };
        let sockets: Arc<[u64]> = slots.own(id).into_iter().map(Identity::inode).collect();
        let (leader, mark, notes) = (worker.pid, worker.mark.clone(), self.notes.clone());
        let (begun, one_at_a_time) = (Instant::now(), Arc::clone(&self.looks));
        tokio::spawn(async move {
            let mut pause = LOOK_EVERY;
            while begun.elapsed() < BELIEVED_AFTER {
                tokio::time::sleep(pause).await;
                if !Path::new(&format!("/proc/{leader}")).exists() {
                    return;
                }
                let (sockets, mark) = (Arc::clone(&sockets), mark.clone());
                let Ok(_turn) = one_at_a_time.acquire().await else { return };
                let look = tokio::task::spawn_blocking(move || {
                    let begun = Instant::now();
                    let processes = tree::members(leader, &mark);
                    let waits = sockets.iter().any(|inode| waiting::any_waits(&processes, *inode));
                    (waits, begun.elapsed())
                });
                match look.await {
                    Ok((false, took)) => pause = LOOK_EVERY.max(took * SHARE),
                    Ok((true, _)) | Err(_) => break,
                }
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
