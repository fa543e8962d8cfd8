//! Primaries that are Node programs: recluster, and Node's own cluster.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::process::Command;

use worksong_testkit::{Program, Signal, checkout, eventually, fixture, free_port, node, process};

use crate::target::{Contract, Target};

use super::{Settings, System, ports};

/// A running primary with its workers.
pub(super) struct Primary {
    program: Program,
    target: Target,
    reloads: usize,
}

impl Primary {
    /// Starts a primary of `bench/torture/peers`.
    pub(super) fn start(script: &str, settings: &Settings) -> Self {
        let (http, http2) = (free_port(), free_port());
        let mut command = Command::new(node(&settings.node));
        command
            .arg(peer(script))
            .args([settings.workers.to_string(), settings.deadline.as_secs().to_string()])
            .arg(fixture("node/torture.js"))
            .env("PORT", http.to_string())
            .env("PORT2", http2.to_string());
        let program = Program::start(&mut command);
        eventually("every worker listens", || {
            let listening = program.lines().iter().filter_map(|line| ports(&line.text)).count();
            (listening >= settings.workers).then_some(())
        });
        Self { program, target: target(http, http2), reloads: 0 }
    }
}

impl System for Primary {
    fn target(&self) -> Target {
        self.target.clone()
    }

    fn reload(&mut self) -> Result<(), String> {
        self.reloads += 1;
        self.program.signal(Signal::USR2);
        let done = || self.program.lines().iter().filter(|line| line.text == "reloaded").count();
        eventually("the end of a reload", || (done() >= self.reloads).then_some(()));
        Ok(())
    }

    fn workers(&self) -> Vec<u32> {
        process::children(self.program.pid()).into_iter().map(process::Process::pid).collect()
    }
}

pub(super) fn target(http: u16, http2: u16) -> Target {
    let address = |port| SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    Target { http: address(http), http2: Some(address(http2)), contract: Contract::Full }
}

/// Returns a file of the folder in which the peers are installed.
pub(super) fn peer(path: &str) -> PathBuf {
    let folder = checkout().join("bench/torture/peers");
    let packages = folder.join("node_modules");
    assert!(packages.exists(), "{} is missing; run `cargo xtask prepare` first", packages.display());
    folder.join(path)
}
