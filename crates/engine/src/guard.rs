//! A process that outlives the primary by a moment, to end what the primary leaves behind.
//!
//! A primary that ends by itself ends everything below it first. One that gets SIGKILL cannot: the kernel kills
//! its workers (`PR_SET_PDEATHSIG`), but not the processes that those have started. The guard reads from a pipe
//! whose writing end only the primary holds; when that closes, it kills every process that carries the mark of
//! this primary's workers in its environment, and ends.

use std::ffi::OsString;
use std::io;
use std::io::Read;
use std::os::fd::OwnedFd;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use rustix::pipe::{PipeFlags, pipe_with};

use crate::process::mark::{MARK, Stamp};
use crate::process::spawn::{Launch, spawn};
use crate::process::tree;

/// Tells a process that it is the guard of the primary whose workers have this stamp.
const VARIABLE: &str = "WORKSONG_GUARD";
/// For how long the guard looks for processes that are just being started.
const PATIENCE: Duration = Duration::from_secs(5);

/// The primary's end of its guard; dropping it makes the guard look for leftovers and end.
#[derive(Debug)]
pub(crate) struct Guard {
    pid: u32,
    _alive: OwnedFd,
}

impl Guard {
    /// Starts this executable again with these arguments, as the guard of this process.
    pub(crate) fn start(arguments: Vec<OsString>, stamp: &Stamp) -> io::Result<Self> {
        let (alive, held) = pipe_with(PipeFlags::CLOEXEC)?;
        let null = || std::fs::OpenOptions::new().write(true).open("/dev/null").map(OwnedFd::from);
        let own = std::env::vars_os().filter(|(name, _)| name != MARK);
        let asked = (OsString::from(VARIABLE), stamp.value());
        let environment = own.chain([asked]).collect();
        let launch = Launch {
            // Also when the file was replaced by a newer version meanwhile.
            program: OsString::from("/proc/self/exe"),
            arguments,
            environment,
            directory: None,
            descriptors: vec![(alive, 0), (null()?, 1), (null()?, 2)],
            listen_pid: false,
            outlives_parent: true,
            asks: None,
        };
        let started = spawn(launch).map_err(io::Error::other)?;
        Ok(Self { pid: started.pid, _alive: held })
    }

    /// Returns the guard's process id.
    pub(crate) fn pid(&self) -> u32 {
        self.pid
    }
}

/// Does the guard's work when this process was started as one, and returns how it ended; `None` otherwise.
///
/// Call it first in `main`, before anything that a second process should not do.
#[must_use]
pub fn run_if_asked() -> Option<ExitCode> {
    let primary = Stamp::told(std::env::var(VARIABLE).ok()?);
    // Nobody ever writes: the read ends when the primary does.
    let _end = io::stdin().lock().read(&mut [0]);
    let deadline = Instant::now() + PATIENCE;
    while tree::kill_all_of(&primary) > 0 && Instant::now() < deadline {
        // A killed process is gone at its next breath; what it was about to fork may still appear.
        std::thread::yield_now();
    }
    Some(ExitCode::SUCCESS)
}
