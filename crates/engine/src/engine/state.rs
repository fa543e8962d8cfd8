//! What the control task knows of apps and workers.

use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use tokio::sync::{mpsc, oneshot, watch};

use super::address::Opened;
use super::leftovers::Tree;
use super::overflow::Overflows;
use super::places::Ports;
use super::relay::Names;
use super::report::Report;
use super::{ReloadError, ReloadReport};
use crate::event::ExitStatus;
use crate::ids::{Generation, Slot, WorkerId};
use crate::output::{LastLines, OutputLine};
use crate::process::mark::Mark;
use crate::slots::Slots;
use crate::spec::{AppSpec, StopSignal};
use crate::supervise::{Outcome, Supervisor};

/// An app and its workers.
pub(super) struct AppState {
    pub(super) name: Arc<str>,
    pub(super) spec: Arc<AppSpec>,
    pub(super) supervisor: Supervisor,
    /// Its `--listen` addresses, in their order.
    pub(super) listeners: Vec<Opened>,
    /// The sockets of workers that accept by themselves.
    pub(super) slots: Option<Slots>,
    /// How many workers `slots` was told to expect.
    pub(super) expected_workers: Option<u32>,
    /// It was told to end: its listeners close first, then the supervisor hears of it.
    pub(super) is_stopping: bool,
    pub(super) lines: Option<mpsc::Sender<OutputLine>>,
    pub(super) workers: HashMap<WorkerId, Worker>,
    pub(super) reloads: HashMap<u64, oneshot::Sender<Result<ReloadReport, ReloadError>>>,
    pub(super) finished: watch::Sender<Option<Outcome>>,
    /// What gone workers left behind: the process id that each had, and its mark.
    pub(super) leftovers: HashMap<WorkerId, (u32, Mark)>,
    /// The reloads whose old workers have not all ended, the oldest first.
    pub(super) reports: Vec<Report>,
    /// What the kernel had counted when one of its queues became long.
    pub(super) overflows: Option<Overflows>,
    /// What its Node workers preload.
    pub(super) agent: Option<PathBuf>,
}

/// A worker process, from the decision to start it until it is forgotten.
pub(super) struct Worker {
    pub(super) slot: Slot,
    pub(super) generation: Generation,
    pub(super) pid: u32,
    pub(super) mark: Mark,
    /// Our end of its channel, until the data plane has it.
    pub(super) channel: Option<OwnedFd>,
    /// The reading ends of its output, until they are pumped.
    pub(super) output: Option<(OwnedFd, OwnedFd)>,
    pub(super) open_outputs: u32,
    /// How many of its failures to listen are being explained. Its exit is told after them.
    pub(super) unexplained: u32,
    pub(super) last: Arc<Mutex<LastLines>>,
    /// It was reaped; its process id may be another process's soon.
    pub(super) exited: Option<ExitStatus>,
    pub(super) exit_told: bool,
    /// The kernel does not end it, and nothing waits for it any more.
    pub(super) given_up: bool,
    /// It was sent SIGTERM, and so was what it had started by then.
    pub(super) terminated: bool,
    /// The signal by which it was asked to leave, if it alone got it and what it had started did not.
    pub(super) asked_alone_by: Option<StopSignal>,
    pub(super) tree: Tree,
    /// The copies of libraries in it that other workers answer.
    pub(super) names: Names,
    /// Where it listens.
    pub(super) ports: Ports,
}
