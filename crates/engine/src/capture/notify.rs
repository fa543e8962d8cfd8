//! The kernel's questions about what a program does with its sockets, and our answers (`seccomp_unotify(2)`).
#![expect(unsafe_code, reason = "ioctls that no library knows; see each SAFETY comment")]

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};

/// The descriptor by which the kernel asks for one worker and all that it starts.
///
/// While it is open and unanswered, the thread that asks stands still; once it is closed, such calls fail.
#[derive(Debug)]
pub(super) struct Notifier(OwnedFd);

/// A call that waits for an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Question {
    /// What it is answered by.
    pub(super) id: u64,
    /// The thread that made it.
    pub(super) thread: u32,
    pub(super) call: Call,
}

/// What is asked about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Call {
    Bind {
        /// The number that the socket has there.
        socket: RawFd,
        /// Where its memory holds the address, and how long that is.
        address: u64,
        length: u64,
    },
    Listen {
        socket: RawFd,
    },
    /// `getsockopt` with `SO_ACCEPTCONN`.
    LookWhetherItListens {
        socket: RawFd,
        /// Where its memory has room for the answer, and says how much.
        value: u64,
        length: u64,
    },
    /// `unlink` or `unlinkat`, which removes a file.
    Remove {
        /// The number of the folder there that the path is relative to.
        folder: RawFd,
        /// Where its memory holds the path.
        path: u64,
    },
    /// None that the filter asks about.
    Other,
}

/// What becomes of the call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Answer {
    /// The kernel makes it as if nobody had asked.
    Continue,
    /// It is done already.
    Done,
    /// It fails with this errno.
    Fail(i32),
}

impl Notifier {
    pub(super) fn new(descriptor: OwnedFd) -> Self {
        Self(descriptor)
    }

    /// Takes the next question; `None` when who asked has been killed meanwhile.
    pub(super) fn receive(&self) -> io::Result<Option<Question>> {
        // SAFETY: all of it are integers, for which zeros are values.
        let mut told: libc::seccomp_notif = unsafe { std::mem::zeroed() };
        // SAFETY: the kernel writes one such struct, whose size is part of the request's number.
        let result = unsafe { libc::ioctl(self.raw(), libc::SECCOMP_IOCTL_NOTIF_RECV, &raw mut told) };
        if result != 0 {
            let error = io::Error::last_os_error();
            return match error.raw_os_error() {
                Some(libc::ENOENT | libc::EINTR | libc::EAGAIN) => Ok(None),
                _ => Err(error),
            };
        }
        let [first, second, third, fourth, fifth, _] = told.data.args;
        // Descriptors are ints: the upper half of the register may hold anything.
        let socket = first as RawFd;
        let call = match i64::from(told.data.nr) {
            libc::SYS_bind => Call::Bind { socket, address: second, length: u64::from(third as u32) },
            libc::SYS_listen => Call::Listen { socket },
            libc::SYS_getsockopt => Call::LookWhetherItListens { socket, value: fourth, length: fifth },
            #[cfg(target_arch = "x86_64")]
            libc::SYS_unlink => Call::Remove { folder: libc::AT_FDCWD, path: first },
            // With a flag it removes a folder.
            libc::SYS_unlinkat if third as u32 == 0 => Call::Remove { folder: first as RawFd, path: second },
            _ => Call::Other,
        };
        Ok(Some(Question { id: told.id, thread: told.pid, call }))
    }

    /// Returns true while who asked waits for the answer: what was read of it before is its own then.
    pub(super) fn still_waits(&self, question: &Question) -> bool {
        let id: u64 = question.id;
        // SAFETY: the kernel reads one number during the call.
        unsafe { libc::ioctl(self.raw(), libc::SECCOMP_IOCTL_NOTIF_ID_VALID, &raw const id) == 0 }
    }

    /// Puts a socket in place of the one that has this number there.
    pub(super) fn put(
        &self,
        question: &Question,
        socket: BorrowedFd<'_>,
        number: RawFd,
        close_on_exec: bool,
    ) -> io::Result<()> {
        let addition = libc::seccomp_notif_addfd {
            id: question.id,
            flags: libc::SECCOMP_ADDFD_FLAG_SETFD as u32,
            srcfd: socket.as_raw_fd().cast_unsigned(),
            newfd: number.cast_unsigned(),
            newfd_flags: if close_on_exec { libc::O_CLOEXEC.cast_unsigned() } else { 0 },
        };
        loop {
            // SAFETY: the kernel reads one such struct during the call; both descriptors are only looked up.
            let result =
                unsafe { libc::ioctl(self.raw(), libc::SECCOMP_IOCTL_NOTIF_ADDFD, &raw const addition) };
            if result >= 0 {
                return Ok(());
            }
            let error = io::Error::last_os_error();
            if error.kind() != io::ErrorKind::Interrupted {
                return Err(error);
            }
        }
    }

    /// Lets who asked go on.
    pub(super) fn answer(&self, question: &Question, answer: Answer) {
        let (error, flags) = match answer {
            Answer::Continue => (0, libc::SECCOMP_USER_NOTIF_FLAG_CONTINUE as u32),
            Answer::Done => (0, 0),
            Answer::Fail(errno) => (-errno, 0),
        };
        let response = libc::seccomp_notif_resp { id: question.id, val: 0, error, flags };
        // SAFETY: the kernel reads one such struct during the call. Who asked may have been killed: then nobody waits.
        let _gone = unsafe { libc::ioctl(self.raw(), libc::SECCOMP_IOCTL_NOTIF_SEND, &raw const response) };
    }

    fn raw(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

impl AsFd for Notifier {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}
