//! When a worker that accepts by itself has nothing more to do.
//!
//! Nobody can tell it to finish: many programs end of SIGTERM at once, whatever they are doing. So it is asked to end
//! when no connection waits for it any more and none of its own is at work, or when its time is over.

use std::time::{Duration, Instant};

use super::control::{Control, Note};
use crate::ids::WorkerId;
use crate::process::{connections, tree};

/// How often it is looked at, at most.
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// How often in a row it has to be idle: connections may be half-way through their handshake, or through the program.
const LOOKS: u32 = 5;
/// The part of the time that looking may take is one in so many.
const SHARE: u32 = 5;

impl Control {
    /// Waits until the worker is idle, which is told to its supervisor.
    pub(super) fn await_idle(&mut self, id: WorkerId) {
        let Some(app) = self.apps.get_mut(&id.app) else { return };
        let Some((slots, worker)) = app.slots.clone().zip(app.workers.get(&id)) else { return };
        // One that has not been ready has left no rotation.
        slots.rotate(id, false);
        let (leader, mark, notes) = (worker.pid, worker.mark.clone(), self.notes.clone());
        tokio::spawn(async move {
            let mut idle = 0;
            let mut pause = LOOK_EVERY;
            while idle < LOOKS {
                tokio::time::sleep(pause).await;
                let (slots, mark) = (slots.clone(), mark.clone());
                let look = tokio::task::spawn_blocking(move || {
                    let begun = Instant::now();
                    let ports = slots.ports();
                    let is_busy =
                        slots.waiting(id) > 0 || connections::any_busy(&tree::members(leader, &mark), &ports);
                    (is_busy, begun.elapsed())
                });
                // A look that failed saw nothing: the worker's deadlines hold all the same.
                let Ok((is_busy, took)) = look.await else { return };
                idle = if is_busy { 0 } else { idle + 1 };
                pause = LOOK_EVERY.max(took * SHARE);
            }
            let _ended = notes.send(Note::Idle { worker: id });
        });
    }
}
