//! What workers leave behind: processes that they started and that run on after them.
//!
//! A shell that starts a server ends at the SIGTERM that the server drains at. So a worker that was let go has ended
//! when all that it started has, and its deadlines hold for that, too. What a worker leaves behind that ended by
//! itself is ended: it was not told to finish anything, and a successor may need what it holds.

use std::io;

use rustix::process::{Pid, PidfdFlags, pidfd_open};
use tokio::net::unix::pipe;

use super::control::{Control, Note};
use super::state::Worker;
use crate::event::ExitStatus;
use crate::ids::{AppId, WorkerId};
use crate::process::mark::Mark;
use crate::process::tree;

/// The processes that a worker started, after its own end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Tree {
    /// They do not matter yet.
    Unseen,
    /// They finish what they do; the worker's exit is told after them.
    Finishing,
    /// They are waited for no longer.
    Over,
}

impl Control {
    /// Returns whether the exit of a worker has to wait for what it started; the end of the wait is seen to then.
    pub(super) fn waits_for_tree(&mut self, id: WorkerId) -> bool {
        let Some(app) = self.apps.get_mut(&id.app) else { return false };
        let Some(worker) = app.workers.get_mut(&id) else { return false };
        match worker.tree {
            Tree::Unseen => {}
            Tree::Finishing => return true,
            Tree::Over => return false,
        }
        if !app.supervisor.is_draining(id) || tree::leftovers(worker.pid, &worker.mark).is_empty() {
            return false;
        }
        // Once: many programs take a second SIGTERM for the order to drop everything.
        let has_told_them = worker.asked_alone_by.is_some_and(|signal| {
            // Ended by the signal itself, as a shell around the program, it told nobody.
            worker.exited.is_some_and(|status| status != ExitStatus::Signal(signal.number()))
        });
        if !worker.terminated && !has_told_them {
            worker.terminated = true;
            tree::signal_leftovers(worker.pid, &worker.mark, libc::SIGTERM);
        }
        worker.tree = Tree::Finishing;
        let (leader, mark, notes) = (worker.pid, worker.mark.clone(), self.notes.clone());
        tokio::spawn(async move {
            // Without descriptors nobody sees the end, and the worker's deadlines are what ends the wait.
            if tree_end(leader, &mark).await.is_ok() {
                let _ended = notes.send(Note::TreeEnded { worker: id });
            }
        });
        true
    }

    /// Lets the exit of a worker be told, whether something that it started still runs or not.
    pub(super) fn end_wait_for_tree(&mut self, id: WorkerId) {
        if let Some(worker) = self.worker_mut(id) {
            worker.tree = Tree::Over;
            self.tell_exit(id);
        }
    }

    /// Sends SIGTERM to what a gone worker left behind, and SIGKILL later.
    pub(super) fn terminate_leftovers(&mut self, id: WorkerId, worker: Worker) {
        let Some(app) = self.apps.get_mut(&id.app) else { return };
        if tree::signal_leftovers(worker.pid, &worker.mark, libc::SIGTERM) == 0 {
            return;
        }
        app.leftovers.insert(id, (worker.pid, worker.mark));
        let (notes, patience) = (self.notes.clone(), app.spec.deadlines.kill);
        tokio::spawn(async move {
            tokio::time::sleep(patience).await;
            let _ended = notes.send(Note::LeftoversOverdue { worker: id });
        });
    }

    /// Ends what a gone worker left behind.
    pub(super) fn end_leftovers_of(&mut self, worker: WorkerId) {
        let Some(app) = self.apps.get_mut(&worker.app) else { return };
        if let Some((leader, mark)) = app.leftovers.remove(&worker) {
            tree::signal_leftovers(leader, &mark, libc::SIGKILL);
        }
    }

    /// Ends what gone workers of the app left behind.
    pub(super) fn end_leftovers(&mut self, app: AppId) {
        let Some(app) = self.apps.get_mut(&app) else { return };
        for (_, (leader, mark)) in app.leftovers.drain() {
            tree::signal_leftovers(leader, &mark, libc::SIGKILL);
        }
    }
}

/// Waits until nothing is left of a worker that was reaped.
async fn tree_end(leader: u32, mark: &Mark) -> io::Result<()> {
    // Each look may find what was started since the last one.
    while let Some(process) = tree::leftovers(leader, mark).into_iter().find_map(pid) {
        match pidfd_open(process, PidfdFlags::NONBLOCK) {
            // No pipe, but pollable like one: it is readable from the end of the process on.
            Ok(descriptor) => pipe::Receiver::from_owned_fd_unchecked(descriptor)?.readable().await?,
            Err(rustix::io::Errno::SRCH) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

fn pid(number: u32) -> Option<Pid> {
    Pid::from_raw(i32::try_from(number).ok()?)
}
