//! The command line.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Parser, Subcommand};
use worksong_torture::{Class, Crowd, Custom, Kind, Plan, Scenario, Settings};

/// Run hostile clients against a server while it is reloaded, and count what they lose
#[derive(Debug, Parser)]
#[command(name = "worksong-torture", version)]
pub(crate) struct Options {
    #[command(subcommand)]
    scenario: Step,

    /// Systems to use, one after the other: worksong-node, worksong-kernel, worksong-rust, worksong-python, pm2,
    /// pm2-graceful, recluster, node-cluster
    #[arg(long, global = true, value_delimiter = ',', value_name = "NAMES", default_value = "worksong-node")]
    systems: Vec<String>,

    /// Use a server that is there already, `http://host:port/path`; its answers are only checked for being whole
    #[arg(long, global = true, value_name = "URL", conflicts_with = "systems")]
    url: Option<String>,

    /// What a shell runs to reload the server of --url; it ends when the reload has
    #[arg(long, global = true, value_name = "COMMAND", requires = "url")]
    reload_command: Option<String>,

    /// Where pauses and sizes come from: the same number gives the same schedule of clients
    #[arg(long, global = true, value_name = "NUMBER", default_value_t = 1)]
    seed: u64,

    /// How many clients of a class there are, such as keep-alive=100,websocket=0
    #[arg(long, global = true, value_delimiter = ',', value_name = "CLASS=N")]
    clients: Vec<String>,

    /// Workers of each system
    #[arg(long, global = true, value_name = "N", default_value_t = 2)]
    workers: usize,

    /// Major version of Node: 18, 20, 22 or 24
    #[arg(long, global = true, value_name = "VERSION", default_value = "24")]
    node: String,

    /// The worksong executable; the one of this build otherwise
    #[arg(long, global = true, value_name = "PATH")]
    worksong: Option<PathBuf>,

    /// Seconds that a worker which is replaced has for what it began, with every system
    #[arg(long, global = true, value_name = "SECONDS", default_value_t = 5)]
    deadline: u64,
}

#[derive(Clone, Copy, Debug, Subcommand)]
enum Step {
    /// Reload again and again, each time after the end of the last
    Reload {
        /// How often
        #[arg(long, value_name = "N", default_value_t = 20)]
        reloads: u32,
    },
    /// Kill all workers at once with SIGKILL, each time after somebody was served again
    KillAll {
        /// How often
        #[arg(long, value_name = "N", default_value_t = 20)]
        kills: u32,
    },
    /// Do nothing, to see what the clients find then
    None {
        /// For how long
        #[arg(long, value_name = "SECONDS", default_value_t = 10)]
        seconds: u64,
    },
}

/// A system that was asked for.
pub(crate) enum Chosen {
    Started(Kind),
    Custom(Custom),
}

impl Chosen {
    pub(crate) fn name(&self) -> &str {
        match self {
            Self::Started(kind) => kind.name(),
            Self::Custom(_) => "server",
        }
    }
}

impl Options {
    pub(crate) fn scenario(&self) -> Scenario {
        match self.scenario {
            Step::Reload { reloads } => Scenario::Reload(reloads),
            Step::KillAll { kills } => Scenario::KillAll(kills),
            Step::None { seconds } => Scenario::Idle(Duration::from_secs(seconds)),
        }
    }

    /// How long clients go on after the last step: what is cut at the deadline has to be seen.
    pub(crate) fn after(&self) -> Duration {
        Duration::from_secs(self.deadline + 2)
    }

    pub(crate) fn settings(&self) -> Settings {
        Settings {
            workers: self.workers,
            node: self.node.clone(),
            worksong: self.worksong.clone(),
            deadline: Duration::from_secs(self.deadline),
        }
    }

    pub(crate) fn systems(&self) -> Result<Vec<Chosen>, String> {
        if let Some(url) = &self.url {
            return Ok(vec![Chosen::Custom(Custom::new(url, self.reload_command.clone())?)]);
        }
        self.systems
            .iter()
            .map(|name| Kind::named(name).map(Chosen::Started).ok_or_else(|| unknown_system(name)))
            .collect()
    }

    pub(crate) fn plan(&self) -> Result<Plan, String> {
        let mut crowd = Crowd::default();
        for entry in &self.clients {
            let parts = entry.split_once('=').and_then(|(name, count)| Some((name, count.parse().ok()?)));
            let (name, count) = parts.ok_or_else(|| format!("--clients {entry} is not CLASS=N"))?;
            crowd = crowd.with(Class::named(name).ok_or_else(|| unknown_class(name))?, count);
        }
        Ok(Plan { seed: self.seed, crowd, ..Plan::default() })
    }
}

fn unknown_system(name: &str) -> String {
    let names = Kind::ALL.map(Kind::name).join(", ");
    format!("--systems {name}: there is no such system; there are {names}")
}

fn unknown_class(name: &str) -> String {
    let names = Class::ALL.map(Class::name).join(", ");
    format!("--clients {name}: there is no such class; there are {names}")
}
