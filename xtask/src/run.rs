//! Running other programs, with errors that name them.

use std::ffi::OsStr;
use std::process::{Command, Stdio};

use crate::Outcome;

/// Runs a command to its end, with its output shown.
pub(crate) fn run(command: &mut Command) -> Outcome {
    let shown = shown(command);
    eprintln!("+ {shown}");
    // A question that nobody answers would wait for ever.
    match command.stdin(Stdio::null()).status() {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => Err(format!("`{shown}` failed: {status}")),
        Err(error) => Err(format!("could not run `{shown}`: {error}")),
    }
}

/// Returns what a command writes to stdout, trimmed.
pub(crate) fn output(command: &mut Command) -> Outcome<String> {
    let shown = shown(command);
    match command.stdin(Stdio::null()).output() {
        Ok(output) if output.status.success() => {
            Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
        }
        Ok(output) => {
            let reason = String::from_utf8_lossy(&output.stderr);
            Err(format!("`{shown}` failed: {}: {}", output.status, reason.trim()))
        }
        Err(error) => Err(format!("could not run `{shown}`: {error}")),
    }
}

/// Returns true when the command can be run and says that it succeeded.
pub(crate) fn succeeds(program: &str, arguments: &[&str]) -> bool {
    let mut command = Command::new(program);
    command.args(arguments).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command.status().is_ok_and(|status| status.success())
}

/// Returns the cargo that runs this command, in the checkout.
pub(crate) fn cargo<S: AsRef<OsStr>>(arguments: impl IntoIterator<Item = S>) -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.args(arguments).current_dir(crate::root());
    command
}

fn shown(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words.map(OsStr::to_string_lossy).collect::<Vec<_>>().join(" ")
}
