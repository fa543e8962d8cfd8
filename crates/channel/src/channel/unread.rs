//! How much of what was written the other end has not read.
#![expect(unsafe_code, reason = "rustix has no safe call for SIOCOUTQ")]

use std::ffi::c_int;
use std::os::fd::BorrowedFd;

use rustix::ioctl::{Getter, Opcode, ioctl};

/// `SIOCOUTQ` of unix(7): the memory of what this end has sent and the other has not received.
const SIOCOUTQ: Opcode = 0x5411;

/// Returns how many bytes are on their way, with what the kernel needs to keep them; 0 means none.
pub(super) fn bytes(socket: BorrowedFd<'_>) -> usize {
    // SAFETY: SIOCOUTQ writes one `int` and nothing else, which is what a `Getter` of that type has room for.
    let unread = unsafe { ioctl(socket, Getter::<SIOCOUTQ, c_int>::new()) };
    // Every AF_UNIX stream socket answers; one that does not has nothing on its way.
    unread.map_or(0, |bytes| usize::try_from(bytes).unwrap_or(0))
}
