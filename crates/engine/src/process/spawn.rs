//! From a prepared description to a running process: `fork`, a few async-signal-safe calls, `execve`.
//!
//! `std::process::Command` is not used because a worker gets descriptors at exact numbers and `LISTEN_PID`, which
//! only the child itself knows, in its environment; `std` also keeps an error pipe at a number of its own choice.

#![expect(unsafe_code, reason = "fork and exec with exact descriptors; see each SAFETY comment")]

use std::ffi::{CString, OsStr, OsString, c_char, c_int};
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::ptr;

use super::notifier::{Asks, Handing};
use crate::shortage::Shortage;

/// The longest process id in decimal.
const PID_DIGITS: usize = 10;

/// What is executed, in full; nothing is inherited that is not named here, but the working directory.
#[derive(Debug)]
pub(crate) struct Launch {
    /// The executable's path.
    pub(crate) program: OsString,
    /// All arguments, the name of the program first.
    pub(crate) arguments: Vec<OsString>,
    /// The whole environment.
    pub(crate) environment: Vec<(OsString, OsString)>,
    /// The working directory; `None` keeps this process's.
    pub(crate) directory: Option<OsString>,
    /// Which descriptor the child has at which number. Everything else is closed by `FD_CLOEXEC`.
    pub(crate) descriptors: Vec<(OwnedFd, RawFd)>,
    /// Adds `LISTEN_PID` with the child's own process id.
    pub(crate) listen_pid: bool,
    /// Whether it lives on when the thread that starts it ends.
    pub(crate) outlives_parent: bool,
    /// What the kernel asks us about.
    pub(crate) asks: Option<Asks>,
}

/// A process that was started.
#[derive(Debug)]
pub(crate) struct Started {
    pub(crate) pid: u32,
    /// How the kernel asks, if that was wished.
    pub(crate) notifier: Option<OwnedFd>,
}

/// Why a program could not be started.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SpawnError {
    #[error("a NUL byte stands in {what}; the system cannot pass it on")]
    NulByte { what: &'static str },
    #[error("could not change to the working directory {directory}: {source}")]
    Directory { directory: String, source: io::Error },
    #[error("could not execute {program}: {source}")]
    Execute { program: String, source: io::Error },
    #[error(
        "could not start a process for {program}: {source}; the system may be out of processes or memory"
    )]
    Fork { program: String, source: io::Error },
    #[error("could not prepare the process for {program}: {source}")]
    Prepare { program: String, source: io::Error },
    #[error("could not watch the ports of {program}: {source}; use --dialect port")]
    Watch { program: String, source: io::Error },
}

impl SpawnError {
    /// Returns what the system was short of, if it was that.
    pub(crate) fn shortage(&self) -> Option<Shortage> {
        match self {
            Self::NulByte { .. } => None,
            Self::Directory { source, .. }
            | Self::Execute { source, .. }
            | Self::Fork { source, .. }
            | Self::Prepare { source, .. }
            | Self::Watch { source, .. } => Shortage::of_process(source),
        }
    }
}

/// The step at which a child gave up; written to the error pipe with its errno.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
enum Step {
    Prepare = 1,
    Directory = 2,
    Execute = 3,
    Watch = 4,
}

/// Starts the program and returns its process once it was executed.
///
/// The child is the leader of a process group of its own and, unless it outlives its parent, gets SIGKILL when the
/// calling *thread* ends: call this on a thread that lives as long as the process.
pub(crate) fn spawn(launch: Launch) -> Result<Started, SpawnError> {
    let program = launch.program.to_string_lossy().into_owned();
    let prepare = |source: io::Error| SpawnError::Prepare { program: program.clone(), source };
    let image = Image::new(&launch)?;
    // Above all that the child is given, so that putting them at their numbers cannot overwrite another one; not
    // higher, because the limit of open files may be low.
    let free = launch.descriptors.iter().map(|(_, number)| number + 1).max().unwrap_or(0).max(3);
    let moved = launch
        .descriptors
        .into_iter()
        .map(|(descriptor, number)| Ok((move_up(&descriptor, free)?, number)))
        .collect::<io::Result<Vec<_>>>()
        .map_err(prepare)?;
    let (report, low) =
        rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).map_err(|error| prepare(error.into()))?;
    let reporter = move_up(&low, free).map_err(prepare)?;
    drop(low);

    let handing = launch.asks.map(|asks| Handing::new(free, asks)).transpose();
    let handing = handing.map_err(|source| SpawnError::Watch { program: program.clone(), source })?;

    let mut child = Child {
        image,
        moves: moved.iter().map(|(descriptor, number)| (descriptor.as_raw_fd(), *number)).collect(),
        reporter: reporter.as_raw_fd(),
        parent: rustix::process::getpid().as_raw_nonzero().get(),
        outlives_parent: launch.outlives_parent,
        handing,
    };
    let pid = fork_with_signals_blocked(&mut child)
        .map_err(|source| SpawnError::Fork { program: program.clone(), source })?;
    drop(reporter);

    match read_report(&report) {
        None => {
            let received = child.handing.map(Handing::receive).transpose();
            let notifier = received.map_err(|source| {
                // Nobody would answer when it binds.
                kill(pid);
                reap(pid);
                SpawnError::Watch { program, source }
            })?;
            Ok(Started { pid: pid.cast_unsigned(), notifier })
        }
        Some((step, errno)) => {
            reap(pid);
            let source = io::Error::from_raw_os_error(errno);
            Err(match step {
                Step::Directory => SpawnError::Directory {
                    directory: launch.directory.unwrap_or_default().to_string_lossy().into_owned(),
                    source,
                },
                Step::Execute => SpawnError::Execute { program, source },
                Step::Prepare => SpawnError::Prepare { program, source },
                Step::Watch => SpawnError::Watch { program, source },
            })
        }
    }
}

/// The strings of `execve`, laid out before the fork: the child must not allocate.
struct Image {
    program: CString,
    directory: Option<CString>,
    arguments: Vec<*const c_char>,
    environment: Vec<*const c_char>,
    /// `LISTEN_PID=` and room for the digits; the pointer in `environment` points here.
    listen_pid: Option<Box<[u8]>>,
    _strings: Vec<CString>,
}

const LISTEN_PID: &[u8] = b"LISTEN_PID=";

impl Image {
    fn new(launch: &Launch) -> Result<Self, SpawnError> {
        let c_string =
            |text: &OsStr, what| CString::new(text.as_bytes()).map_err(|_nul| SpawnError::NulByte { what });
        let mut strings = Vec::new();
        let mut arguments = Vec::new();
        for argument in &launch.arguments {
            strings.push(c_string(argument, "an argument")?);
            arguments.push(strings[strings.len() - 1].as_ptr());
        }
        arguments.push(ptr::null());
        let mut environment = Vec::new();
        for (name, value) in &launch.environment {
            let mut entry = name.clone().into_vec();
            entry.push(b'=');
            entry.extend_from_slice(value.as_bytes());
            strings.push(c_string(OsStr::from_bytes(&entry), "an environment variable")?);
            environment.push(strings[strings.len() - 1].as_ptr());
        }
        let listen_pid = launch.listen_pid.then(|| {
            let mut entry = LISTEN_PID.to_vec();
            entry.resize(LISTEN_PID.len() + PID_DIGITS + 1, 0);
            entry.into_boxed_slice()
        });
        if let Some(entry) = &listen_pid {
            environment.push(entry.as_ptr().cast());
        }
        environment.push(ptr::null());
        Ok(Self {
            program: c_string(&launch.program, "the program's path")?,
            directory: launch
                .directory
                .as_deref()
                .map(|directory| c_string(directory, "the working directory"))
                .transpose()?,
            arguments,
            environment,
            listen_pid,
            _strings: strings,
        })
    }
}

/// Everything that the child touches between fork and exec.
struct Child {
    image: Image,
    moves: Vec<(RawFd, RawFd)>,
    reporter: RawFd,
    parent: c_int,
    outlives_parent: bool,
    handing: Option<Handing>,
}

/// Forks with all signals blocked, so that no handler of this process runs in the child.
fn fork_with_signals_blocked(child: &mut Child) -> io::Result<c_int> {
    // SAFETY: the sets are initialised by `sigfillset` before they are read, and the old mask is restored on the
    // same thread. `fork` in a threaded process is sound because the child only makes async-signal-safe calls
    // (see `Child::run`) before it executes or exits.
    unsafe {
        let mut all: libc::sigset_t = std::mem::zeroed();
        let mut before: libc::sigset_t = std::mem::zeroed();
        libc::sigfillset(&raw mut all);
        libc::pthread_sigmask(libc::SIG_SETMASK, &raw const all, &raw mut before);
        let pid = libc::fork();
        if pid == 0 {
            child.run();
        }
        let error = io::Error::last_os_error();
        libc::pthread_sigmask(libc::SIG_SETMASK, &raw const before, ptr::null_mut());
        if pid < 0 { Err(error) } else { Ok(pid) }
    }
}

impl Child {
    /// Runs in the child and never returns.
    ///
    /// # Safety
    ///
    /// Only to be called in a freshly forked child whose signals are blocked. It makes async-signal-safe calls
    /// only, allocates nothing, and drops nothing that its parent still owns.
    unsafe fn run(&mut self) -> ! {
        // SAFETY: all pointers of the image point into strings that live in this (copied) address space; the calls
        // are on the list of signal-safety(7).
        unsafe {
            let step = self.prepare_and_execute();
            let errno = *libc::__errno_location();
            let [a, b, c, d] = errno.to_ne_bytes();
            let report = [step as u8, a, b, c, d];
            libc::write(self.reporter, report.as_ptr().cast(), report.len());
            libc::_exit(127)
        }
    }

    /// Returns the step that failed; `errno` says why.
    ///
    /// # Safety
    ///
    /// As for [`run`](Self::run).
    unsafe fn prepare_and_execute(&mut self) -> Step {
        // SAFETY: plain system calls on numbers and on pointers into the image, in a single-threaded child.
        unsafe {
            if libc::setpgid(0, 0) != 0 {
                return Step::Prepare;
            }
            if !self.outlives_parent && libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) != 0 {
                return Step::Prepare;
            }
            // The primary may have died before the line above took effect.
            if libc::getppid() != self.parent {
                libc::_exit(127);
            }
            // Handlers and ignored signals of the primary are its own affair. SIGKILL and SIGSTOP refuse: harmless.
            for signal in 1..=libc::SIGRTMAX() {
                libc::signal(signal, libc::SIG_DFL);
            }
            let mut none: libc::sigset_t = std::mem::zeroed();
            libc::sigemptyset(&raw mut none);
            libc::sigprocmask(libc::SIG_SETMASK, &raw const none, ptr::null_mut());
            // What this process has open by inheritance is not the worker's. Before Linux 5.9 there is no such call.
            libc::syscall(libc::SYS_close_range, 3_u32, u32::MAX, libc::CLOSE_RANGE_CLOEXEC);
            for &(source, number) in &self.moves {
                if libc::dup2(source, number) < 0 {
                    return Step::Prepare;
                }
            }
            if let Some(directory) = &self.image.directory
                && libc::chdir(directory.as_ptr()) != 0
            {
                return Step::Directory;
            }
            if let Some(entry) = &mut self.image.listen_pid {
                write_decimal(&mut entry[LISTEN_PID.len()..], libc::getpid().cast_unsigned());
            }
            // Last of all: what comes before it must not wait for an answer.
            if let Some(handing) = &self.handing
                && !handing.set_and_send()
            {
                return Step::Watch;
            }
            libc::execve(
                self.image.program.as_ptr(),
                self.image.arguments.as_ptr(),
                self.image.environment.as_ptr(),
            );
            Step::Execute
        }
    }
}

/// Writes a number and a NUL byte; `room` is at least [`PID_DIGITS`] + 1 long.
fn write_decimal(room: &mut [u8], mut number: u32) {
    let mut digits = [0_u8; PID_DIGITS];
    let mut at = digits.len();
    loop {
        at -= 1;
        digits[at] = b'0' + (number % 10) as u8;
        number /= 10;
        if number == 0 {
            break;
        }
    }
    let count = digits.len() - at;
    room[..count].copy_from_slice(&digits[at..]);
    room[count] = 0;
}

/// Returns what the child reported; `None` when it executed the program (the pipe closed without a word).
fn read_report(report: &OwnedFd) -> Option<(Step, i32)> {
    let mut bytes = [0_u8; 5];
    let mut length = 0;
    while length < bytes.len() {
        match rustix::io::read(report, &mut bytes[length..]) {
            Ok(0) => break,
            Ok(count) => length += count,
            Err(rustix::io::Errno::INTR) => {}
            Err(_) => break,
        }
    }
    let [step, errno @ ..] = bytes;
    let step = match step {
        1 => Step::Prepare,
        2 => Step::Directory,
        3 => Step::Execute,
        4 => Step::Watch,
        _ => return None,
    };
    Some((step, i32::from_ne_bytes(errno)))
}

/// Reaps a child that never executed its program, unless a general reaper was faster.
fn reap(pid: c_int) {
    if let Some(pid) = rustix::process::Pid::from_raw(pid) {
        while let Err(rustix::io::Errno::INTR) =
            rustix::process::waitpid(Some(pid), rustix::process::WaitOptions::empty())
        {}
    }
}

fn kill(pid: c_int) {
    if let Some(pid) = rustix::process::Pid::from_raw(pid) {
        // It has ended already: so much the better.
        let _gone = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
    }
}

/// Duplicates a descriptor to `free` or the next number above it.
fn move_up(descriptor: &OwnedFd, free: RawFd) -> io::Result<OwnedFd> {
    Ok(rustix::io::fcntl_dupfd_cloexec(descriptor, free)?)
}

/// Duplicates a descriptor of this process that is known by its number only (`listen({fd})`, `LISTEN_FDS`).
pub(crate) fn duplicate_number(number: RawFd) -> io::Result<OwnedFd> {
    if number < 0 {
        return Err(io::Error::from_raw_os_error(libc::EBADF));
    }
    // SAFETY: the number is only looked up by the kernel, for the length of this call; a closed one gives EBADF.
    let borrowed = unsafe { BorrowedFd::borrow_raw(number) };
    Ok(rustix::io::fcntl_dupfd_cloexec(borrowed, 0)?)
}

#[cfg(test)]
mod tests;
