//! The thread that forks.
//!
//! A worker's parent-death signal fires when the *thread* that forked it ends, so all workers are started by
//! this one. It ends with the control task, and every worker with it.

use std::io;
use std::sync::mpsc;
use std::thread::{self, JoinHandle};

use crate::ids::WorkerId;
use crate::process::spawn::{Launch, SpawnError, Started, spawn};

/// How many launches may wait. A slow fork makes the control task wait, not memory grow.
const WAITING: usize = 256;

/// A worker to start.
#[derive(Debug)]
pub(super) struct Job {
    pub(super) worker: WorkerId,
    pub(super) launch: Launch,
}

/// The result of a job.
#[derive(Debug)]
pub(super) struct Spawned {
    pub(super) worker: WorkerId,
    pub(super) result: Result<Started, SpawnError>,
}

/// The control task's end; dropping it ends the thread and kills every worker.
#[derive(Debug)]
pub(super) struct Spawner {
    jobs: mpsc::SyncSender<Job>,
    thread: JoinHandle<()>,
}

impl Spawner {
    pub(super) fn start(done: impl Fn(Spawned) + Send + 'static) -> io::Result<Self> {
        let (jobs, inbox) = mpsc::sync_channel::<Job>(WAITING);
        let thread = thread::Builder::new().name("worksong-spawn".to_owned()).spawn(move || {
            for Job { worker, launch } in inbox {
                done(Spawned { worker, result: spawn(launch) });
            }
        })?;
        Ok(Self { jobs, thread })
    }

    pub(super) fn launch(&self, job: Job) {
        // The thread ends only after this sender is dropped.
        let _ended = self.jobs.send(job);
    }

    /// Ends the thread, waits for that, and so kills every worker.
    pub(super) fn end(self) {
        drop(self.jobs);
        // One that panicked has ended, too.
        let _ended = self.thread.join();
    }
}
