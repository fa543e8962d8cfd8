//! A path that leads to one Unix socket as long as its app lives, whatever programs do with the path.
//!
//! A second link to the file stands beside it (`.NAME.worksong`), from which the path is made again. Linux makes hard
//! links of socket files like of any other; `fs.protected_hardlinks` forbids them to who neither owns the file nor is
//! root. Where there can be none, a path that is gone stays so, until another socket is bound to it.

use std::ffi::{OsStr, OsString};

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, FileType, Mode, OFlags, Stat, linkat, open, openat, renameat, statat, unlinkat};
use rustix::io::{Errno, fcntl_dupfd_cloexec};
use rustix::net::{SocketAddrUnix, bind};

use super::path::{LONGEST, is_stale};

/// A socket's path, and its link beside it. Dropping it removes both, unless they are another's by now.
#[derive(Debug)]
pub(crate) struct KeptPath {
    place: Place,
    beside: OsString,
    file: Inode,
}

/// A name in a folder that is known by more than its name.
#[derive(Debug)]
pub(crate) struct Place {
    folder: OwnedFd,
    name: OsString,
}

/// Which file it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Inode {
    device: u64,
    number: u64,
}

impl Place {
    /// Finds where a path leads, whose last part may be missing.
    pub(crate) fn find(path: &Path) -> io::Result<Self> {
        let (Some(folder), Some(name)) = (path.parent(), path.file_name()) else {
            return Err(io::Error::from_raw_os_error(libc::EADDRINUSE));
        };
        let folder = if folder.as_os_str().is_empty() { Path::new(".") } else { folder };
        let folder = open(folder, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
        Ok(Self { folder, name: name.to_owned() })
    }

    /// Returns whether both are one place, by whatever paths they were found.
    pub(crate) fn is(&self, other: &Self) -> bool {
        let folder = |place: &Self| rustix::fs::fstat(&place.folder).map(|stat| Inode::of(&stat));
        self.name == other.name && folder(self).is_ok_and(|own| folder(other) == Ok(own))
    }

    fn look(&self, name: &OsStr) -> Result<Stat, Errno> {
        statat(&self.folder, name, AtFlags::SYMLINK_NOFOLLOW)
    }

    /// Returns a path to a name in the folder by which this process finds it, and nobody else.
    fn own_path(&self, name: &OsStr) -> PathBuf {
        Path::new("/proc/self/fd").join(self.folder.as_raw_fd().to_string()).join(name)
    }

    fn link(&self, from: &OsStr, to: &OsStr) -> Result<(), Errno> {
        linkat(&self.folder, from, &self.folder, to, AtFlags::empty())
    }

    fn remove(&self, name: &OsStr) -> Result<(), Errno> {
        unlinkat(&self.folder, name, AtFlags::empty())
    }

    /// Removes a name if it leads to a socket that nobody listens on.
    fn remove_stale(&self, name: &OsStr) -> io::Result<()> {
        if !is_stale(&self.own_path(name)) {
            return Err(io::Error::from_raw_os_error(libc::EADDRINUSE));
        }
        Ok(self.remove(name)?)
    }
}

impl KeptPath {
    /// Binds a socket to a path that leads to this place, as a process with this umask would.
    ///
    /// A socket file whose owner is dead is replaced; anything else that is there gives `EADDRINUSE`.
    pub(crate) fn bind(socket: BorrowedFd<'_>, place: Place, path: &Path, umask: Mode) -> io::Result<Self> {
        let own_path = place.own_path(&place.name);
        let path = if path.as_os_str().len() > LONGEST { &own_path } else { path };
        let address = SocketAddrUnix::new(path)?;
        // It is bound only once: who runs out of descriptors after that cannot try again.
        let spare = fcntl_dupfd_cloexec(&place.folder, 0)?;
        match bind(socket, &address) {
            Err(Errno::ADDRINUSE) => {
                place.remove_stale(&place.name)?;
                bind(socket, &address)?;
            }
            bound => bound?,
        }
        // What its program has set on the socket is the mode of the file, less the umask; ours was in the way.
        let mode = Mode::from_raw_mode(rustix::fs::fstat(socket)?.st_mode) & Mode::from_bits_truncate(0o777);
        drop(spare);
        let file = set_mode(&place, mode - umask)?;
        let mut beside = OsString::from(".");
        beside.push(&place.name);
        beside.push(".worksong");
        let kept = Self { place, beside, file };
        kept.link_beside();
        Ok(kept)
    }

    /// Returns whether the path leads to the socket.
    pub(crate) fn is_there(&self) -> bool {
        self.leads_here(&self.place.name)
    }

    /// Returns the place of the path.
    pub(crate) fn place(&self) -> &Place {
        &self.place
    }

    /// Makes the path lead to the socket again, if it does not, in one step.
    ///
    /// What another process listens on meanwhile gives `EADDRINUSE`, and `ENOENT` says that nothing is left to make it of.
    pub(crate) fn restore(&self) -> io::Result<()> {
        let Place { folder, name } = &self.place;
        if self.is_there() {
            self.link_beside();
            return Ok(());
        }
        if !self.leads_here(&self.beside) {
            return Err(io::Error::from_raw_os_error(libc::ENOENT));
        }
        match self.place.link(&self.beside, name) {
            Err(Errno::EXIST) if is_stale(&self.place.own_path(name)) => {}
            Err(Errno::EXIST) => return Err(io::Error::from_raw_os_error(libc::EADDRINUSE)),
            linked => return Ok(linked?),
        }
        let mut new = self.beside.clone();
        new.push(".new");
        // Left behind by a primary that was killed here.
        let _none = self.place.remove(&new);
        self.place.link(&self.beside, &new)?;
        Ok(renameat(folder, &new, folder, name)?)
    }

    /// Makes the link beside the path, where that is possible.
    fn link_beside(&self) {
        if self.leads_here(&self.beside) {
            return;
        }
        if self.place.link(&self.place.name, &self.beside) == Err(Errno::EXIST)
            && self.place.remove_stale(&self.beside).is_ok()
        {
            // Of an earlier run, whose primary was killed.
            let _impossible = self.place.link(&self.place.name, &self.beside);
        }
    }

    fn leads_here(&self, name: &OsStr) -> bool {
        self.place.look(name).is_ok_and(|stat| Inode::of(&stat) == self.file)
    }
}

impl Drop for KeptPath {
    fn drop(&mut self) {
        for name in [&self.place.name, &self.beside] {
            if self.leads_here(name) {
                // Whoever removed it meanwhile wanted the same.
                let _removed = self.place.remove(name);
            }
        }
    }
}

impl Inode {
    fn of(stat: &Stat) -> Self {
        Self { device: stat.st_dev, number: stat.st_ino }
    }
}

/// Sets the mode of the socket that was just bound, and returns which file it is.
fn set_mode(place: &Place, mode: Mode) -> io::Result<Inode> {
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let file = openat(&place.folder, &place.name, flags, Mode::empty())?;
    let stat = rustix::fs::fstat(&file)?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::Socket {
        // Somebody was faster than we.
        return Err(io::Error::from_raw_os_error(libc::EADDRINUSE));
    }
    // A descriptor that was opened for its path only can be changed through this name alone.
    rustix::fs::chmod(Path::new("/proc/self/fd").join(file.as_raw_fd().to_string()), mode)?;
    Ok(Inode::of(&stat))
}

#[cfg(test)]
mod tests;
