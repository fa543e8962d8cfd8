//! Whether processes wait for what comes to a socket, as far as the kernel shows.
//!
//! Whoever serves has its socket in an epoll, or stands still in a call that waits for it. What waits in another way (a ring
//! of `io_uring`) cannot be seen.

use std::collections::HashSet;
use std::fs;
use std::path::Path;

/// Calls whose first argument is the socket that they wait for.
const ON_ONE: [i64; 5] =
    [libc::SYS_accept, libc::SYS_accept4, libc::SYS_recvfrom, libc::SYS_recvmsg, libc::SYS_recvmmsg];
/// Calls that wait for any of several; for which, only the process's memory says.
#[cfg(target_arch = "x86_64")]
const ON_SEVERAL: [i64; 4] = [libc::SYS_poll, libc::SYS_ppoll, libc::SYS_select, libc::SYS_pselect6];
#[cfg(not(target_arch = "x86_64"))]
const ON_SEVERAL: [i64; 2] = [libc::SYS_ppoll, libc::SYS_pselect6];

/// Returns whether one of the processes waits for the socket with this inode. What cannot be looked at does not.
pub(crate) fn any_waits(processes: &HashSet<u32>, inode: u64) -> bool {
    processes.iter().any(|process| waits(Path::new(&format!("/proc/{process}")), inode))
}

fn waits(process: &Path, inode: u64) -> bool {
    let wanted = format!("socket:[{inode}]");
    let (mut sockets, mut epolls) = (Vec::new(), Vec::new());
    for entry in fs::read_dir(process.join("fd")).into_iter().flatten().flatten() {
        let Ok(link) = fs::read_link(entry.path()) else { continue };
        if link.as_os_str() == wanted.as_str() {
            sockets.push(entry.file_name());
        } else if link.as_os_str() == "anon_inode:[eventpoll]" {
            epolls.push(entry.file_name());
        }
    }
    let mut numbers = sockets.iter().filter_map(|number| number.to_str()?.parse::<u64>().ok());
    let Some(first) = numbers.next() else { return false };
    let numbers: Vec<u64> = std::iter::once(first).chain(numbers).collect();
    epolls.iter().any(|epoll| has(&process.join("fdinfo").join(epoll), inode))
        || tasks_wait(&process.join("task"), &numbers)
}

/// Returns whether an epoll has the socket: `tfd: 5 events: 19 data: … pos:0 ino:2c3f1 sdev:8`.
fn has(epoll: &Path, inode: u64) -> bool {
    let wanted = format!("ino:{inode:x}");
    let text = fs::read_to_string(epoll).unwrap_or_default();
    text.split_whitespace().any(|word| word == wanted)
}

/// Returns whether a thread stands still in a call that waits for one of these descriptors, or for several.
fn tasks_wait(tasks: &Path, numbers: &[u64]) -> bool {
    let tasks = fs::read_dir(tasks).into_iter().flatten().flatten();
    tasks.filter_map(|task| fs::read_to_string(task.path().join("syscall")).ok()).any(|text| {
        let mut words = text.split_whitespace();
        let call = words.next().and_then(|number| number.parse::<i64>().ok());
        let first = words.next().and_then(|word| u64::from_str_radix(word.strip_prefix("0x")?, 16).ok());
        let is_on_one = |call| ON_ONE.contains(&call) && first.is_some_and(|first| numbers.contains(&first));
        call.is_some_and(|call| ON_SEVERAL.contains(&call) || is_on_one(call))
    })
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;
    use std::os::fd::AsFd;

    use rustix::event::epoll;
    use rustix::fs::fstat;

    use super::*;

    fn any(listener: &TcpListener) -> bool {
        let own = HashSet::from([std::process::id()]);
        any_waits(&own, fstat(listener.as_fd()).expect("an inode").st_ino)
    }

    #[test]
    fn who_has_a_socket_in_an_epoll_waits_for_it() {
        let [listener, other] = [(); 2].map(|()| TcpListener::bind("127.0.0.1:0").expect("a port"));
        assert!(!any(&listener), "it is only open");
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC).expect("an epoll");
        epoll::add(&epoll, &listener, epoll::EventData::new_u64(0), epoll::EventFlags::IN).expect("add");
        assert!(any(&listener) && !any(&other));
        epoll::delete(&epoll, &listener).expect("delete");
        assert!(!any(&listener));
    }

    #[test]
    fn who_stands_still_in_accept_waits_for_it() {
        let [listener, other] = [(); 2].map(|()| TcpListener::bind("127.0.0.1:0").expect("a port"));
        std::thread::scope(|scope| {
            scope.spawn(|| listener.accept().expect("a connection"));
            while !any(&listener) {
                std::thread::yield_now();
            }
            assert!(!any(&other), "that is another one");
            std::net::TcpStream::connect(listener.local_addr().expect("an address")).expect("connect");
        });
        assert!(!any(&listener));
    }
}
