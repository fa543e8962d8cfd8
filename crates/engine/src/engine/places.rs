//! Workers that have ports of their own: where a client can reach this one and no other.

use std::collections::BTreeSet;

use tokio::sync::oneshot;

use super::control::Control;
use super::state::AppState;
use super::{App, Request};
use crate::event::WorkerRef;
use crate::ids::{AppId, Slot, WorkerId};
use crate::spec::Dialect;
use crate::supervise::{SlotState, WorkerState};

/// How many ports of a worker are remembered; of more the first ones are.
const MOST_PORTS: usize = 64;

/// A worker in rotation, and the port where nobody else answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// Who answers there.
    pub worker: WorkerRef,
    /// The TCP port.
    pub port: u16,
}

/// The TCP ports where a worker has said that it listens.
#[derive(Debug, Default)]
pub(super) struct Ports(BTreeSet<u16>);

impl Ports {
    pub(super) fn learn(&mut self, port: u16) {
        if self.0.len() < MOST_PORTS {
            self.0.insert(port);
        }
    }
}

impl App {
    /// Returns the workers in rotation that have a port of their own, by slot.
    ///
    /// With a base (`Dialect::Port`) that is base + slot. Of workers with a channel, and of those whose sockets are captured, it is known where they listen: the lowest port counts that
    /// no worker of another slot has listened on. Empty when the app has ended.
    ///
    /// # Cancel safety
    ///
    /// Nothing is lost when the future is dropped.
    pub async fn places(&self) -> Vec<Place> {
        let (places, answer) = oneshot::channel();
        // An app that has ended has none.
        let _ended = self.requests.send(Request::Places { app: self.id, places }).await;
        answer.await.unwrap_or_default()
    }
}

impl Control {
    pub(super) fn places(&self, app: AppId) -> Vec<Place> {
        let Some(app) = self.apps.get(&app) else { return Vec::new() };
        let slots = app.supervisor.snapshot().slots;
        let in_rotation = slots.into_iter().filter_map(|slot| match slot.state {
            SlotState::Filled(view) if view.state == WorkerState::Ready => Some(view.worker),
            SlotState::Filled(_) | SlotState::BackingOff { .. } | SlotState::Errored => None,
        });
        in_rotation.filter_map(|worker| app.own_port(worker).map(|port| Place { worker, port })).collect()
    }

    pub(super) fn note_port(&mut self, worker: WorkerId, port: Option<u16>) {
        if let Some((worker, port)) = self.worker_mut(worker).zip(port) {
            worker.ports.learn(port);
        }
    }
}

impl AppState {
    fn own_port(&self, worker: WorkerRef) -> Option<u16> {
        match self.spec.dialect {
            Dialect::Port { base } => of_slot(base?, worker.slot),
            Dialect::Node(_) | Dialect::Native | Dialect::Capture { .. } => {
                let others = || self.workers.values().filter(|other| other.slot != worker.slot);
                let is_own = |port: &&u16| others().all(|other| !other.ports.0.contains(*port));
                self.workers.get(&worker.id)?.ports.0.iter().find(is_own).copied()
            }
            Dialect::Activation => None,
        }
    }
}

fn of_slot(base: u16, slot: Slot) -> Option<u16> {
    u16::try_from(u32::from(base) + slot.0).ok()
}
