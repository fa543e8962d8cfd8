//! Any program beside worksong: a client, a peer, Node's own primary.

use std::process::{Command, ExitStatus, Stdio};

use rustix::process::Signal;

use crate::patience::patience;
use crate::running::{Line, Running};

/// A running program; dropping it kills it and everything that it started.
#[derive(Debug)]
pub struct Program {
    running: Running<Line>,
}

impl Program {
    /// Starts a program with its lines collected and nothing on stdin.
    #[must_use = "dropping it kills the program"]
    #[track_caller]
    pub fn start(command: &mut Command) -> Self {
        Self { running: Running::start(command.stdin(Stdio::null()), Line::clone) }
    }

    /// Returns its pid.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.running.pid()
    }

    /// Returns what it wrote until now.
    #[must_use]
    pub fn lines(&self) -> Vec<Line> {
        self.running.lines()
    }

    /// Waits for the first line that `find` has an answer for.
    #[track_caller]
    pub fn wait_line<T>(&self, what: &str, mut find: impl FnMut(&str) -> Option<T>) -> T {
        self.running.wait(what, patience(), |lines| lines.iter().find_map(|line| find(&line.text)))
    }

    /// Sends it a signal.
    #[track_caller]
    pub fn signal(&self, signal: Signal) {
        self.running.signal(signal);
    }

    /// Waits for its end.
    #[track_caller]
    pub fn wait_exit(&self) -> ExitStatus {
        self.running.wait_exit()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::eventually;
    use crate::process::{Process, children};
    use crate::running::Stream;

    fn shell(script: &str) -> Program {
        Program::start(Command::new("sh").args(["-c", script]))
    }

    #[test]
    fn lines_keep_their_stream_and_the_last_needs_no_end() {
        let program = shell("echo one; echo two >&2; printf three");
        assert!(program.wait_exit().success());
        let of = |stream| {
            let lines = program.lines().into_iter().filter(move |line| line.stream == stream);
            lines.map(|line| line.text).collect::<Vec<_>>()
        };
        assert_eq!(of(Stream::Stdout), ["one", "three"]);
        assert_eq!(of(Stream::Stderr), ["two"]);
    }

    #[test]
    fn a_line_that_was_there_before_is_found() {
        let program = shell("echo port 1234; exec sleep 1000");
        let port = |line: &str| line.strip_prefix("port ")?.parse::<u16>().ok();
        assert_eq!(program.wait_line("the port", port), 1234);
        assert_eq!(program.wait_line("the port", port), 1234);
    }

    #[test]
    #[should_panic = "wrote its last line before a second line"]
    fn a_wait_fails_as_soon_as_the_program_has_ended() {
        let program = shell("echo only");
        program.wait_line("a second line", |line| (line != "only").then_some(()));
    }

    #[test]
    fn dropping_it_ends_its_descendants() {
        let program = shell("sleep 1000 & echo up; wait");
        program.wait_line("its start", |line| (line == "up").then_some(()));
        let sleep = eventually("the grandchild", || children(program.pid()).first().copied());
        let shell = Process::find(program.pid()).unwrap();
        drop(program);
        assert!(!shell.is_alive());
        eventually("the end of the grandchild", || (!sleep.is_alive()).then_some(()));
    }

    #[test]
    fn dropping_it_ends_what_left_its_family() {
        let program = shell("(setsid sleep 1000 & echo $!)");
        let pid = program.wait_line("the pid", |line| line.parse::<u32>().ok());
        let orphan = Process::find(pid).unwrap();
        assert!(orphan.is_alive());
        drop(program);
        assert!(!orphan.is_alive());
    }

    #[test]
    fn a_signal_reaches_the_program() {
        use std::os::unix::process::ExitStatusExt;
        let program = shell("exec sleep 1000");
        program.signal(Signal::TERM);
        assert_eq!(program.wait_exit().signal(), Some(Signal::TERM.as_raw()));
    }
}
