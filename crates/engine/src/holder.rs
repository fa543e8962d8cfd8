//! Who holds an address: the process to name when a bind fails with `EADDRINUSE`.

use std::collections::HashSet;
use std::fmt;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use crate::inet::{InetSocket, Protocol, State, sockets_at};

/// How much of a command line is shown.
const COMMAND_LENGTH: usize = 160;

const ANY_STATE: [State; 3] = [State::Listens, State::Established, State::Other];

/// `__SO_ACCEPTCON` in `/proc/net/unix`: the socket listens.
const UNIX_LISTENS: u32 = 0x1_0000;

/// Something that only one process at a time can listen on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Held<'a> {
    /// A TCP port, on any address.
    Tcp(u16),
    /// A UDP port, on any address.
    Udp(u16),
    /// The path of a Unix socket, as it was bound; an abstract name begins with `@`.
    Unix(&'a Path),
}

/// A process that holds an address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Holder {
    /// Its process id.
    pub pid: u32,
    /// Its command line, on one line and shortened.
    pub command: String,
}

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "pid {} ({})", self.pid, self.command)
    }
}

/// Returns the process that holds an address, when it can be seen.
///
/// `None` also when the holder belongs to another user or another pid namespace. It reads the descriptors of every
/// process, so it is meant for error messages only.
#[must_use]
pub fn find(held: Held<'_>) -> Option<Holder> {
    find_in(Path::new("/proc"), held)
}

fn find_in(proc: &Path, held: Held<'_>) -> Option<Holder> {
    let inodes = match held {
        Held::Tcp(port) => inodes_at(Protocol::Tcp, port, &[State::Listens], |_| true),
        Held::Udp(port) => inodes_at(Protocol::Udp, port, &ANY_STATE, |_| true),
        Held::Unix(path) => unix_inodes(proc, path),
    };
    let mut pids: Vec<u32> = fs::read_dir(proc)
        .ok()?
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .collect();
    // A server that forked shares its sockets with its children; the oldest is the one to talk to.
    pids.sort_unstable();
    inodes.iter().find_map(|inode| {
        let link = PathBuf::from(format!("socket:[{inode}]"));
        let pid = *pids.iter().find(|pid| has_descriptor(proc, **pid, &link))?;
        Some(Holder { pid, command: command(proc, pid) })
    })
}

/// Returns whether one of these processes listens on a TCP port, on any address.
pub(crate) fn listens(processes: &HashSet<u32>, port: u16) -> bool {
    any_has(processes, &inodes_at(Protocol::Tcp, port, &[State::Listens], |_| true))
}

/// Returns whether one of these processes has the server's end of a connection of this machine with itself; `None` while
/// nobody has accepted it, and when nobody has it any more.
pub(crate) fn has_accepted(processes: &HashSet<u32>, server: u16, client: u16) -> Option<bool> {
    let inodes = inodes_at(Protocol::Tcp, server, &ANY_STATE, |socket| socket.remote_port == client);
    (!inodes.is_empty()).then(|| any_has(processes, &inodes))
}

/// Returns the inodes of those sockets at a port that some process has. Nobody is seen where the kernel does not tell.
fn inodes_at(
    protocol: Protocol,
    port: u16,
    states: &[State],
    is_wanted: impl Fn(&InetSocket) -> bool,
) -> Vec<u64> {
    let sockets = sockets_at(protocol, port..=port, states).unwrap_or_default();
    let held = sockets.into_iter().filter(|socket| socket.inode != 0 && is_wanted(socket));
    held.map(|socket| socket.inode).collect()
}

fn any_has(processes: &HashSet<u32>, inodes: &[u64]) -> bool {
    let links: Vec<PathBuf> = inodes.iter().map(|inode| PathBuf::from(format!("socket:[{inode}]"))).collect();
    let has_one = |process: &u32| links.iter().any(|link| has_descriptor(Path::new("/proc"), *process, link));
    processes.iter().any(has_one)
}

/// Rows look like `address: refs protocol flags type state inode path`, where the path may hold spaces.
fn unix_inodes(proc: &Path, path: &Path) -> Vec<u64> {
    let Ok(content) = fs::read(proc.join("self/net/unix")) else { return Vec::new() };
    let wanted = path.as_os_str().as_bytes();
    let mut inodes = Vec::new();
    for row in content.split(|byte| *byte == b'\n').skip(1).filter(|row| row.ends_with(wanted)) {
        let head = String::from_utf8_lossy(&row[..row.len() - wanted.len()]);
        let fields: Vec<&str> = head.split_whitespace().collect();
        // Seven fields and nothing more: the path is the whole rest of the row, not the end of a longer path.
        let [_, _, _, flags, _, _, inode] = fields[..] else { continue };
        let listens = u32::from_str_radix(flags, 16).is_ok_and(|flags| flags & UNIX_LISTENS != 0);
        if listens && head.ends_with(' ') {
            inodes.extend(inode.parse::<u64>().ok());
        }
    }
    inodes
}

fn has_descriptor(proc: &Path, pid: u32, link: &Path) -> bool {
    let Ok(descriptors) = fs::read_dir(proc.join(pid.to_string()).join("fd")) else { return false };
    descriptors
        .flatten()
        .any(|descriptor| fs::read_link(descriptor.path()).is_ok_and(|target| target == link))
}

/// The command line as people type it, or the kernel's short name when a process has none.
fn command(proc: &Path, pid: u32) -> String {
    let folder = proc.join(pid.to_string());
    let line = fs::read(folder.join("cmdline")).unwrap_or_default();
    let bytes = if line.iter().all(|byte| *byte == 0) {
        fs::read(folder.join("comm")).unwrap_or_default()
    } else {
        line
    };
    let mut text: String = String::from_utf8_lossy(&bytes)
        .chars()
        .map(|character| if character.is_control() { ' ' } else { character })
        .collect();
    text.truncate(text.trim_end().len());
    if text.is_empty() {
        return "unknown command".to_owned();
    }
    if text.len() > COMMAND_LENGTH {
        text.truncate(text.floor_char_boundary(COMMAND_LENGTH));
        text.push('…');
    }
    text
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, UdpSocket};
    use std::os::unix::fs::symlink;
    use std::os::unix::net::UnixListener;

    use super::*;

    #[test]
    fn names_this_process_for_its_own_sockets() {
        let tcp = TcpListener::bind("127.0.0.1:0").unwrap();
        let tcp6 = TcpListener::bind("[::1]:0").unwrap();
        let udp = UdpSocket::bind("127.0.0.1:0").unwrap();
        let path = std::env::temp_dir().join(format!("worksong holder {}.sock", std::process::id()));
        let unix = UnixListener::bind(&path).unwrap();
        for held in [
            Held::Tcp(tcp.local_addr().unwrap().port()),
            Held::Tcp(tcp6.local_addr().unwrap().port()),
            Held::Udp(udp.local_addr().unwrap().port()),
            Held::Unix(&path),
        ] {
            let holder = find(held).unwrap_or_else(|| panic!("nobody holds {held:?}"));
            assert_eq!(holder.pid, std::process::id(), "{held:?}");
            assert!(holder.command.contains("worksong_engine"), "{}", holder.command);
        }
        let tail = Path::new(path.file_name().unwrap());
        assert_eq!(find(Held::Unix(tail)), None, "the end of a path is not the path");
        drop(unix);
        fs::remove_file(path).unwrap();
    }

    #[test]
    fn a_free_address_has_no_holder() {
        let port = {
            let closed = UdpSocket::bind("127.0.0.1:0").unwrap();
            closed.local_addr().unwrap().port()
        };
        assert_eq!(find(Held::Udp(port)), None);
        assert_eq!(find(Held::Unix(Path::new("/nonexistent/x.sock"))), None);
    }

    #[test]
    fn a_connection_is_not_a_listener() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let client = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        assert_eq!(find(Held::Tcp(client.local_addr().unwrap().port())), None);
    }

    #[test]
    fn who_has_accepted_a_connection_is_seen_when_somebody_has() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let server = listener.local_addr().unwrap().port();
        let stream = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let client = stream.local_addr().unwrap().port();
        let (own, other) = (HashSet::from([std::process::id()]), HashSet::from([1]));
        assert!(listens(&own, server) && !listens(&other, server) && !listens(&own, client));
        assert_eq!(has_accepted(&own, server, client), None);
        let accepted = listener.accept().unwrap();
        assert_eq!(has_accepted(&own, server, client), Some(true));
        assert_eq!(has_accepted(&other, server, client), Some(false));
        drop(accepted);
    }

    #[test]
    fn odd_content_is_passed_over() {
        let proc = std::env::temp_dir().join(format!("worksong-holder-{}", std::process::id()));
        fs::create_dir_all(proc.join("self/net")).unwrap();
        fs::create_dir_all(proc.join("77/fd")).unwrap();
        fs::write(
            proc.join("self/net/unix"),
            b"head\n\xff\xff /a\n0: 1 2 zz 3 4 9 /a\n0: 1 2 00010000 3 4 4242 /a",
        )
        .unwrap();
        symlink("socket:[4242]", proc.join("77/fd/3")).unwrap();
        fs::write(proc.join("77/cmdline"), [b"node\0a\nb\0".as_slice(), &[b'x'; 500]].concat()).unwrap();

        let holder = find_in(&proc, Held::Unix(Path::new("/a"))).unwrap();
        assert_eq!(holder.pid, 77);
        assert!(holder.command.starts_with("node a b xxx") && holder.command.ends_with('…'));
        assert_eq!(find_in(&proc, Held::Unix(Path::new("/b"))), None);

        fs::write(proc.join("77/cmdline"), b"\0\0").unwrap();
        fs::write(proc.join("77/comm"), "kworker\n").unwrap();
        assert_eq!(find_in(&proc, Held::Unix(Path::new("/a"))).unwrap().to_string(), "pid 77 (kworker)");
        fs::remove_dir_all(proc).unwrap();
    }
}
