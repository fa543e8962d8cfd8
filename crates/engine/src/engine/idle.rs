//! When a worker that accepts by itself has nothing more to do.
//!
//! Nobody can tell it to finish: many programs end of SIGTERM at once, whatever they are doing. So it is asked to end
//! when no connection waits for it any more and none of its own is at work, or when its time is over.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::control::{Control, Note};
use crate::ids::WorkerId;
use crate::process::{connections, tree};

/// How often it is looked at, at most.
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// How often in a row it has to be idle: connections may be half-way through their handshake, far away or with a segment
/// that has to be sent again, or through the program.
const LOOKS: u32 = 22;
/// A connection on which nothing has moved for so long is idle, unless the client was the last to send.
const QUIET: Duration = Duration::from_secs(1);
/// The part of the time that looking may take is one in so many.
const SHARE: u32 = 5;

impl Control {
    /// Waits until the worker is idle, which is told to its supervisor.
    pub(super) fn await_idle(&mut self, id: WorkerId) {
        let Some(app) = self.apps.get_mut(&id.app) else { return };
        let Some((slots, worker)) = app.slots.clone().zip(app.workers.get(&id)) else { return };
        slots.leave(id);
        let (leader, mark, notes) = (worker.pid, worker.mark.clone(), self.notes.clone());
        if !slots.can_run_dry(id) {
            // Its own handler of the signal is the only thing that makes it stop.
            let _ended = notes.send(Note::Idle { worker: id });
            return;
        }
        let (left_at, patience) = (Instant::now(), app.spec.deadlines.drain / 2);
        let one_at_a_time = Arc::clone(&self.looks);
        tokio::spawn(async move {
            let mut idle = 0;
            let mut pause = LOOK_EVERY;
            while idle < LOOKS {
                tokio::time::sleep(pause).await;
                let (slots, mark) = (slots.clone(), mark.clone());
                let Ok(_turn) = one_at_a_time.acquire().await else { return };
                // A client that never pauses has to be left between two of its requests.
                let is_late = left_at.elapsed() > patience;
                let quiet = if is_late { Duration::ZERO } else { QUIET };
                let look = tokio::task::spawn_blocking(move || {
                    let begun = Instant::now();
                    let ports = slots.ports();
                    let is_busy = slots.waiting(id) > 0
                        || connections::any_busy(&tree::members(leader, &mark), &ports, quiet);
                    (is_busy, begun.elapsed())
                });
                // A look that failed saw nothing: the worker's deadlines hold all the same.
                let Ok((is_busy, took)) = look.await else { return };
                idle = match (is_busy, is_late) {
                    (true, _) => 0,
                    (false, false) => idle + 1,
                    (false, true) => LOOKS,
                };
                pause = LOOK_EVERY.max(took * SHARE);
            }
            let _ended = notes.send(Note::Idle { worker: id });
        });
    }
}
