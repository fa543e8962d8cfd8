//! What is told of workers that ended or could not listen, and when it is known.

use std::io;
use std::time::Duration;

use tokio::sync::mpsc;

use super::control::{Control, Note};
use super::{address, hints, reaper};
use crate::event::{Event, ExitStatus};
use crate::ids::WorkerId;
use crate::plane::{Credit, Fact};
use crate::supervise::Input;

/// How long an exit waits for the last lines of the worker's output; its children may keep the pipes open.
const LAST_LINES: Duration = Duration::from_millis(200);

impl Control {
    /// Reaps. An exit is told when the worker's last lines are in, or were waited for.
    pub(super) fn on_children(&mut self, facts: &mut mpsc::UnboundedReceiver<Fact>) {
        // First what they have said: why a worker ends has to be known when its end is told.
        for _ in 0..facts.len() {
            if let Ok(fact) = facts.try_recv() {
                self.on_fact(fact);
            }
        }
        for (pid, status) in reaper::ended(&self.pids, self.orphans) {
            match self.pids.remove(&pid) {
                Some(worker) => self.on_exit(worker, status),
                None => self.unclaimed.keep(pid, status),
            }
        }
    }

    pub(super) fn on_exit(&mut self, worker: WorkerId, status: ExitStatus) {
        let Some(known) = self.worker_mut(worker) else { return };
        known.exited = Some(status);
        if known.open_outputs == 0 {
            self.tell_exit(worker);
            return;
        }
        let notes = self.notes.clone();
        tokio::spawn(async move {
            tokio::time::sleep(LAST_LINES).await;
            let _ended = notes.send(Note::OutputOverdue { worker });
        });
    }

    /// Tells that a worker exited, once all is known about it.
    pub(super) fn tell_exit(&mut self, worker: WorkerId) {
        let Some(known) = self.worker_mut(worker) else { return };
        let Some(status) = known.exited else { return };
        if known.exit_told || known.open_outputs > 0 || known.unexplained > 0 || self.waits_for_tree(worker) {
            return;
        }
        let Some(known) = self.worker_mut(worker) else { return };
        known.exit_told = true;
        let stderr = known.last.lock().unwrap_or_else(std::sync::PoisonError::into_inner).to_vec();
        self.tell(worker.app, Input::Exited { worker, status, stderr });
    }

    /// Looks for the holder of the address, and tells of the failure with it.
    pub(super) fn explain_listen_failure(
        &mut self,
        worker: WorkerId,
        address: String,
        errno: i64,
        error: String,
        credit: Option<Credit>,
    ) {
        let Some(subject) = self.reference(worker) else { return };
        if let Some(known) = self.worker_mut(worker) {
            known.unexplained += 1;
        }
        let notes = self.notes.clone();
        tokio::spawn(async move {
            let holder = if errno == -i64::from(libc::EADDRINUSE) {
                address::search_holder(address.clone()).await
            } else {
                None
            };
            let code = i32::try_from(errno.unsigned_abs()).unwrap_or_default();
            let source = io::Error::from_raw_os_error(code);
            let reason = error + &hints::hint_for_worker(&address, &source, holder.as_ref());
            let event = Event::ListenFailed { worker: subject, address, reason };
            let _ended = notes.send(Note::Explained { worker, event });
            drop(credit);
        });
    }
}
