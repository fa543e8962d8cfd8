//! What a program has set on its socket, set on the one that takes its place.
#![expect(unsafe_code, reason = "any socket option as bytes; see each SAFETY comment")]

use std::ffi::c_int;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

use socket2::{Domain, Socket, Type};

/// Whatever changes how the socket is bound, how it accepts, what accepted connections inherit, or what is told of datagrams.
const OPTIONS: [(c_int, c_int); 70] = [
    (libc::SOL_SOCKET, libc::SO_BINDTODEVICE),
    (libc::SOL_SOCKET, libc::SO_BROADCAST),
    (libc::SOL_SOCKET, libc::SO_BUSY_POLL),
    (libc::SOL_SOCKET, libc::SO_DONTROUTE),
    (libc::SOL_SOCKET, libc::SO_KEEPALIVE),
    (libc::SOL_SOCKET, libc::SO_LINGER),
    (libc::SOL_SOCKET, libc::SO_MARK),
    (libc::SOL_SOCKET, libc::SO_MAX_PACING_RATE),
    (libc::SOL_SOCKET, libc::SO_NO_CHECK),
    (libc::SOL_SOCKET, libc::SO_OOBINLINE),
    (libc::SOL_SOCKET, libc::SO_PRIORITY),
    (libc::SOL_SOCKET, libc::SO_RCVBUF),
    (libc::SOL_SOCKET, libc::SO_RCVLOWAT),
    (libc::SOL_SOCKET, libc::SO_RCVTIMEO),
    (libc::SOL_SOCKET, libc::SO_RXQ_OVFL),
    (libc::SOL_SOCKET, libc::SO_SNDBUF),
    (libc::SOL_SOCKET, libc::SO_SNDTIMEO),
    (libc::SOL_SOCKET, libc::SO_TIMESTAMP),
    (libc::SOL_SOCKET, libc::SO_TIMESTAMPING),
    (libc::SOL_SOCKET, libc::SO_TIMESTAMPNS),
    (libc::SOL_SOCKET, libc::SO_ZEROCOPY),
    (libc::IPPROTO_IP, libc::IP_FREEBIND),
    (libc::IPPROTO_IP, libc::IP_MINTTL),
    (libc::IPPROTO_IP, libc::IP_MTU_DISCOVER),
    (libc::IPPROTO_IP, libc::IP_MULTICAST_ALL),
    (libc::IPPROTO_IP, libc::IP_MULTICAST_IF),
    (libc::IPPROTO_IP, libc::IP_MULTICAST_LOOP),
    (libc::IPPROTO_IP, libc::IP_MULTICAST_TTL),
    (libc::IPPROTO_IP, libc::IP_PKTINFO),
    (libc::IPPROTO_IP, libc::IP_RECVERR),
    (libc::IPPROTO_IP, libc::IP_RECVORIGDSTADDR),
    (libc::IPPROTO_IP, libc::IP_RECVTOS),
    (libc::IPPROTO_IP, libc::IP_RECVTTL),
    (libc::IPPROTO_IP, libc::IP_TOS),
    (libc::IPPROTO_IP, libc::IP_TRANSPARENT),
    (libc::IPPROTO_IP, libc::IP_TTL),
    (libc::IPPROTO_IPV6, libc::IPV6_DONTFRAG),
    (libc::IPPROTO_IPV6, libc::IPV6_FREEBIND),
    (libc::IPPROTO_IPV6, libc::IPV6_MINHOPCOUNT),
    (libc::IPPROTO_IPV6, libc::IPV6_MTU_DISCOVER),
    (libc::IPPROTO_IPV6, libc::IPV6_MULTICAST_HOPS),
    (libc::IPPROTO_IPV6, libc::IPV6_MULTICAST_IF),
    (libc::IPPROTO_IPV6, libc::IPV6_MULTICAST_LOOP),
    (libc::IPPROTO_IPV6, libc::IPV6_RECVERR),
    (libc::IPPROTO_IPV6, libc::IPV6_RECVHOPLIMIT),
    (libc::IPPROTO_IPV6, libc::IPV6_RECVORIGDSTADDR),
    (libc::IPPROTO_IPV6, libc::IPV6_RECVPKTINFO),
    (libc::IPPROTO_IPV6, libc::IPV6_RECVTCLASS),
    (libc::IPPROTO_IPV6, libc::IPV6_TCLASS),
    (libc::IPPROTO_IPV6, libc::IPV6_TRANSPARENT),
    (libc::IPPROTO_IPV6, libc::IPV6_UNICAST_HOPS),
    (libc::IPPROTO_TCP, libc::TCP_CONGESTION),
    (libc::IPPROTO_TCP, libc::TCP_CORK),
    (libc::IPPROTO_TCP, libc::TCP_DEFER_ACCEPT),
    (libc::IPPROTO_TCP, libc::TCP_FASTOPEN),
    (libc::IPPROTO_TCP, libc::TCP_FASTOPEN_NO_COOKIE),
    (libc::IPPROTO_TCP, libc::TCP_KEEPCNT),
    (libc::IPPROTO_TCP, libc::TCP_KEEPIDLE),
    (libc::IPPROTO_TCP, libc::TCP_KEEPINTVL),
    (libc::IPPROTO_TCP, libc::TCP_LINGER2),
    (libc::IPPROTO_TCP, libc::TCP_MAXSEG),
    (libc::IPPROTO_TCP, libc::TCP_NODELAY),
    (libc::IPPROTO_TCP, libc::TCP_NOTSENT_LOWAT),
    (libc::IPPROTO_TCP, libc::TCP_QUICKACK),
    (libc::IPPROTO_TCP, libc::TCP_SAVE_SYN),
    (libc::IPPROTO_TCP, libc::TCP_SYNCNT),
    (libc::IPPROTO_TCP, libc::TCP_USER_TIMEOUT),
    (libc::IPPROTO_TCP, libc::TCP_WINDOW_CLAMP),
    (libc::IPPROTO_UDP, libc::UDP_GRO),
    (libc::IPPROTO_UDP, libc::UDP_SEGMENT),
];

/// The longest value: a `struct timeval`, or a name.
const LONGEST: usize = 16;

/// Sets on a socket what was set on another one.
///
/// What is refused is left out: an option that the kernel does not know was set on neither.
pub(super) fn copy(from: BorrowedFd<'_>, to: BorrowedFd<'_>) {
    for (level, option) in OPTIONS {
        let Some(wanted) = get(from, level, option) else { continue };
        if get(to, level, option).as_ref() == Some(&wanted) {
            continue;
        }
        match (level, option) {
            (libc::SOL_SOCKET, libc::SO_RCVBUF) => set_buffer(to, libc::SO_RCVBUFFORCE, option, wanted),
            (libc::SOL_SOCKET, libc::SO_SNDBUF) => set_buffer(to, libc::SO_SNDBUFFORCE, option, wanted),
            _ => drop(set(to, level, option, &wanted)),
        }
    }
}

/// Sets the length of a buffer, beyond the limit for everybody if that is allowed.
fn set_buffer(socket: BorrowedFd<'_>, without_limit: c_int, option: c_int, wanted: Vec<u8>) {
    let wanted = halved(wanted);
    if set(socket, libc::SOL_SOCKET, without_limit, &wanted).is_err() {
        let _shorter = set(socket, libc::SOL_SOCKET, option, &wanted);
    }
}

/// Returns whether a socket is of the network that this process is in: one of ours could not take its place otherwise.
pub(super) fn are_of_one_network(theirs: BorrowedFd<'_>) -> bool {
    /// `SO_NETNS_COOKIE`, since Linux 5.14.
    const NETWORK: c_int = 71;
    // The kernel wants room for just the number.
    let network = |socket: BorrowedFd<'_>| read::<{ size_of::<u64>() }>(socket, libc::SOL_SOCKET, NETWORK);
    // Without a socket of our own none could be put there either.
    let ours = Socket::new(Domain::UNIX, Type::DGRAM, None);
    ours.is_ok_and(|ours| network(ours.as_fd()) == network(theirs))
}

/// The kernel doubles the length of a buffer that is asked for, and tells the double.
fn halved(value: Vec<u8>) -> Vec<u8> {
    match value.first_chunk() {
        Some(bytes) => (c_int::from_ne_bytes(*bytes) / 2).to_ne_bytes().to_vec(),
        None => value,
    }
}

fn get(socket: BorrowedFd<'_>, level: c_int, option: c_int) -> Option<Vec<u8>> {
    read::<LONGEST>(socket, level, option)
}

fn read<const ROOM: usize>(socket: BorrowedFd<'_>, level: c_int, option: c_int) -> Option<Vec<u8>> {
    let mut value = [0_u8; ROOM];
    let mut length = ROOM as libc::socklen_t;
    // SAFETY: the kernel writes at most `length` bytes into `value`, and how many these were into `length`.
    let result = unsafe {
        libc::getsockopt(socket.as_raw_fd(), level, option, value.as_mut_ptr().cast(), &raw mut length)
    };
    (result == 0).then(|| value.get(..length as usize).map(<[u8]>::to_vec)).flatten()
}

fn set(socket: BorrowedFd<'_>, level: c_int, option: c_int, value: &[u8]) -> io::Result<()> {
    // SAFETY: the kernel reads `value` during the call.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            level,
            option,
            value.as_ptr().cast(),
            value.len() as libc::socklen_t,
        )
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use socket2::TcpKeepalive;

    use super::*;

    fn tcp() -> Socket {
        Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket")
    }

    #[test]
    fn what_was_set_is_set_and_nothing_else() {
        let (theirs, ours, untouched) = (tcp(), tcp(), tcp());
        theirs.set_recv_buffer_size(100_000).expect("a buffer");
        theirs.set_tcp_nodelay(true).expect("no delay");
        theirs.set_linger(Some(Duration::from_secs(3))).expect("linger");
        theirs.set_read_timeout(Some(Duration::from_millis(1500))).expect("a timeout");
        let keep_alive = TcpKeepalive::new().with_time(Duration::from_secs(17));
        theirs.set_tcp_keepalive(&keep_alive).expect("keep-alive");
        copy(theirs.as_fd(), ours.as_fd());
        for (level, option) in OPTIONS {
            let value = |socket: &Socket| get(socket.as_fd(), level, option);
            assert_eq!(value(&ours), value(&theirs), "{level} {option}");
        }
        copy(tcp().as_fd(), untouched.as_fd());
        for (level, option) in OPTIONS {
            let value = |socket: &Socket| get(socket.as_fd(), level, option);
            assert_eq!(value(&untouched), value(&tcp()), "{level} {option}");
        }
    }

    #[test]
    fn whatever_can_be_set_is_copied_for_streams_and_datagrams_of_both_families() {
        for (domain, kind) in [Domain::IPV4, Domain::IPV6]
            .into_iter()
            .flat_map(|domain| [Type::STREAM, Type::DGRAM].map(|kind| (domain, kind)))
        {
            let socket = || Socket::new(domain, kind, None).expect("a socket");
            let value = |socket: &Socket, (level, option)| get(socket.as_fd(), level, option);
            for option in OPTIONS {
                let (theirs, ours) = (socket(), socket());
                let Some(before) = value(&theirs, option) else { continue };
                for number in [0_i32, 1, 2, 9000] {
                    let _impossible = set(theirs.as_fd(), option.0, option.1, &number.to_ne_bytes());
                    copy(theirs.as_fd(), ours.as_fd());
                    assert_eq!(
                        value(&ours, option),
                        value(&theirs, option),
                        "{domain:?} {kind:?} {option:?} {number}"
                    );
                }
                assert_eq!(value(&socket(), option), Some(before));
            }
        }
    }
}
