//! What a process has open, as far as the kernel shows it.

use std::ffi::OsString;
use std::fs::{self, DirEntry};
use std::io;

/// What a descriptor is by which a program can use sockets that are none of its descriptors (`io_uring`).
const RING: &str = "anon_inode:[io_uring]";

/// The descriptors of a process.
#[derive(Debug)]
pub(crate) struct Descriptors {
    /// The number of each, and what it is, as the link in `/proc/PID/fd` says it.
    pub(crate) seen: Vec<(u32, OsString)>,
    /// False when the process may have, or use, what is not among them: it is another user's, hides itself, or has a ring.
    pub(crate) are_all: bool,
}

impl Descriptors {
    /// Looks at a process; `None` when there is none of this number, or not even its number is shown.
    pub(crate) fn of(process: u32) -> Option<Self> {
        let mut found = Self { seen: Vec::new(), are_all: true };
        let descriptors = match descriptors_of(process) {
            Ok(descriptors) => descriptors,
            Err(error) if is_gone(&error) => return None,
            Err(_hidden) => return Some(Self { are_all: false, ..found }),
        };
        for descriptor in descriptors {
            match descriptor {
                Ok((number, link)) => {
                    found.are_all &= link != RING;
                    found.seen.push((number, link));
                }
                Err(_hidden) => found.are_all = false,
            }
        }
        Some(found)
    }
}

/// Returns the number of each descriptor of a process, and what it is, in the order of the numbers. One that is closed
/// meanwhile is left out.
pub(crate) fn descriptors_of(process: u32) -> io::Result<impl Iterator<Item = io::Result<(u32, OsString)>>> {
    let told = |entry: DirEntry| {
        let number = entry.file_name().to_str()?.parse().ok()?;
        match fs::read_link(entry.path()) {
            Err(error) if is_gone(&error) => None,
            link => Some(link.map(|link| (number, link.into_os_string()))),
        }
    };
    let entries = fs::read_dir(format!("/proc/{process}/fd"))?;
    Ok(entries.filter_map(move |entry| match entry {
        Err(error) if is_gone(&error) => None,
        entry => entry.map_or_else(|error| Some(Err(error)), told),
    }))
}

/// Returns true when a process, or what it had, was gone before it could be looked at.
pub(crate) fn is_gone(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::NotFound || error.raw_os_error() == Some(libc::ESRCH)
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsRawFd;

    use super::*;

    #[test]
    fn what_this_process_has_open_is_seen() {
        let file = fs::File::open("/dev/null").expect("it is there");
        let own = Descriptors::of(std::process::id()).expect("we live");
        let number = file.as_raw_fd().cast_unsigned();
        assert!(own.seen.contains(&(number, OsString::from("/dev/null"))), "{own:?}");
        assert!(own.are_all);
        assert!(Descriptors::of(u32::MAX).is_none());
    }
}
