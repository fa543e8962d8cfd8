//! worksong itself, with workers in three languages.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use worksong_testkit::{self as testkit, Event, Launch, Signal, binary, fixture};

use crate::class::{Class, Crowd};
use crate::target::{Contract, Target};

use super::{HTTP1, Settings, System, ports};

/// The longest time that a reload may take; it fails by itself after the ready timeout of 30 s.
const RELOAD: Duration = Duration::from_mins(1);

/// A running primary with its workers.
pub(super) struct Worksong {
    primary: testkit::Worksong,
    target: Target,
    classes: &'static [Class],
    generation: u32,
}

impl Worksong {
    /// Starts it with Node workers, which find connections by this policy.
    pub(super) fn node(settings: &Settings, policy: &str) -> Self {
        let primary = launch(settings, &["--policy", policy]).program(fixture("node/torture.js")).start();
        primary.wait_ready(settings.workers);
        let (http, http2) = primary.wait_output("its ports", |output| ports(&output.line));
        Self::new(primary, http, Some(http2), &Class::ALL)
    }

    /// Starts it with Rust workers.
    pub(super) fn rust(settings: &Settings) -> Self {
        let primary =
            launch(settings, &["--dialect", "native"]).program(binary("worksong-torture-server")).start();
        primary.wait_ready(settings.workers);
        let port = primary.listening_port();
        Self::new(primary, port, Some(port), &Class::ALL)
    }

    /// Starts it with gunicorn as its workers.
    pub(super) fn python(settings: &Settings) -> Self {
        // It ends before the deadline, and does not end by itself what clients keep: two seconds are its default.
        let graceful = settings.deadline.as_secs().saturating_sub(1).max(1).to_string();
        let gunicorn = ["gunicorn", "--worker-class", "gthread", "--threads", "64", "--keep-alive", "75"];
        let primary = launch(settings, &["--listen", "127.0.0.1:0", "--cwd"])
            .program(fixture("python"))
            .args(gunicorn)
            .args(["--graceful-timeout", &graceful, "torture:app"])
            .env("PYTHONDONTWRITEBYTECODE", "1")
            .start();
        primary.wait_ready(settings.workers);
        let port = primary.wait_event("bound", |_| true)["port"].as_u64();
        let port = port.and_then(|port| u16::try_from(port).ok()).expect("a port is a u16");
        Self::new(primary, port, None, &HTTP1)
    }

    fn new(primary: testkit::Worksong, http: u16, http2: Option<u16>, classes: &'static [Class]) -> Self {
        let address = |port| SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let target = Target { http: address(http), http2: http2.map(address), contract: Contract::Full };
        Self { primary, target, classes, generation: 1 }
    }
}

/// Workers that are killed are no reason to wait longer each time, or to give up.
const RESTARTS: [&str; 4] = ["--max-restart-delay", "100ms", "--max-restarts", "1000000"];
/// A reload does not wait for workers that earlier ones have replaced: many generations leave at the same time.
const OVERLAP: [&str; 2] = ["--parallel", "1000000"];

/// The events that tell of workers or connections in trouble, whatever is done to them.
const INCIDENTS: [&str; 8] =
    ["dropped", "errored", "garbage", "held_too_long", "not_ready", "responsive", "shed", "unresponsive"];

fn launch(settings: &Settings, options: &[&str]) -> Launch {
    let deadline = format!("{}s", settings.deadline.as_secs());
    let launch = testkit::Worksong::run(["-i", &settings.workers.to_string(), "--drain-timeout", &deadline])
        .args(RESTARTS)
        .args(OVERLAP)
        .args(options)
        .node(&settings.node);
    match &settings.worksong {
        Some(path) => launch.binary(path),
        None => launch,
    }
}

impl System for Worksong {
    fn target(&self) -> Target {
        self.target.clone()
    }

    fn crowd(&self, crowd: Crowd) -> Crowd {
        crowd.only(self.classes)
    }

    fn reload(&mut self) -> Result<(), String> {
        self.generation += 1;
        self.primary.signal(Signal::HUP);
        self.primary.wait_event_within(RELOAD, "reload_done", |event| event.generation() == self.generation);
        Ok(())
    }

    fn workers(&self) -> Vec<u32> {
        self.primary.worker_pids().into_iter().collect()
    }

    fn cut(&self) -> Option<u64> {
        let cut_by = |generation| {
            let is_report = |event: &Event| event.generation() == generation;
            self.primary.wait_event_within(RELOAD, "reload_report", is_report)["cut"].as_u64()
        };
        let has_reloaded = self.generation > 1;
        has_reloaded.then(|| (2..=self.generation).map(cut_by).sum()).flatten()
    }

    fn incidents(&self) -> Vec<String> {
        let is_incident = |event: &Event| match event.name() {
            "exit" => event["voluntary"] == false,
            name => INCIDENTS.contains(&name),
        };
        self.primary.events().iter().filter(|event| is_incident(event)).map(ToString::to_string).collect()
    }
}
