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
/// For how long it has to be idle: connections may be half-way through their handshake, far away or with a segment that has
/// to be sent again, or through the program.
const IDLE_FOR: Duration = Duration::from_millis(1_100);
/// How often in a row it has to be seen idle at least, however long looks take.
const LOOKS: u32 = 3;
/// A connection on which nothing has moved for so long is idle, unless the client was the last to send.
const QUIET: Duration = Duration::from_secs(1);
/// The part of the time that looking may take is one in so many.
const SHARE: u32 = 5;

/// What a look at a worker has found.
#[derive(Clone, Copy, Debug)]
struct Look {
    begun: Instant,
    ended: Instant,
    is_busy: bool,
    /// It was let go so long ago that it need not be idle for a while: a client that never pauses has to be left between two
    /// of its requests.
    is_late: bool,
}

/// How long a worker has been idle.
#[derive(Debug, Default)]
struct Idle {
    since: Option<Instant>,
    looks: u32,
}

impl Idle {
    /// Returns whether the worker has nothing more to do.
    fn on(&mut self, look: Look) -> bool {
        if look.is_busy {
            *self = Self::default();
            return false;
        }
        let since = *self.since.get_or_insert(look.ended);
        self.looks += 1;
        let is_over = look.begun.saturating_duration_since(since) >= IDLE_FOR;
        look.is_late || is_over && self.looks >= LOOKS
    }
}

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
            let mut idle = Idle::default();
            let mut pause = LOOK_EVERY;
            loop {
                tokio::time::sleep(pause).await;
                let (slots, mark) = (slots.clone(), mark.clone());
                let Ok(_turn) = one_at_a_time.acquire().await else { return };
                let is_late = left_at.elapsed() > patience;
                let quiet = if is_late { Duration::ZERO } else { QUIET };
                let look = tokio::task::spawn_blocking(move || {
                    let begun = Instant::now();
                    let ports = slots.ports();
                    let is_busy = slots.waiting(id) > 0
                        || connections::any_busy(&tree::members(leader, &mark), &ports, quiet);
                    Look { begun, ended: Instant::now(), is_busy, is_late }
                });
                // A look that failed saw nothing: the worker's deadlines hold all the same.
                let Ok(look) = look.await else { return };
                if idle.on(look) {
                    break;
                }
                pause = LOOK_EVERY.max(look.ended.saturating_duration_since(look.begun) * SHARE);
            }
            let _ended = notes.send(Note::Idle { worker: id });
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Looks that take so long, with pauses as long as they have to be; returns after how long and how many it was over.
    fn over_after(takes: Duration, busy: &[u32], late: Option<u32>) -> (Duration, u32) {
        let start = Instant::now();
        let (mut idle, mut begun) = (Idle::default(), start);
        for number in 1.. {
            let (is_busy, is_late) = (busy.contains(&number), late.is_some_and(|late| number >= late));
            let ended = begun + takes;
            if idle.on(Look { begun, ended, is_busy, is_late }) {
                return (ended - start, number);
            }
            begun = ended + LOOK_EVERY.max(takes * SHARE);
        }
        unreachable!("it is over some time")
    }

    #[test]
    fn slow_looks_need_not_be_many() {
        let milliseconds = Duration::from_millis;
        assert_eq!(over_after(milliseconds(0), &[], None), (milliseconds(1_100), 23));
        assert_eq!(over_after(milliseconds(200), &[], None), (milliseconds(2_600), 3));
        assert_eq!(over_after(milliseconds(2_000), &[], None), (milliseconds(26_000), 3));
    }

    #[test]
    fn who_was_busy_begins_anew_and_who_is_late_is_left_between_two_requests() {
        let milliseconds = Duration::from_millis;
        assert_eq!(over_after(milliseconds(0), &[20], None), (milliseconds(2_100), 43));
        assert_eq!(over_after(milliseconds(0), &[4, 5], Some(4)), (milliseconds(250), 6));
    }
}
