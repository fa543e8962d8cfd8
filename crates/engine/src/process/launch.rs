//! What a worker's process is made of: its environment, its descriptors, its output.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd, RawFd};
use std::path::PathBuf;

use crate::agent::node_options;
use crate::ids::{Slot, WorkerId};
use crate::spec::{AppSpec, CaptureAddress, Dialect, Policy, is_abstract};

use super::mark::{MARK, Mark};
use super::notifier::Asks;
use super::spawn::Launch;

/// The first descriptor after the standard ones: Node's channel, or the first inherited socket.
const FIRST: RawFd = 3;

/// Variables of the primary's own supervisor that a worker must not take for its own.
const NOT_INHERITED: [&str; 7] = [
    "NODE_CHANNEL_FD",
    "NODE_CHANNEL_SERIALIZATION_MODE",
    "NODE_UNIQUE_ID",
    "LISTEN_PID",
    "LISTEN_FDS",
    "LISTEN_FDNAMES",
    "WORKSONG_STICKY",
];

/// A socket that a worker inherits.
#[derive(Debug)]
pub(crate) struct Inherited {
    pub(crate) socket: OwnedFd,
    /// Its name in `LISTEN_FDNAMES`.
    pub(crate) name: String,
}

/// What one worker is given at its start.
#[derive(Debug)]
pub(crate) struct Gifts {
    pub(crate) channel: Option<OwnedFd>,
    pub(crate) sockets: Vec<Inherited>,
    /// The writing ends of its stdout and stderr; `None` shares the primary's.
    pub(crate) output: Option<(OwnedFd, OwnedFd)>,
    /// The file that a Node worker preloads.
    pub(crate) agent: Option<PathBuf>,
}

/// Describes the process of a worker.
pub(crate) fn describe(
    spec: &AppSpec,
    worker: WorkerId,
    slot: Slot,
    mark: &Mark,
    gifts: Gifts,
) -> io::Result<Launch> {
    let mut environment: BTreeMap<OsString, OsString> = std::env::vars_os().collect();
    for name in NOT_INHERITED {
        environment.remove(&OsString::from(name));
    }
    let mut set = |name: &str, value: String| {
        environment.insert(OsString::from(name), OsString::from(value));
    };
    set("WORKSONG_APP", spec.name.clone());
    // The names that existing programs read: PM2's, recluster's, PM2's again.
    for name in ["WORKSONG_SLOT", "NODE_APP_INSTANCE", "WORKER_ID", "pm_id"] {
        set(name, slot.to_string());
    }
    let made = spec.policies.all().find_map(|policy| match policy {
        Policy::Sticky(by) => Some(by).filter(|by| by.is_by_made_value()),
        Policy::RoundRobin | Policy::Least | Policy::Shared | Policy::Kernel(_) | Policy::Custom(_) => None,
    });
    if let Some(by) = made {
        set("WORKSONG_STICKY", by.to_string());
    }
    if let Dialect::Port { base: Some(base) } = spec.dialect {
        set("PORT", (u32::from(base) + slot.0).to_string());
    }
    let mut descriptors = vec![(OwnedFd::from(File::open("/dev/null")?), 0)];
    match gifts.output {
        Some((stdout, stderr)) => descriptors.extend([(stdout, 1), (stderr, 2)]),
        None => descriptors.extend([
            (io::stdout().as_fd().try_clone_to_owned()?, 1),
            (io::stderr().as_fd().try_clone_to_owned()?, 2),
        ]),
    }
    // Inherited sockets come first: `LISTEN_FDS` counts from 3, while the channel may have any number.
    let inherits = !gifts.sockets.is_empty();
    if inherits {
        let names: Vec<&str> = gifts.sockets.iter().map(|inherited| inherited.name.as_str()).collect();
        set("LISTEN_FDS", names.len().to_string());
        set("LISTEN_FDNAMES", names.join(":"));
    }
    let sockets = gifts.sockets.into_iter().map(|inherited| inherited.socket);
    descriptors.extend(sockets.zip(FIRST..));
    if let Some(channel) = gifts.channel {
        let number = FIRST + RawFd::try_from(descriptors.len() - 3).unwrap_or(0);
        set("NODE_CHANNEL_FD", number.to_string());
        set("NODE_CHANNEL_SERIALIZATION_MODE", "json".to_owned());
        set("NODE_UNIQUE_ID", worker.number.to_string());
        descriptors.push((channel, number));
    }
    environment.extend(spec.command.env.iter().cloned());
    if let Some(agent) = gifts.agent {
        let name = OsStr::new("NODE_OPTIONS");
        let before = environment.get(name).map(OsString::as_os_str);
        let options = node_options(before, &spec.command.args, &agent);
        environment.insert(name.to_owned(), options);
    }
    environment.insert(OsString::from(MARK), mark.value());
    let program = spec.command.program.clone().into_os_string();
    let arguments = std::iter::once(program.clone()).chain(spec.command.args.iter().cloned()).collect();
    Ok(Launch {
        program,
        arguments,
        environment: environment.into_iter().collect(),
        directory: spec.command.cwd.clone().map(std::path::PathBuf::into_os_string),
        descriptors,
        listen_pid: inherits,
        outlives_parent: false,
        asks: spec.dialect.captures().then(|| asks(&spec.capture)),
    })
}

/// Returns what programs that bind these addresses are to be asked about.
fn asks(addresses: &[CaptureAddress]) -> Asks {
    let is_path =
        |address: &CaptureAddress| matches!(address, CaptureAddress::Unix(path) if !is_abstract(path));
    if addresses.iter().any(is_path) { Asks::SocketsAndFiles } else { Asks::Sockets }
}
