//! What a program has asked its epoll instances about a socket before it binds it.
//!
//! That belongs to the socket, not to its number, so a program whose socket is replaced would wait for news of one that
//! nobody reaches (Boost.Asio asks about each socket as it makes it). It is asked again about the one that takes the place.
#![expect(
    unsafe_code,
    reason = "descriptors by number, on a thread that has its own; see each SAFETY comment"
)]

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::thread;

use rustix::event::epoll::{self, EventData, EventFlags};
use rustix::fs::{fstat, major, minor};
use rustix::io::{Errno, fcntl_dupfd_cloexec};
use rustix::thread::{UnshareFlags, unshare_unsafe};

use super::asker::Asker;

/// What one epoll instance tells about a socket, and how it names it.
#[derive(Debug)]
pub(super) struct Interest {
    epoll: OwnedFd,
    registration: Registration,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Registration {
    events: u32,
    data: u64,
}

/// A file as an epoll instance knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Watched {
    /// The number that it was registered by.
    number: RawFd,
    inode: u64,
    /// The number of its file system, as the kernel has it.
    device: u64,
}

/// Returns what a process has asked about its socket of this number.
///
/// What it asked by another number is not found, nor what it asked an `io_uring` instance.
pub(super) fn find(asker: &Asker, number: RawFd, socket: BorrowedFd<'_>) -> io::Result<Vec<Interest>> {
    let stat = fstat(socket)?;
    // The kernel shows its own form of this number, which has 20 bits for the minor one.
    let device = u64::from(major(stat.st_dev)) << 20 | u64::from(minor(stat.st_dev));
    let wanted = Watched { number, inode: stat.st_ino, device };
    let mut found = Vec::new();
    for epoll in asker.epolls()? {
        let registration = asker.told_of(epoll)?.lines().find_map(|line| registration(line, wanted));
        let Some(registration) = registration else { continue };
        match asker.descriptor(epoll) {
            Ok(epoll) => found.push(Interest { epoll, registration }),
            // Closed meanwhile.
            Err(error) if error.raw_os_error() == Some(libc::EBADF) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(found)
}

/// Asks about another socket, by the same number, what was asked about this one.
///
/// The kernel keeps a registration by file and number, and takes both from the thread that makes it. The number may be taken
/// here, so a thread does it that has numbers of its own.
pub(super) fn transfer(
    interests: &[Interest],
    number: RawFd,
    from: BorrowedFd<'_>,
    to: BorrowedFd<'_>,
) -> io::Result<()> {
    if interests.is_empty() {
        return Ok(());
    }
    thread::scope(|scope| {
        let thread = thread::Builder::new().name("worksong-numbers".to_owned());
        let thread = thread.spawn_scoped(scope, || {
            // SAFETY: the thread ends right after this, and what it opens is known to nobody else. What others close
            // meanwhile stays open that long.
            unsafe { unshare_unsafe(UnshareFlags::FILES) }?;
            transfer_here(interests, number, from, to)
        })?;
        thread.join().unwrap_or_else(|_panic| Err(io::ErrorKind::Other.into()))
    })
}

/// Does it with the numbers of this thread, of which `number` is overwritten.
fn transfer_here(
    interests: &[Interest],
    number: RawFd,
    from: BorrowedFd<'_>,
    to: BorrowedFd<'_>,
) -> io::Result<()> {
    // Any of these may have that number here.
    let elsewhere = |descriptor: BorrowedFd<'_>| fcntl_dupfd_cloexec(descriptor, number.saturating_add(1));
    let (from, to) = (elsewhere(from)?, elsewhere(to)?);
    let epolls: Vec<OwnedFd> =
        interests.iter().map(|interest| elsewhere(interest.epoll.as_fd())).collect::<Result<_, _>>()?;
    by_number(&from, number, |from| epolls.iter().try_for_each(|epoll| remove(epoll, from)))?;
    by_number(&to, number, |to| {
        interests.iter().zip(&epolls).try_for_each(|(Interest { registration, .. }, epoll)| {
            // There already where the program has closed this socket and goes on: copies kept it alive.
            remove(epoll, to)?;
            let events = EventFlags::from_bits_retain(registration.events);
            Ok(epoll::add(epoll, to, EventData::new_u64(registration.data), events)?)
        })
    })
}

/// Does something with a descriptor that has this number meanwhile.
fn by_number(
    descriptor: &OwnedFd,
    number: RawFd,
    act: impl FnOnce(BorrowedFd<'_>) -> io::Result<()>,
) -> io::Result<()> {
    // SAFETY: no memory is involved. Whatever had the number is closed for this thread alone, which does not use it.
    if unsafe { libc::dup3(descriptor.as_raw_fd(), number, libc::O_CLOEXEC) } < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: it was opened just now, and stays so until the thread ends.
    act(unsafe { BorrowedFd::borrow_raw(number) })
}

fn remove(epoll: &OwnedFd, socket: BorrowedFd<'_>) -> io::Result<()> {
    match epoll::delete(epoll, socket) {
        Err(Errno::NOENT) => Ok(()),
        removed => Ok(removed?),
    }
}

/// Reads a line of an epoll instance's `/proc/PID/fdinfo`, if it is about this file.
fn registration(line: &str, wanted: Watched) -> Option<Registration> {
    let mut words = line.split([' ', ':', '\t']).filter(|word| !word.is_empty());
    let mut field = |name: &str| words.find(|word| *word == name).and_then(|_| words.next());
    let number = field("tfd")?.parse().ok()?;
    let events = u32::from_str_radix(field("events")?, 16).ok()?;
    let data = u64::from_str_radix(field("data")?, 16).ok()?;
    let inode = u64::from_str_radix(field("ino")?, 16).ok()?;
    let device = u64::from_str_radix(field("sdev")?, 16).ok()?;
    (Watched { number, inode, device } == wanted).then_some(Registration { events, data })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_registration_is_read_as_the_kernel_writes_it() {
        let line = "tfd:       17 events: 8000201d data: 7f5c8c000b60  pos:0 ino:2d32a sdev:8";
        let wanted = Watched { number: 17, inode: 0x2d32a, device: 8 };
        let expected = Registration { events: 0x8000_201d, data: 0x7f5c_8c00_0b60 };
        assert_eq!(registration(line, wanted), Some(expected));
        for other in [
            Watched { number: 18, ..wanted },
            Watched { inode: 1, ..wanted },
            Watched { device: 9, ..wanted },
        ] {
            assert_eq!(registration(line, other), None, "{other:?}");
        }
        for line in ["", "pos:\t0", "tfd: 17", "tfd: x events: y data: z  pos:0 ino: sdev:"] {
            assert_eq!(registration(line, wanted), None, "{line}");
        }
    }
}
