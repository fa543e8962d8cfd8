//! Programs that run apps by the library, in their own process.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking, also in its helpers")]

mod apps;
mod capturing;
mod inherited;
mod messages;
mod queues;
mod resizing;
mod serving;
mod sessions;
mod steering;
mod sticky;

use std::ffi::OsString;
use std::future::Future;
use std::path::PathBuf;

use worksong_engine::spec::{
    AppSpec, Command, Deadlines, Dialect, OpenLimits, Policies, Ready, RecycleLimits, Replacement,
    RestartPolicy, StopSignal,
};
use worksong_testkit::patience;

/// An app of a program with its arguments, and everything else as it is by default.
fn spec(
    name: &str,
    program: PathBuf,
    arguments: impl Into<Vec<OsString>>,
    instances: u32,
    dialect: Dialect,
) -> AppSpec {
    AppSpec {
        name: name.to_owned(),
        command: Command { program, args: arguments.into(), cwd: None, env: Vec::new() },
        instances,
        dialect,
        policies: Policies::default(),
        listen: Vec::new(),
        capture: Vec::new(),
        ready: Ready::default(),
        deadlines: Deadlines::default(),
        stop_signal: StopSignal::default(),
        restart: RestartPolicy::default(),
        agent: true,
        replacement: Replacement::default(),
        recycle: RecycleLimits::default(),
        limits: OpenLimits::default(),
    }
}

async fn in_time<T>(what: &str, future: impl Future<Output = T>) -> T {
    let time = patience();
    let outcome = tokio::time::timeout(time, future).await;
    outcome.unwrap_or_else(|_late| panic!("waited {time:?} in vain for {what}"))
}

fn run(test: impl Future<Output = ()>) {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(test);
}
