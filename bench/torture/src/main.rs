//! `worksong-torture`: hostile clients, reloads, and a table of what was lost.

mod options;

use std::io::{self, Write};
use std::process::ExitCode;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

use clap::Parser;
use options::{Chosen, Options};
use tokio::runtime;
use tokio::signal::unix::{SignalKind, signal};
use worksong_torture::{Outcome, System, report};

fn main() -> ExitCode {
    let options = Options::parse();
    match run(&options) {
        Ok(outcomes) => {
            let failed = outcomes.iter().any(|(_, outcome)| outcome.ended_by.is_some());
            // A pipe that nobody reads is no failure of the run.
            let _unread = writeln!(io::stdout(), "{}", report(&outcomes));
            if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS }
        }
        Err(error) => {
            say(&format!("error: {error}"));
            ExitCode::from(2)
        }
    }
}

/// Uses one system after the other.
fn run(options: &Options) -> Result<Vec<(String, Outcome)>, String> {
    let plan = options.plan()?;
    let interrupt = interrupts();
    let mut outcomes = Vec::new();
    for chosen in options.systems()? {
        let name = chosen.name().to_owned();
        say(&format!("{name}: {:?}, seed {}", options.scenario(), plan.seed));
        let mut system: Box<dyn System> = match chosen {
            Chosen::Started(kind) => kind.start(&options.settings()),
            Chosen::Custom(custom) => Box::new(custom),
        };
        let outcome = options.scenario().run(system.as_mut(), &plan, options.after(), Some(&interrupt));
        let ended = outcome.ended_by.is_some();
        outcomes.push((name, outcome));
        if ended {
            break;
        }
    }
    Ok(outcomes)
}

/// Returns where a message comes in when SIGINT or SIGTERM asks to end: what was started is ended in good order then.
fn interrupts() -> Receiver<()> {
    let (sender, receiver) = sync_channel(1);
    std::thread::spawn(move || {
        let runtime = runtime::Builder::new_current_thread().enable_all().build();
        // Without it a signal ends the process as it always does.
        let Ok(runtime) = runtime else { return std::mem::forget(sender) };
        runtime.block_on(wait(&sender));
    });
    receiver
}

async fn wait(sender: &SyncSender<()>) {
    let (Ok(mut interrupted), Ok(mut terminated)) =
        (signal(SignalKind::interrupt()), signal(SignalKind::terminate()))
    else {
        return std::future::pending().await;
    };
    loop {
        tokio::select! {
            _ = interrupted.recv() => {}
            _ = terminated.recv() => {}
        }
        // One that is waiting already says the same.
        let _full = sender.try_send(());
    }
}

/// Progress goes to stderr, the report to stdout.
fn say(text: &str) {
    let _unread = writeln!(io::stderr(), "{text}");
}
