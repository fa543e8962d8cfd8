//! Whether processes wait for what comes to a socket, as far as the kernel shows.
//!
//! Whoever serves has its socket in an epoll, or stands still in a call that waits for it. What waits in a ring of `io_uring`
//! cannot be seen, nor can a process that hides what it has or does.

use std::collections::HashSet;
use std::ffi::OsString;
use std::fs;
use std::path::Path;

use super::descriptors::{Descriptors, is_gone};

/// Calls whose first argument is the socket that they wait for.
const ON_ONE: [i64; 7] = [
    libc::SYS_accept,
    libc::SYS_accept4,
    libc::SYS_recvfrom,
    libc::SYS_recvmsg,
    libc::SYS_recvmmsg,
    libc::SYS_read,
    libc::SYS_readv,
];
/// Calls that wait for any of several; for which, only the process's memory says.
#[cfg(target_arch = "x86_64")]
const ON_SEVERAL: [i64; 4] = [libc::SYS_poll, libc::SYS_ppoll, libc::SYS_select, libc::SYS_pselect6];
#[cfg(not(target_arch = "x86_64"))]
const ON_SEVERAL: [i64; 2] = [libc::SYS_ppoll, libc::SYS_pselect6];

/// What is seen of processes that may wait for what comes to a socket; of several the greatest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Waiting {
    /// None of them has it open.
    Closed,
    /// It is open, and nobody waits.
    Open,
    /// Nobody is seen to wait, but not everything is seen.
    Hidden,
    /// One of them waits.
    Seen,
}

/// Looks at processes and the socket with this inode.
pub(crate) fn look(processes: &HashSet<u32>, inode: u64) -> Waiting {
    let of_each = processes.iter().filter_map(|process| look_at(*process, inode));
    // Some process of a worker that lives is there, whether it is shown or not.
    of_each.max().unwrap_or(Waiting::Hidden)
}

/// Returns what is seen of one process; `None` of one that is gone.
fn look_at(process: u32, inode: u64) -> Option<Waiting> {
    let Descriptors { seen, are_all } = Descriptors::of(process)?;
    let otherwise = |seen: Waiting| if are_all { seen } else { Waiting::Hidden };
    let number_of = |wanted: &str| {
        let wanted = wanted.to_owned();
        move |(number, link): &(u32, OsString)| (*link == *wanted).then_some(*number)
    };
    let sockets: Vec<u32> = seen.iter().filter_map(number_of(&format!("socket:[{inode}]"))).collect();
    if sockets.is_empty() {
        return Some(otherwise(Waiting::Closed));
    }
    let process = format!("/proc/{process}");
    let process = Path::new(&process);
    let epolls = seen.iter().filter_map(number_of("anon_inode:[eventpoll]"));
    let in_epolls = epolls.map(|epoll| in_epoll(&process.join(format!("fdinfo/{epoll}")), inode));
    Some(otherwise(in_epolls.chain(in_calls(&process.join("task"), &sockets)).max().unwrap_or(Waiting::Open)))
}

/// Looks whether an epoll has the socket: `tfd: 5 events: 19 data: … pos:0 ino:2c3f1 sdev:8`.
fn in_epoll(epoll: &Path, inode: u64) -> Waiting {
    let wanted = format!("ino:{inode:x}");
    match fs::read_to_string(epoll) {
        Ok(text) if text.split_whitespace().any(|word| word == wanted) => Waiting::Seen,
        Ok(_without) => Waiting::Open,
        Err(error) if is_gone(&error) => Waiting::Open,
        Err(_hidden) => Waiting::Hidden,
    }
}

/// Looks whether a thread stands still in a call that waits for one of these descriptors, or for several.
fn in_calls(tasks: &Path, sockets: &[u32]) -> impl Iterator<Item = Waiting> {
    let tasks = fs::read_dir(tasks).into_iter().flatten().flatten();
    tasks.map(move |task| match fs::read_to_string(task.path().join("syscall")) {
        Ok(call) if waits_in(&call, sockets) => Waiting::Seen,
        Ok(_other) => Waiting::Open,
        // Not every kernel tells of calls.
        Err(error) if is_gone(&error) && !task.path().exists() => Waiting::Open,
        Err(_hidden) => Waiting::Hidden,
    })
}

/// Returns whether a call waits for one of these descriptors, or for several: `43 0x3 0x7f1469e2c000 …`.
fn waits_in(call: &str, sockets: &[u32]) -> bool {
    let mut words = call.split_whitespace();
    let number = words.next().and_then(|number| number.parse::<i64>().ok());
    let first = words.next().and_then(|word| u64::from_str_radix(word.strip_prefix("0x")?, 16).ok());
    let is_for_socket =
        || first.is_some_and(|first| sockets.iter().any(|socket| u64::from(*socket) == first));
    number.is_some_and(|number| ON_SEVERAL.contains(&number) || ON_ONE.contains(&number) && is_for_socket())
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead, BufReader};
    use std::net::TcpListener;
    use std::os::fd::AsFd;
    use std::process::{Child, Command, Stdio};
    use std::thread;

    use rustix::event::epoll;
    use rustix::fs::fstat;
    use rustix::thread::{CapabilitySet, capabilities, set_capabilities};

    use super::*;

    fn inode(listener: &TcpListener) -> u64 {
        fstat(listener.as_fd()).expect("an inode").st_ino
    }

    fn look_at_own(listener: &TcpListener) -> Waiting {
        look(&HashSet::from([std::process::id()]), inode(listener))
    }

    #[test]
    fn who_has_a_socket_in_an_epoll_waits_for_it() {
        let [listener, other] = [(); 2].map(|()| TcpListener::bind("127.0.0.1:0").expect("a port"));
        assert_eq!(look_at_own(&listener), Waiting::Open);
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC).expect("an epoll");
        epoll::add(&epoll, &listener, epoll::EventData::new_u64(0), epoll::EventFlags::IN).expect("add");
        assert_eq!((look_at_own(&listener), look_at_own(&other)), (Waiting::Seen, Waiting::Open));
        epoll::delete(&epoll, &listener).expect("delete");
        assert_eq!(look_at_own(&listener), Waiting::Open);
    }

    #[test]
    fn who_stands_still_in_accept_waits_for_it() {
        let [listener, other] = [(); 2].map(|()| TcpListener::bind("127.0.0.1:0").expect("a port"));
        thread::scope(|scope| {
            scope.spawn(|| listener.accept().expect("a connection"));
            while look_at_own(&listener) != Waiting::Seen {
                thread::yield_now();
            }
            assert_eq!(look_at_own(&other), Waiting::Open, "that is another one");
            std::net::TcpStream::connect(listener.local_addr().expect("an address")).expect("connect");
        });
        assert_eq!(look_at_own(&listener), Waiting::Open);
    }

    #[test]
    fn who_has_closed_a_socket_does_not_wait_for_it() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let inode = inode(&listener);
        drop(listener);
        assert_eq!(look(&HashSet::from([std::process::id()]), inode), Waiting::Closed);
        assert_eq!(look(&HashSet::new(), inode), Waiting::Hidden, "no process is shown at all");
    }

    /// A process that lets nobody look at it; it is killed in the end.
    struct Hidden(Child);

    impl Hidden {
        fn start() -> Self {
            const SCRIPT: &str = "import ctypes, time\n\
                ctypes.CDLL(None).prctl(4, 0)\n\
                print(flush=True)\n\
                time.sleep(1000)\n";
            let mut command = Command::new("python3");
            let mut child =
                command.args(["-c", SCRIPT]).stdout(Stdio::piped()).spawn().expect("Python starts");
            let mut line = String::new();
            BufReader::new(child.stdout.as_mut().expect("a pipe")).read_line(&mut line).expect("a line");
            Self(child)
        }
    }

    impl Drop for Hidden {
        fn drop(&mut self) {
            // It has ended already where the test went wrong.
            let _ended = self.0.kill();
            let _status = self.0.wait();
        }
    }

    #[test]
    fn what_a_process_hides_is_not_taken_for_closed() {
        let hidden = Hidden::start();
        let processes = HashSet::from([hidden.0.id()]);
        // On a thread, whose capabilities are its own: an almighty primary sees everything.
        let looked = thread::spawn(move || {
            let mut sets = capabilities(None).expect("our own");
            sets.effective.remove(CapabilitySet::SYS_PTRACE);
            set_capabilities(None, sets).expect("less is allowed");
            look(&processes, 1)
        });
        assert_eq!(looked.join().expect("no panic"), Waiting::Hidden);
    }

    #[test]
    fn calls_are_read_as_the_kernel_writes_them() {
        let accept = format!("{} 0x5 0x0 0x0 0x80000 0x0 0x0 0x7ffc 0x7f14\n", libc::SYS_accept4);
        assert!(waits_in(&accept, &[4, 5]) && !waits_in(&accept, &[4]));
        assert!(waits_in(&format!("{} 0x4 0x7ffc 0x1000", libc::SYS_read), &[4]));
        assert!(waits_in(&format!("{} 0x7ffc 0x1", libc::SYS_ppoll), &[4]));
        for other in ["running\n", "", "-1 0x7ffc 0x7f14", "x 0x5"] {
            assert!(!waits_in(other, &[5]), "{other:?}");
        }
    }
}
