//! What is seen of the process that asks: its memory, its descriptors.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6};
use std::os::fd::{OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};

use super::answer::shortage;
use super::rights::Rights;
use crate::process::descriptors::{descriptors_of, is_gone};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, PidfdGetfdFlags, pidfd_getfd, pidfd_open};

/// The longest socket address (`struct sockaddr_storage`).
const LONGEST: u64 = 128;
/// The longest path that the kernel takes, with its NUL byte.
const LONGEST_PATH: usize = libc::PATH_MAX as usize;
/// What an epoll instance is in `/proc/PID/fd`.
const EPOLL: &str = "anon_inode:[eventpoll]";
/// Among so many of its first descriptors are the epoll instances of a process: a server makes them as it starts, and a
/// client with many connections may fix the port of each.
const FIRST: usize = 1024;

/// A process whose thread has asked.
///
/// What is read here is that process's only while the question is still open: look at that afterwards.
#[derive(Debug)]
pub(super) struct Asker {
    pub(super) thread: u32,
    handle: OwnedFd,
    /// What `/proc/PID/status` says.
    status: String,
}

/// Where a program wants to bind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Wanted {
    Internet(SocketAddr),
    /// A path as the program wrote it, or a name in the abstract namespace, which starts with a NUL byte.
    Unix(PathBuf),
    /// Anything else: other families, no address.
    Other,
}

impl Asker {
    pub(super) fn find(thread: u32) -> io::Result<Self> {
        /// `PIDFD_THREAD`, since Linux 6.9: a process whose first thread has ended shows nothing by its own number.
        const THREAD: PidfdFlags = PidfdFlags::from_bits_retain(libc::O_EXCL.cast_unsigned());
        let gone = || io::Error::from_raw_os_error(libc::ESRCH);
        let pid = |number: u32| i32::try_from(number).ok().and_then(Pid::from_raw).ok_or_else(gone);
        // Its name may be cut within a character.
        let status = String::from_utf8_lossy(&fs::read(format!("/proc/{thread}/status"))?).into_owned();
        let process = field(&status, "Tgid:").and_then(|number| number.parse().ok()).ok_or_else(gone)?;
        let handle = match pidfd_open(pid(thread)?, THREAD) {
            Err(Errno::INVAL) => pidfd_open(pid(process)?, PidfdFlags::empty())?,
            handle => handle?,
        };
        Ok(Self { thread, handle, status })
    }

    /// Reads the address that it wants to bind.
    pub(super) fn address(&self, at: u64, length: u64) -> io::Result<Wanted> {
        let mut bytes = [0; LONGEST as usize];
        let length = length.min(LONGEST) as usize;
        let bytes = &mut bytes[..length];
        File::open(format!("/proc/{}/mem", self.thread))?.read_exact_at(bytes, at)?;
        Ok(Wanted::parse(bytes))
    }

    /// Returns its memory, to be read and written.
    pub(super) fn memory(&self) -> io::Result<File> {
        File::options().read(true).write(true).open(format!("/proc/{}/mem", self.thread))
    }

    /// Returns a path as this process sees it: one that is relative to a folder which the asker has open by this number,
    /// or to its working directory.
    pub(super) fn absolute(&self, folder: RawFd, path: &Path) -> io::Result<PathBuf> {
        let folder = match folder {
            _ if path.is_absolute() => return Ok(path.to_owned()),
            libc::AT_FDCWD => format!("/proc/{}/cwd", self.thread),
            number => format!("/proc/{}/fd/{number}", self.thread),
        };
        Ok(fs::read_link(folder)?.join(path))
    }

    /// Returns whether a path leads it to where it leads us: it has our root and our mounts.
    pub(super) fn sees_our_files(&self) -> io::Result<bool> {
        let inode = |path: String| fs::metadata(path).map(|found| (found.dev(), found.ino()));
        let same = |what: &str| {
            Ok::<_, io::Error>(
                inode(format!("/proc/{}/{what}", self.thread))? == inode(format!("/proc/self/{what}"))?,
            )
        };
        Ok(same("root")? && same("ns/mnt")?)
    }

    /// Returns with whose rights it binds.
    pub(super) fn rights(&self) -> io::Result<Rights> {
        Rights::parse(&self.status).ok_or_else(|| io::ErrorKind::InvalidData.into())
    }

    /// Returns a copy of its descriptor.
    pub(super) fn descriptor(&self, number: RawFd) -> io::Result<OwnedFd> {
        Ok(pidfd_getfd(&self.handle, number, PidfdGetfdFlags::empty())?)
    }

    /// Returns the numbers of its epoll instances.
    pub(super) fn epolls(&self) -> io::Result<Vec<RawFd>> {
        let first = descriptors_of(self.thread)?.take(FIRST);
        let epolls = first.filter(|found| match found {
            Ok((_, what)) => what == EPOLL,
            Err(error) => shortage(error).is_some(),
        });
        epolls.map(|found| found.map(|(number, _)| number.cast_signed())).collect()
    }

    /// Returns what the kernel tells of its descriptor; nothing when it is closed meanwhile.
    pub(super) fn told_of(&self, number: RawFd) -> io::Result<String> {
        match fs::read_to_string(format!("/proc/{}/fdinfo/{number}", self.thread)) {
            Err(error) if is_gone(&error) => Ok(String::new()),
            told => told,
        }
    }

    /// Returns whether its descriptor is closed when it executes another program.
    pub(super) fn closes_on_exec(&self, number: RawFd) -> io::Result<bool> {
        let text = self.told_of(number)?;
        let flags = text.lines().find_map(|line| line.strip_prefix("flags:"));
        let flags = flags.and_then(|octal| u32::from_str_radix(octal.trim(), 8).ok()).unwrap_or(0);
        Ok(flags & libc::O_CLOEXEC.cast_unsigned() != 0)
    }
}

/// Reads a path in the memory of a thread, which ends with a NUL byte.
pub(super) fn path(thread: u32, at: u64) -> io::Result<PathBuf> {
    let mut bytes = [0; LONGEST_PATH];
    // It may end right before memory that cannot be read.
    let length = File::open(format!("/proc/{thread}/mem"))?.read_at(&mut bytes, at)?;
    let path = bytes[..length].split(|byte| *byte == 0).next().unwrap_or_default();
    Ok(PathBuf::from(OsStr::from_bytes(path)))
}

/// Returns a field of `/proc/PID/status`.
pub(super) fn field<'status>(status: &'status str, name: &str) -> Option<&'status str> {
    status.lines().find_map(|line| line.strip_prefix(name)).map(str::trim)
}

impl Wanted {
    fn parse(bytes: &[u8]) -> Self {
        Self::parse_known(bytes).unwrap_or(Self::Other)
    }

    fn parse_known(bytes: &[u8]) -> Option<Self> {
        let (family, rest) = bytes.split_first_chunk::<2>()?;
        let port = || rest.first_chunk::<2>().map(|port| u16::from_be_bytes(*port));
        match i32::from(u16::from_ne_bytes(*family)) {
            libc::AF_INET => {
                let host = Ipv4Addr::from(*rest.get(2..)?.first_chunk::<4>()?);
                Some(Self::Internet(SocketAddr::new(host.into(), port()?)))
            }
            libc::AF_INET6 => {
                let host = Ipv6Addr::from(*rest.get(6..)?.first_chunk::<16>()?);
                // An older, shorter form has no scope.
                let scope = rest.get(22..).and_then(|rest| rest.first_chunk::<4>());
                let scope = scope.map_or(0, |scope| u32::from_ne_bytes(*scope));
                Some(Self::Internet(SocketAddrV6::new(host, port()?, 0, scope).into()))
            }
            libc::AF_UNIX => {
                // Without any byte the kernel chooses a name; an abstract one is as long as the address is.
                let path = match rest.split_first()? {
                    (0, _) => rest,
                    _ => rest.split(|byte| *byte == 0).next()?,
                };
                Some(Self::Unix(PathBuf::from(OsStr::from_bytes(path))))
            }
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn family(number: i32) -> [u8; 2] {
        u16::try_from(number).expect("a family").to_ne_bytes()
    }

    #[test]
    fn addresses_are_read_as_the_kernel_reads_them() {
        let internet = |text: &str| Wanted::Internet(text.parse().expect("an address"));
        let v4 = [&family(libc::AF_INET)[..], &[0x1f, 0x90, 127, 0, 0, 1], &[0; 8]].concat();
        assert_eq!(Wanted::parse(&v4), internet("127.0.0.1:8080"));
        assert_eq!(Wanted::parse(&v4[..8]), internet("127.0.0.1:8080"));
        let v6 = [&family(libc::AF_INET6)[..], &[0, 80, 0, 0, 0, 0], &[0; 15], &[1], &7_u32.to_ne_bytes()];
        assert_eq!(Wanted::parse(&v6.concat()), internet("[::1%7]:80"));
        assert_eq!(Wanted::parse(&v6.concat()[..24]), internet("[::1]:80"));
        let path = [&family(libc::AF_UNIX)[..], b"/run/x.sock\0rest"].concat();
        assert_eq!(Wanted::parse(&path), Wanted::Unix("/run/x.sock".into()));
        let abstract_name = [&family(libc::AF_UNIX)[..], b"\0na\0me"].concat();
        assert_eq!(Wanted::parse(&abstract_name), Wanted::Unix("\0na\0me".into()));
    }

    #[test]
    fn what_is_cut_short_or_unknown_is_nobodys() {
        let v4 = [&family(libc::AF_INET)[..], &[0x1f, 0x90, 127, 0, 0, 1]].concat();
        for length in 0..v4.len() {
            assert_eq!(Wanted::parse(&v4[..length]), Wanted::Other);
        }
        assert_eq!(Wanted::parse(&family(libc::AF_UNIX)), Wanted::Other);
        assert_eq!(Wanted::parse(&family(libc::AF_NETLINK)), Wanted::Other);
    }
}
