//! How an app begins: its sockets are bound, then it is supervised.

use std::collections::HashMap;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, watch};

use super::address::{self, Opened};
use super::control::Control;
use super::state::AppState;
use super::{AddError, App};
use crate::agent;
use crate::event::Event;
use crate::ids::AppId;
use crate::listen::{Spread, Transport};
use crate::output::OutputLine;
use crate::plane::Command;
use crate::slots::Slots;
use crate::spec::{
    AppSpec, CaptureAddress, Dialect, ListenAddress, NodeFlavour, Policy, Ready, check_capture,
    check_capture_policies,
};
use crate::supervise::{Input, Settings, Supervisor};

impl Control {
    pub(super) fn add(
        &mut self,
        mut spec: AppSpec,
        lines: Option<mpsc::Sender<OutputLine>>,
    ) -> Result<App, AddError> {
        spec.capture = seen_from_here(spec.capture, spec.command.cwd.as_deref());
        check(&spec)?;
        let slots = self.open_slots(&spec)?;
        let mut listeners = Vec::new();
        for address in &spec.listen {
            listeners.push(address::open(address, &spec, slots.as_ref())?);
        }
        let copies = listeners
            .iter()
            .filter_map(Opened::shared)
            .map(|socket| socket.try_clone_to_owned())
            .collect::<Result<Vec<_>, _>>();
        let inherited = copies.map_err(|source| AddError::Listen {
            address: "a copy of an address".to_owned(),
            source,
            holder: None,
        })?;
        self.next_app += 1;
        let id = AppId(self.next_app);
        let bound: Vec<(String, Option<u16>)> = spec
            .listen
            .iter()
            .zip(&listeners)
            .map(|(asked, opened)| address::told(asked, opened.address()))
            .collect();
        if let (Some(slots), Some(capture)) = (&slots, &self.capture) {
            slots.hold_for(spec.deadlines.hold);
            capture.tend(id, slots.clone());
        }
        let settings = Settings::from(&spec);
        let agent = (spec.agent && spec.dialect == Dialect::Node(NodeFlavour::Node)).then(agent::install);
        let (agent, no_agent) = match agent {
            Some(Ok(path)) => (Some(path), None),
            Some(Err(error)) => (None, Some(error.to_string())),
            None => (None, None),
        };
        let (finished, watch) = watch::channel(None);
        let name: Arc<str> = Arc::from(spec.name.as_str());
        // Without a channel they accept by themselves, and are ready as soon as they run.
        let hold = if spec.dialect.has_channel() { spec.deadlines.hold } else { Duration::ZERO };
        let (policies, limits) = (spec.policies.clone(), spec.limits);
        self.plane.send(Command::OpenApp { app: id, policies, inherited, hold, limits });
        let state = AppState {
            name: Arc::clone(&name),
            slots,
            expected_workers: None,
            spec: Arc::new(spec),
            supervisor: Supervisor::new(id, settings, seed()),
            listeners,
            lines,
            workers: HashMap::new(),
            reloads: HashMap::new(),
            finished,
            leftovers: HashMap::new(),
            is_stopping: false,
            agent,
            reports: Vec::new(),
            overflows: None,
        };
        self.apps.insert(id, state);
        for (address, port) in &bound {
            self.emit(id, Event::Bound { address: address.clone(), port: *port });
        }
        if let Some(reason) = no_agent {
            self.emit(id, Event::NoAgent { reason });
        }
        self.tell(id, Input::Start);
        let requests = self.handle.upgrade().ok_or(AddError::Ended)?;
        let addresses = bound.into_iter().map(|(address, _)| address).collect();
        Ok(App { id, name, addresses, requests, finished: watch })
    }

    /// Makes what holds the sockets from which the workers of an app accept by themselves, if they do.
    fn open_slots(&mut self, spec: &AppSpec) -> Result<Option<Slots>, AddError> {
        if spec.dialect.captures()
            && let Err(source) = check_capture().and_then(|()| self.start_capture())
        {
            return Err(AddError::Capture { name: spec.name.clone(), source });
        }
        if !spec.dialect.captures() && !spec.has_own_sockets() {
            return Ok(None);
        }
        let no_slots = |source| AddError::Listen {
            address: "addresses with a socket for each worker".to_owned(),
            source,
            holder: None,
        };
        self.start_capture().map_err(|error| no_slots(error.0))?;
        Slots::new(spec.policies.clone()).map(Some).map_err(no_slots)
    }
}

/// Checks that what an app is to do is possible together.
fn check(spec: &AppSpec) -> Result<(), AddError> {
    let can_say = match spec.ready {
        Ready::Listening => spec.dialect.tells_listening() || spec.has_own_sockets(),
        Ready::Message => spec.dialect.has_channel(),
        Ready::Auto | Ready::Started | Ready::Observed | Ready::Probe(_) => true,
    };
    if !can_say {
        return Err(AddError::NeverReady { name: spec.name.clone() });
    }
    if let Ready::Probe(probe) = &spec.ready
        && let Err(source) = probe.check(spec)
    {
        return Err(AddError::Probe { name: spec.name.clone(), source });
    }
    if let Some((needed, most)) = too_many_sockets(spec) {
        return Err(AddError::TooManySockets { name: spec.name.clone(), needed, most });
    }
    if let Err(source) = check_capture_policies(spec) {
        return Err(AddError::CapturePolicy { name: spec.name.clone(), source });
    }
    if let Err(source) = spec.limits.check(spec) {
        return Err(AddError::Limits { name: spec.name.clone(), source });
    }
    Ok(())
}

/// Returns addresses as they are found from here: paths are relative to where the workers work.
fn seen_from_here(addresses: Vec<CaptureAddress>, cwd: Option<&Path>) -> Vec<CaptureAddress> {
    // Without a working directory of our own none of them can be found, and all are the programs' own.
    let here = std::env::current_dir().unwrap_or_default();
    let folder = cwd.map_or_else(|| here.clone(), |cwd| here.join(cwd));
    addresses.into_iter().map(|address| address.seen_from(&folder)).collect()
}

/// Returns how many sockets the app needs for one address and how many there may be at most, where that is too many.
fn too_many_sockets(spec: &AppSpec) -> Option<(usize, usize)> {
    let captures = spec.dialect.captures();
    // Where they bind by themselves every policy but `shared` gives each worker its own.
    let spread = |policy: &Policy| if captures { policy.for_own_sockets() } else { policy.spread() };
    let for_connections = spec.policies.all().filter_map(spread).map(Spread::most_sockets);
    let named = spec.capture.iter().filter(|_| captures).filter_map(|address| match address {
        CaptureAddress::UdpPort(port) => Some(ListenAddress::AnyInterfaceUdp(*port)),
        CaptureAddress::Udp(address) => Some(ListenAddress::Udp(*address)),
        CaptureAddress::Port(_) | CaptureAddress::Tcp(_) | CaptureAddress::Unix(_) => None,
    });
    let of_datagrams = spec.listen.iter().filter(|address| address.is_udp()).cloned().chain(named);
    let for_datagrams = of_datagrams
        .filter_map(|address| spread(spec.policies.of(Some(&address))))
        .map(|spread| spread.most(Transport::Udp));
    let most = for_connections.chain(for_datagrams).min()?;
    let needed = spec.instances as usize + spec.replacement.surge.max(1) as usize + 1;
    (needed > most).then_some((needed, most))
}

/// Returns a number that differs from run to run.
fn seed() -> u64 {
    RandomState::new().build_hasher().finish()
}
