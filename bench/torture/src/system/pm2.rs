//! PM2 in cluster mode, with a home of its own.

use std::fs;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use worksong_testkit::{Folder, Program, fixture, free_port, node};

use crate::target::Target;

use super::node::{peer, target};
use super::{Settings, System, ports};

const NAME: &str = "torture";

/// A running daemon with its workers.
pub(super) struct Pm2 {
    home: Folder,
    node: PathBuf,
    target: Target,
    /// The command that started the daemon: dropping it ends what `pm2 kill` has left.
    _started: Program,
}

impl Pm2 {
    /// Starts the daemon and the workers, whose program closes its server on SIGINT if it is graceful.
    pub(super) fn start(settings: &Settings, graceful: bool) -> Self {
        let home = Folder::new();
        let node = node(&settings.node);
        let (http, http2) = (free_port(), free_port());
        let mut command = pm2(&node, &home);
        command
            .arg("start")
            .arg(fixture("node/torture.js"))
            .args(["--name", NAME, "-i", &settings.workers.to_string()])
            .args(["--kill-timeout", &settings.deadline.as_millis().to_string()])
            .env("PORT", http.to_string())
            .env("PORT2", http2.to_string());
        if graceful {
            command.env("GRACEFUL", "1");
        }
        let started = Program::start(&mut command);
        let status = started.wait_exit();
        assert!(status.success(), "pm2 start: {status}: {:?}", started.lines());
        let listening = || {
            let logs = fs::read_dir(home.join("logs")).into_iter().flatten().flatten();
            let texts = logs.filter_map(|log| fs::read_to_string(log.path()).ok());
            texts.map(|text| text.lines().filter_map(ports).count()).sum::<usize>()
        };
        worksong_testkit::eventually("every worker listens", || {
            (listening() >= settings.workers).then_some(())
        });
        Self { home, node, target: target(http, http2), _started: started }
    }
}

impl System for Pm2 {
    fn target(&self) -> Target {
        self.target.clone()
    }

    fn reload(&mut self) -> Result<(), String> {
        let output = pm2(&self.node, &self.home).args(["reload", NAME]).output();
        let output = output.map_err(|error| format!("could not run pm2 reload: {error}"))?;
        if output.status.success() {
            return Ok(());
        }
        Err(format!("pm2 reload: {}: {}", output.status, String::from_utf8_lossy(&output.stderr)))
    }

    fn workers(&self) -> Vec<u32> {
        let files = fs::read_dir(self.home.join("pids")).into_iter().flatten().flatten();
        let texts = files.filter_map(|file| fs::read_to_string(file.path()).ok());
        texts.filter_map(|text| text.trim().parse().ok()).collect()
    }
}

impl Drop for Pm2 {
    fn drop(&mut self) {
        // What it leaves is ended with the command that started it.
        let _status = pm2(&self.node, &self.home).arg("kill").status();
    }
}

fn pm2(node: &PathBuf, home: &Folder) -> Command {
    let mut command = Command::new(node);
    command
        .arg(peer("node_modules/pm2/bin/pm2"))
        .env("PM2_HOME", home.path())
        .env("HOME", home.path())
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped());
    command
}
