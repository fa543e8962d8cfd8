//! Unix sockets in the file system: long paths, stale owners, modes, clean-up.

use std::fs;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use socket2::{Domain, SockAddr, Socket, Type};

/// The longest path that fits into a socket address, its NUL byte not counted.
pub(super) const LONGEST: usize = 107;

/// A path that a socket of ours is bound to; dropping it removes the path if it is still ours.
#[derive(Debug)]
pub(crate) struct BoundPath {
    path: PathBuf,
    device: u64,
    inode: u64,
}

impl BoundPath {
    /// Binds the socket to the path. A `mode` takes the place of what the umask leaves, as it does since Node 22: all
    /// that `readableAll` leaves is reading.
    ///
    /// A socket file whose owner is dead is replaced; one that somebody still listens on gives `EADDRINUSE`.
    pub(super) fn bind(socket: &Socket, path: &Path, mode: Option<u32>) -> io::Result<Self> {
        // Workers and the primary may differ in their working directory later: keep the absolute path.
        let path = std::path::absolute(path)?;
        match bind_once(socket, &path) {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse && is_stale(&path) => {
                fs::remove_file(&path)?;
                bind_once(socket, &path)?;
            }
            result => result?,
        }
        let metadata = fs::symlink_metadata(&path)?;
        let bound = Self { device: metadata.dev(), inode: metadata.ino(), path };
        if let Some(mode) = mode {
            fs::set_permissions(&bound.path, fs::Permissions::from_mode(mode))?;
        }
        Ok(bound)
    }
}

impl Drop for BoundPath {
    fn drop(&mut self) {
        let ours = fs::symlink_metadata(&self.path)
            .is_ok_and(|found| found.dev() == self.device && found.ino() == self.inode);
        if ours {
            // Whoever removed it meanwhile wanted the same.
            let _removed = fs::remove_file(&self.path);
        }
    }
}

/// Binds the path; one that is too long for an address goes through its opened folder.
fn bind_once(socket: &Socket, path: &Path) -> io::Result<()> {
    with_short_name(path, |name| socket.bind(&SockAddr::unix(name)?))
}

fn with_short_name<T>(path: &Path, call: impl FnOnce(&Path) -> io::Result<T>) -> io::Result<T> {
    if path.as_os_str().len() <= LONGEST {
        return call(path);
    }
    let (Some(folder), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(io::Error::from_raw_os_error(libc::EINVAL));
    };
    let folder = fs::File::open(folder)?;
    call(&Path::new("/proc/self/fd").join(folder.as_raw_fd().to_string()).join(name))
}

/// Returns true for a socket file that nobody listens on any more.
pub(super) fn is_stale(path: &Path) -> bool {
    let is_socket = fs::symlink_metadata(path).is_ok_and(|metadata| metadata.file_type().is_socket());
    if !is_socket {
        return false;
    }
    let connect = || {
        let probe = Socket::new(Domain::UNIX, Type::STREAM.nonblocking().cloexec(), None)?;
        with_short_name(path, |name| probe.connect(&SockAddr::unix(name)?))
    };
    connect().is_err_and(|error| error.raw_os_error() == Some(libc::ECONNREFUSED))
}
