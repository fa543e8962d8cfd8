//! Ends what the benchmark started, also when the benchmark is killed.
//!
//! The guard is this same program as a second process. It reads `+PID` and `-PID` lines; when the pipe closes, for
//! whatever reason, it kills what is still on its list. A handler or a destructor could not do that after SIGKILL.
//! It holds pid descriptors, so a number that the kernel gave to another process is never hit.

use std::collections::HashMap;
use std::io::{BufRead, Write};
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt;
use std::process::{Child, ChildStdin, Command, Stdio};

use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

use crate::error::{Error, Result};

/// The hidden subcommand that makes the program a guard.
pub(crate) const SUBCOMMAND: &str = "guard";

/// A running guard; dropping it kills what it still watches.
#[derive(Debug)]
pub(crate) struct Guard {
    process: Child,
    /// `None` only while the guard is dropped.
    input: Option<ChildStdin>,
}

impl Guard {
    /// Starts the guard, in a process group of its own: it must outlive a Ctrl-C at the terminal.
    pub(crate) fn start() -> Result<Self> {
        let program = std::env::current_exe().map_err(Error::system("find the own executable"))?;
        let mut process = Command::new(program)
            .arg(SUBCOMMAND)
            .stdin(Stdio::piped())
            .process_group(0)
            .spawn()
            .map_err(Error::system("start the guard process"))?;
        let input = process.stdin.take();
        Ok(Self { process, input })
    }

    /// Puts a process on the list.
    pub(crate) fn watch(&self, pid: u32) -> Result<()> {
        self.tell('+', pid).map_err(Error::system(format!("tell the guard about process {pid}")))
    }

    /// Takes a process that has ended from the list.
    pub(crate) fn forget(&self, pid: u32) {
        // A guard that is gone watches nothing, which is what was asked for.
        drop(self.tell('-', pid));
    }

    fn tell(&self, sign: char, pid: u32) -> std::io::Result<()> {
        match &self.input {
            Some(input) => (&*input).write_all(format!("{sign}{pid}\n").as_bytes()),
            None => Ok(()),
        }
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        drop(self.input.take());
        drop(self.process.wait());
    }
}

/// Is the guard: follows the list until `input` ends, then kills what is left on it.
pub(crate) fn serve(input: impl BufRead) {
    let mut watched: HashMap<u32, OwnedFd> = HashMap::new();
    for line in input.lines() {
        let Ok(line) = line else { break };
        let Some((sign, pid)) = line.split_at_checked(1) else { continue };
        let Ok(pid) = pid.parse::<u32>() else { continue };
        if sign == "-" {
            watched.remove(&pid);
        } else if let Some(descriptor) = open(pid) {
            watched.insert(pid, descriptor);
        }
    }
    for descriptor in watched.values() {
        // The process may have ended by itself in the meantime.
        pidfd_send_signal(descriptor, Signal::KILL).ok();
    }
}

/// Returns a descriptor of a process, `None` when it is gone.
pub(crate) fn open(pid: u32) -> Option<OwnedFd> {
    let pid = Pid::from_raw(i32::try_from(pid).ok()?)?;
    pidfd_open(pid, PidfdFlags::empty()).ok()
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;
    use std::os::unix::process::ExitStatusExt;

    use super::*;

    fn waits_for_ever() -> Child {
        Command::new("cat").stdin(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap()
    }

    #[test]
    fn kills_what_is_left_and_nothing_else() {
        let mut left = waits_for_ever();
        let mut forgotten = waits_for_ever();
        let lines = format!("+{}\n+{}\nnonsense\n+\n-{}\n", left.id(), forgotten.id(), forgotten.id());
        serve(Cursor::new(lines));
        assert_eq!(left.wait().unwrap().signal(), Some(Signal::KILL.as_raw()));
        // `wait` closes the pipe first, so one that was spared ends by itself.
        assert_eq!(forgotten.wait().unwrap().code(), Some(0));
    }
}
