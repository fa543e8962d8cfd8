//! Socket options that no library knows.
#![expect(unsafe_code, reason = "two calls of the system; see each SAFETY comment")]

use std::io;
use std::mem::{offset_of, size_of};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

use super::queue::QueueLength;

/// Attaches a program to the whole group that a socket with `SO_REUSEPORT` is of; it takes the place of the one before.
pub(super) fn attach_reuseport_program(
    socket: BorrowedFd<'_>,
    program: &[libc::sock_filter],
) -> io::Result<()> {
    let length = u16::try_from(program.len()).map_err(|_long| io::Error::from_raw_os_error(libc::EINVAL))?;
    let program = libc::sock_fprog { len: length, filter: program.as_ptr().cast_mut() };
    // SAFETY: the option takes a `sock_fprog`, which is read, with its `len` statements, during the call, and is
    // neither written nor kept.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_ATTACH_REUSEPORT_CBPF,
            (&raw const program).cast(),
            size_of::<libc::sock_fprog>() as libc::socklen_t,
        )
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Returns what the kernel knows about a TCP socket; what an older kernel does not know is zero.
pub(crate) fn tcp_info(socket: impl AsFd) -> io::Result<libc::tcp_info> {
    read_info(socket.as_fd()).map(|(info, _length)| info)
}

/// Returns the length of a listening TCP socket's queue, and its limit.
pub(super) fn tcp_queue(socket: BorrowedFd<'_>) -> io::Result<QueueLength> {
    // For a listening socket the kernel puts them here (`tcp_get_info`, since 2.6.24).
    const END: usize = offset_of!(libc::tcp_info, tcpi_sacked) + size_of::<u32>();
    match read_info(socket)? {
        (info, END..) => Ok(QueueLength { queued: info.tcpi_unacked, backlog: info.tcpi_sacked }),
        _ => Err(io::Error::from_raw_os_error(libc::EPROTONOSUPPORT)),
    }
}

/// Returns what the kernel knows about a TCP socket, and how many bytes of it.
fn read_info(socket: BorrowedFd<'_>) -> io::Result<(libc::tcp_info, usize)> {
    // SAFETY: all of it are integers, for which zeros are values.
    let mut info: libc::tcp_info = unsafe { std::mem::zeroed() };
    let mut length = size_of::<libc::tcp_info>() as libc::socklen_t;
    // SAFETY: the kernel writes at most `length` bytes into `info`, and how many these were into `length`.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_INFO,
            (&raw mut info).cast(),
            &raw mut length,
        )
    };
    if result == 0 { Ok((info, length as usize)) } else { Err(io::Error::last_os_error()) }
}
