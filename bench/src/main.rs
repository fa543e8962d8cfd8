//! Side-by-side benchmarks of worksong and Node's own cluster; `bench/README.md` says how to read them.

#![forbid(unsafe_code)]

mod benchmarks;
mod cluster;
mod error;
mod guard;
mod load;
mod options;
mod process;
mod response;
mod rounds;
mod session;
mod stats;
mod system;
mod table;

use std::error::Error as _;
use std::io::Write;
use std::process::ExitCode;

use crate::error::{Error, Result};
use crate::options::{HELP, Options};
use crate::session::Session;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let outcome = match arguments.first().map(String::as_str) {
        Some(guard::SUBCOMMAND) => {
            guard::serve(std::io::stdin().lock());
            Ok(())
        }
        Some("help") => session::print(HELP),
        _ if arguments.iter().any(|argument| argument == "--help" || argument == "-h") => {
            session::print(HELP)
        }
        _ => measure(arguments),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            report(&error);
            ExitCode::from(if matches!(error, Error::Usage(_)) { 2 } else { 1 })
        }
    }
}

fn measure(arguments: Vec<String>) -> Result<()> {
    let program = std::env::current_exe().map_err(Error::system("find the own executable"))?;
    let beside = program.parent().unwrap_or(&program);
    let session = Session::open(Options::parse(arguments, beside)?)?;
    session.print_heading()?;
    for &benchmark in &session.options.benchmarks {
        benchmarks::run(&session, benchmark)?;
    }
    Ok(())
}

fn report(error: &Error) {
    let mut text = format!("worksong-bench: {error}");
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    // Where stderr is closed there is nobody to tell.
    writeln!(std::io::stderr(), "{text}").ok();
}
