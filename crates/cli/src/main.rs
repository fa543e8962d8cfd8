//! worksong runs any server program on every core.

mod args;
mod demo;
mod foreground;
mod narrator;
mod plan;
mod printer;

use std::fmt::Display;
use std::io::{self, Write};
use std::process::ExitCode;

use clap::Parser;
use clap::error::ErrorKind;

use crate::args::{Cli, Command, OutputArgs};
use crate::plan::{Plan, PlanError, Surroundings};

/// The exit code of wrong use, as clap has it too.
const WRONG_USE: u8 = 2;
const FAILED: u8 = 1;

fn main() -> ExitCode {
    if let Some(code) = worksong_engine::guard::run_if_asked() {
        return code;
    }
    if demo::is_worker() {
        return demo::worker_main();
    }
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return refuse(&error),
    };
    let surroundings = Surroundings::read();
    let code = match cli.command {
        Command::Run(args) => {
            let output = args.output.clone();
            run(plan::plan(*args, &surroundings), &output)
        }
        Command::Demo(args) => run(plan::plan_demo(&args, &surroundings), &args.output),
    };
    ExitCode::from(code)
}

fn run(plan: Result<Plan, PlanError>, output: &OutputArgs) -> u8 {
    let plan = match plan {
        Ok(plan) => plan,
        Err(error) => return complain(&error, WRONG_USE),
    };
    match foreground::run(plan, output) {
        Ok(end) => end.code(),
        Err(error) => complain(&error, FAILED),
    }
}

/// Prints what clap has to say: help and versions are its errors too.
fn refuse(error: &clap::Error) -> ExitCode {
    // Nobody reads it when it cannot be printed.
    let _unread = error.print();
    if error.kind() == ErrorKind::InvalidSubcommand {
        let _unread = writeln!(io::stderr(), "\nTo run a program, type `worksong run PROGRAM`.");
    }
    ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(WRONG_USE))
}

/// Prints an error the way clap does and returns its exit code.
fn complain(error: &dyn Display, code: u8) -> u8 {
    let _unread = writeln!(io::stderr(), "error: {error}");
    code
}
