//! A seccomp filter that asks the primary about every `bind` and `listen` of a process and of what that starts, and
//! when it looks whether a socket listens already; where paths are shared also when it removes a file.
//!
//! The child sets it between fork and exec, and sends the descriptor by which the kernel asks to its parent. No
//! privilege is needed: without any, the kernel takes the filter of a process that gains none by what it executes
//! (`no_new_privs`). That is asked for only then, so that `sudo` and the like work below a primary that is root.
#![expect(unsafe_code, reason = "system calls between fork and exec; see each SAFETY comment")]

use std::ffi::{c_int, c_long, c_uint, c_ulong, c_void};
use std::io;
use std::mem::{MaybeUninit, size_of};
use std::os::fd::{FromRawFd, OwnedFd, RawFd};
use std::ptr;
use std::thread;

use libc::sock_filter as Statement;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SocketFlags, SocketType, recvmsg,
    socketpair,
};

/// The architecture in `AUDIT_ARCH_…` numbers; the filter leaves programs of other ones alone (32-bit ones).
const ARCHITECTURE: Option<u32> = if cfg!(target_arch = "x86_64") {
    Some(0xc000_003e)
} else if cfg!(target_arch = "aarch64") {
    Some(0xc000_00b7)
} else {
    None
};

/// What is asked about in any case, besides one option of `getsockopt`.
const SOCKET_CALLS: [c_long; 2] = [libc::SYS_bind, libc::SYS_listen];
/// What removes a file. Newer machines have one such call only.
const FILE_CALLS: &[c_long] = &[
    #[cfg(target_arch = "x86_64")]
    libc::SYS_unlink,
    libc::SYS_unlinkat,
];

/// Offsets into `struct seccomp_data`.
const NUMBER: u32 = 0;
const ARCH: u32 = 4;
/// The lower halves of the second and the third argument; this machine's first byte is the lowest.
const SECOND: u32 = 24;
const THIRD: u32 = 32;

/// What a process and all that it starts have to ask about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Asks {
    /// Where it binds and listens.
    Sockets,
    /// The same, and which files it removes.
    SocketsAndFiles,
}

/// The filter, laid out before the fork: the child must not allocate.
#[derive(Debug)]
pub(super) struct Filter(Vec<Statement>);

/// A filter to set, and the two ends of the way that its descriptor goes.
#[derive(Debug)]
pub(super) struct Handing {
    filter: Filter,
    theirs: OwnedFd,
    ours: OwnedFd,
}

impl Filter {
    /// Returns the filter for this machine.
    fn new(asks: Asks) -> io::Result<Self> {
        let architecture = ARCHITECTURE.ok_or_else(|| io::Error::from_raw_os_error(libc::ENOSYS))?;
        let load = |offset| statement(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, offset, 0, 0);
        let jump = |value: u32, if_so, otherwise| {
            statement(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, value, if_so, otherwise)
        };
        // Numbers of calls and options are small and positive.
        let number = |call: c_long| u32::try_from(call).unwrap_or(u32::MAX);
        let end = |action| statement(libc::BPF_RET | libc::BPF_K, action, 0, 0);
        let file_calls = match asks {
            Asks::Sockets => &[],
            Asks::SocketsAndFiles => FILE_CALLS,
        };
        let mut statements =
            vec![load(ARCH), jump(architecture, 1, 0), end(libc::SECCOMP_RET_ALLOW), load(NUMBER)];
        for call in SOCKET_CALLS.iter().chain(file_calls) {
            statements.extend([jump(number(*call), 0, 1), end(libc::SECCOMP_RET_USER_NOTIF)]);
        }
        statements.extend([
            jump(number(libc::SYS_getsockopt), 0, 4),
            load(SECOND),
            jump(number(libc::SOL_SOCKET.into()), 0, 2),
            load(THIRD),
            jump(number(libc::SO_ACCEPTCONN.into()), 1, 0),
            end(libc::SECCOMP_RET_ALLOW),
            end(libc::SECCOMP_RET_USER_NOTIF),
        ]);
        Ok(Self(statements))
    }

    /// Sets the filter for the calling thread, and returns the descriptor by which the kernel asks, or -1 with `errno`.
    ///
    /// # Safety
    ///
    /// The thread has to be one whose `bind` and `listen` somebody answers, or one that calls neither. It makes
    /// async-signal-safe calls only and allocates nothing.
    unsafe fn set(&self) -> RawFd {
        let program = libc::sock_fprog { len: self.0.len() as u16, filter: self.0.as_ptr().cast_mut() };
        // Before 5.16 a filter would cost the program the processor's speculation otherwise.
        let interrupted = libc::SECCOMP_FILTER_FLAG_NEW_LISTENER | libc::SECCOMP_FILTER_FLAG_SPEC_ALLOW;
        // Since 5.19 a call that the primary has taken up is not interrupted by signals but for deadly ones.
        let uninterrupted = interrupted | libc::SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV;
        // SAFETY: the program is read during the call only.
        unsafe {
            let mut descriptor = try_to_set(&program, uninterrupted);
            if descriptor < 0 && *libc::__errno_location() == libc::EACCES {
                if libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0 {
                    return -1;
                }
                descriptor = try_to_set(&program, uninterrupted);
            }
            if descriptor < 0 && *libc::__errno_location() == libc::EINVAL {
                descriptor = try_to_set(&program, interrupted);
            }
            descriptor
        }
    }
}

impl Handing {
    /// Prepares the filter and a pair of sockets; the child's end gets `free` or a number above it.
    pub(super) fn new(free: RawFd, asks: Asks) -> io::Result<Self> {
        let (ours, theirs) = socketpair(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
        let theirs = rustix::io::fcntl_dupfd_cloexec(theirs, free)?;
        Ok(Self { filter: Filter::new(asks)?, theirs, ours })
    }

    /// Sets the filter in a forked child and sends its descriptor to the parent. False: `errno` says why not.
    ///
    /// # Safety
    ///
    /// As for [`Filter::set`].
    pub(super) unsafe fn set_and_send(&self) -> bool {
        use std::os::fd::AsRawFd;
        // SAFETY: calls of the system on own memory; the descriptor that was just made is closed once.
        unsafe {
            let descriptor = self.filter.set();
            if descriptor < 0 {
                return false;
            }
            let is_sent = send(self.theirs.as_raw_fd(), descriptor);
            let errno = *libc::__errno_location();
            libc::close(descriptor);
            *libc::__errno_location() = errno;
            is_sent
        }
    }

    /// Takes the descriptor that the child has sent before it executed its program.
    pub(super) fn receive(self) -> io::Result<OwnedFd> {
        // So that the end is seen if nothing was sent.
        drop(self.theirs);
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let mut byte = [0];
        let into = &mut [io::IoSliceMut::new(&mut byte)];
        recvmsg(&self.ours, into, &mut control, RecvFlags::CMSG_CLOEXEC)?;
        let mut sent = control.drain().filter_map(|message| match message {
            RecvAncillaryMessage::ScmRights(descriptors) => Some(descriptors),
            _ => None,
        });
        sent.next()
            .and_then(|mut descriptors| descriptors.next())
            .ok_or_else(|| io::ErrorKind::UnexpectedEof.into())
    }
}

/// Finds out whether such a filter can be set here, by doing it: a container may forbid it, and a process can have one
/// only.
///
/// A thread does it that ends at once; nothing else has the filter.
pub(crate) fn check() -> io::Result<()> {
    let filter = Filter::new(Asks::Sockets)?;
    let trial = thread::Builder::new().name("worksong-trial".to_owned()).spawn(move || {
        // SAFETY: the filter is of this thread only, which calls neither `bind` nor `listen`; the descriptor is new.
        unsafe {
            let descriptor = filter.set();
            if descriptor < 0 {
                return Err(io::Error::last_os_error());
            }
            drop(OwnedFd::from_raw_fd(descriptor));
        }
        Ok(())
    })?;
    trial.join().unwrap_or_else(|_panic| Err(io::ErrorKind::Other.into()))
}

/// # Safety
///
/// `program` has to be a valid program.
unsafe fn try_to_set(program: &libc::sock_fprog, flags: c_ulong) -> RawFd {
    // SAFETY: the kernel copies the program and keeps no pointer.
    unsafe {
        libc::syscall(
            libc::SYS_seccomp,
            libc::SECCOMP_SET_MODE_FILTER as c_uint,
            flags,
            ptr::from_ref(program),
        ) as RawFd
    }
}

/// Sends a descriptor with one byte.
///
/// # Safety
///
/// Only async-signal-safe calls are made, and nothing is allocated: it may be called in a forked child.
unsafe fn send(socket: RawFd, descriptor: RawFd) -> bool {
    /// Room for one descriptor, aligned as the header that stands before it.
    #[repr(C, align(8))]
    struct Control([u8; 32]);
    let mut control = Control([0; 32]);
    let mut byte = 0_u8;
    // SAFETY: all pointers are to locals that live until the call returns, and `Control` has room for a header and one
    // descriptor, which `CMSG_SPACE` counts.
    unsafe {
        let mut part = libc::iovec { iov_base: (&raw mut byte).cast::<c_void>(), iov_len: 1 };
        let mut message: libc::msghdr = std::mem::zeroed();
        message.msg_iov = &raw mut part;
        message.msg_iovlen = 1;
        message.msg_control = (&raw mut control).cast::<c_void>();
        message.msg_controllen = libc::CMSG_SPACE(size_of::<c_int>() as c_uint) as _;
        let header = libc::CMSG_FIRSTHDR(&raw const message);
        (*header).cmsg_level = libc::SOL_SOCKET;
        (*header).cmsg_type = libc::SCM_RIGHTS;
        (*header).cmsg_len = libc::CMSG_LEN(size_of::<c_int>() as c_uint) as _;
        libc::CMSG_DATA(header).cast::<c_int>().write_unaligned(descriptor);
        libc::sendmsg(socket, &raw const message, libc::MSG_NOSIGNAL) == 1
    }
}

fn statement(code: u32, k: u32, if_so: u8, otherwise: u8) -> Statement {
    Statement { code: code as u16, jt: if_so, jf: otherwise, k }
}
