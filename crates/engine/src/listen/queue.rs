//! How many connections wait at a listening socket, how many may, and when that is worth telling.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::{Duration, Instant};

use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, netlink, recv, send, socket_with,
};

use super::raw;

/// The length of a listening socket's queue, and its limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct QueueLength {
    pub(crate) queued: u32,
    /// The kernel lets in one more, and leaves others to try again.
    pub(crate) backlog: u32,
}

/// Whether a queue is more than half full, or was, and has not become much shorter.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Fullness {
    long: Option<Long>,
}

#[derive(Clone, Copy, Debug)]
struct Long {
    since: Instant,
    most: u32,
}

/// What a look at a queue means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Change {
    Nothing,
    Fills,
    /// It was long for this time; at most so many waited.
    IsOver {
        took: Duration,
        most: u32,
    },
}

impl Fullness {
    pub(crate) fn is_long(&self) -> bool {
        self.long.is_some()
    }

    /// Notes what was seen.
    pub(crate) fn look(&mut self, length: QueueLength, now: Instant) -> Change {
        let (queued, backlog) = (u64::from(length.queued), u64::from(length.backlog));
        match &mut self.long {
            None if queued * 2 > backlog => {
                self.long = Some(Long { since: now, most: length.queued });
                Change::Fills
            }
            None => Change::Nothing,
            // Not at once: it would be told again and again.
            Some(long) if queued * 4 > backlog => {
                long.most = long.most.max(length.queued);
                Change::Nothing
            }
            Some(_) => self.end(now),
        }
    }

    /// Notes that nothing can wait any more: the socket is closed.
    pub(crate) fn end(&mut self, now: Instant) -> Change {
        self.long.take().map_or(Change::Nothing, |Long { since, most }| Change::IsOver {
            took: now.saturating_duration_since(since),
            most,
        })
    }
}

/// Returns how many connections wait at a listening socket, of TCP or with a path.
pub(crate) fn queue_length(socket: impl AsFd) -> io::Result<QueueLength> {
    let socket = socket.as_fd();
    match raw::tcp_queue(socket) {
        Err(error) if error.raw_os_error() == Some(libc::EOPNOTSUPP) => unix_queue(socket),
        answer => answer,
    }
}

/// Returns how many connections wait at a listening socket.
pub(crate) fn queued(socket: impl AsFd) -> io::Result<u32> {
    queue_length(socket).map(|length| length.queued)
}

/// Asks the kernel for one socket (`sock_diag(7)`), which answers before the call of the system returns.
fn unix_queue(socket: BorrowedFd<'_>) -> io::Result<QueueLength> {
    let unknown = || io::Error::from_raw_os_error(libc::EOPNOTSUPP);
    // The kernel's number for it has 32 bits there.
    let inode = rustix::fs::fstat(socket)?.st_ino as u32;
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let netlink = socket_with(AddressFamily::NETLINK, SocketType::RAW, flags, Some(netlink::SOCK_DIAG))?;
    send(&netlink, &unix_question(inode), SendFlags::empty())?;
    let mut answer = [0; 256];
    let (length, _all) = recv(&netlink, &mut answer[..], RecvFlags::empty())?;
    answer.get(..length).and_then(read_unix_answer).ok_or_else(unknown)
}

/// `struct nlmsghdr` and `struct unix_diag_req`.
fn unix_question(inode: u32) -> Vec<u8> {
    /// `SOCK_DIAG_BY_FAMILY` of the kernel's `sock_diag.h`.
    const BY_FAMILY: u16 = 20;
    /// `UDIAG_SHOW_RQLEN` of the kernel's `unix_diag.h`.
    const SHOW_QUEUE: u32 = 0x10;
    const ANY: u32 = u32::MAX;
    const LENGTH: u32 = 40;
    let header =
        [&LENGTH.to_ne_bytes()[..], &BY_FAMILY.to_ne_bytes(), &(libc::NLM_F_REQUEST as u16).to_ne_bytes()];
    let (sequence, sender) = ([0; 4], [0; 4]);
    let family = [libc::AF_UNIX as u8, 0, 0, 0];
    let rest = [ANY, inode, SHOW_QUEUE, ANY, ANY].map(u32::to_ne_bytes).concat();
    [&header.concat()[..], &sequence, &sender, &family, &rest].concat()
}

/// Finds the lengths among the attributes after `struct nlmsghdr` and `struct unix_diag_msg`.
fn read_unix_answer(answer: &[u8]) -> Option<QueueLength> {
    const HEADERS: usize = 32;
    /// `UNIX_DIAG_RQLEN` of the kernel's `unix_diag.h`.
    const QUEUE: u16 = 4;
    let number = |bytes: &[u8]| bytes.first_chunk().map(|bytes| u32::from_ne_bytes(*bytes));
    let half = |bytes: &[u8]| bytes.first_chunk().map(|bytes| u16::from_ne_bytes(*bytes));
    let mut rest = answer.get(HEADERS..)?;
    loop {
        let (length, kind) = (usize::from(half(rest)?), half(rest.get(2..)?)?);
        let value = rest.get(4..length)?;
        if kind == QUEUE {
            return Some(QueueLength { queued: number(value)?, backlog: number(value.get(4..)?)? });
        }
        rest = rest.get(length.next_multiple_of(4)..)?;
    }
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};
    use std::os::unix::net::UnixStream;
    use std::time::{Duration, Instant};

    use socket2::{Domain, SockAddr, Socket, Type};

    use super::*;

    #[test]
    fn the_queues_of_tcp_and_unix_sockets_are_seen_with_their_limits() {
        let tcp = TcpListener::bind("127.0.0.1:0").expect("a port");
        socket2::SockRef::from(&tcp).listen(7).expect("listen");
        let address = tcp.local_addr().expect("an address");
        let _tcp_clients = [(); 3].map(|()| TcpStream::connect(address).expect("connect"));
        // A client's end is open a moment before it is queued.
        let by = Instant::now() + Duration::from_secs(10);
        while queue_length(&tcp).expect("a length") != (QueueLength { queued: 3, backlog: 7 }) {
            assert!(Instant::now() < by, "{:?}", queue_length(&tcp));
        }

        let path = std::env::temp_dir().join(format!("worksong-queue-{}", std::process::id()));
        let unix = Socket::new(Domain::UNIX, Type::STREAM, None).expect("a socket");
        unix.bind(&SockAddr::unix(&path).expect("an address")).expect("bind");
        unix.listen(5).expect("listen");
        let _unix_clients = [(); 2].map(|()| UnixStream::connect(&path).expect("connect"));
        std::fs::remove_file(&path).expect("it is there");
        assert_eq!(queue_length(&unix).expect("a length"), QueueLength { queued: 2, backlog: 5 });

        queue_length(std::fs::File::open("/dev/null").expect("it is there")).expect_err("no socket");
    }

    #[test]
    fn what_is_cut_short_is_no_answer() {
        let attribute =
            [&12_u16.to_ne_bytes()[..], &4_u16.to_ne_bytes(), &2_u32.to_ne_bytes(), &5_u32.to_ne_bytes()];
        let other = [&5_u16.to_ne_bytes()[..], &1_u16.to_ne_bytes(), &[1, 0, 0, 0]];
        let answer = [&[0; 32][..], &other.concat(), &attribute.concat()].concat();
        assert_eq!(read_unix_answer(&answer), Some(QueueLength { queued: 2, backlog: 5 }));
        for length in 0..answer.len() {
            assert_eq!(read_unix_answer(&answer[..length]), None, "{length}");
        }
    }

    #[test]
    fn a_queue_is_long_from_one_half_to_one_quarter() {
        let now = Instant::now();
        let mut fullness = Fullness::default();
        let mut look = |queued, backlog| fullness.look(QueueLength { queued, backlog }, now);
        assert_eq!(look(0, 0), Change::Nothing);
        assert_eq!(look(64, 128), Change::Nothing);
        assert_eq!(look(65, 128), Change::Fills);
        assert_eq!(look(90, 128), Change::Nothing);
        assert_eq!(look(33, 128), Change::Nothing);
        assert_eq!(look(32, 128), Change::IsOver { took: Duration::ZERO, most: 90 });
        assert_eq!(look(33, 128), Change::Nothing);
        assert_eq!(fullness.end(now), Change::Nothing);
    }
}
