//! Whether processes are at work for their clients, as far as the kernel can tell.

use std::cmp::Ordering;
use std::collections::HashSet;
use std::fs;
use std::io;
use std::os::fd::{OwnedFd, RawFd};
use std::path::PathBuf;
use std::time::Duration;

use rustix::process::{Pid, PidfdFlags, PidfdGetfdFlags, pidfd_getfd, pidfd_open};
use socket2::SockRef;

use crate::listen::tcp_info;
use crate::shortage::Shortage;

/// Returns whether a process has a TCP connection to one of these ports of its own that is not idle: the client has sent
/// something that is not answered, or something has moved within this time.
///
/// A process whose descriptors cannot be seen counts as idle, unless this process has no descriptor left to look with.
pub(crate) fn any_busy(processes: &HashSet<u32>, ports: &[u16], quiet: Duration) -> bool {
    processes.iter().any(|process| is_busy(*process, ports, quiet))
}

fn is_busy(process: u32, ports: &[u16], quiet: Duration) -> bool {
    look(process, ports, quiet).unwrap_or_else(|error| is_short(&error))
}

fn look(process: u32, ports: &[u16], quiet: Duration) -> io::Result<bool> {
    let Some(pid) = i32::try_from(process).ok().and_then(Pid::from_raw) else { return Ok(false) };
    let handle = pidfd_open(pid, PidfdFlags::empty())?;
    for entry in fs::read_dir(format!("/proc/{process}/fd"))?.flatten() {
        let is_socket = |link: PathBuf| link.to_str().is_some_and(|link| link.starts_with("socket:"));
        let number: Option<RawFd> = entry.file_name().to_str().and_then(|number| number.parse().ok());
        let Some(number) = number.filter(|_| fs::read_link(entry.path()).is_ok_and(is_socket)) else {
            continue;
        };
        match pidfd_getfd(&handle, number, PidfdGetfdFlags::empty()).map_err(io::Error::from) {
            Ok(socket) if works_for_client(&socket, ports, quiet) => return Ok(true),
            Err(error) if is_short(&error) => return Err(error),
            // It is closed by now, or nobody may see it.
            Ok(_) | Err(_) => {}
        }
    }
    Ok(false)
}

fn is_short(error: &io::Error) -> bool {
    Shortage::of_error(error).is_some()
}

fn works_for_client(socket: &OwnedFd, ports: &[u16], quiet: Duration) -> bool {
    let local = SockRef::from(socket).local_addr().ok().and_then(|address| address.as_socket());
    let is_ours = local.is_some_and(|address| ports.contains(&address.port()));
    is_ours && tcp_info(socket).is_ok_and(|info| is_at_work(&info, quiet))
}

/// How long a connection is given the benefit of the doubt.
const DOUBT: Duration = Duration::from_secs(5);

/// Ages are as exact as the kernel's ticks are long, up to 10 ms. When the last answer and what the client sent last are of
/// one tick, either may have been the later one. It was the answer if the client has acknowledged something since, without
/// sending anything. If not, the connection may be at work, for a while at least, unless nothing has to be quiet any more.
fn is_at_work(info: &libc::tcp_info, quiet: Duration) -> bool {
    /// `TCP_ESTABLISHED` and `TCP_CLOSE_WAIT` of the kernel's `tcp_states.h`.
    const ESTABLISHED: u8 = 1;
    const CLOSE_WAIT: u8 = 8;
    if info.tcpi_state != ESTABLISHED && info.tcpi_state != CLOSE_WAIT {
        return false;
    }
    let (sent, received) = (info.tcpi_last_data_sent, info.tcpi_last_data_recv);
    let quiet_for = Duration::from_millis(sent.min(received).into());
    let is_asked = match received.cmp(&sent) {
        // All are ages: the younger was the last.
        Ordering::Less => true,
        Ordering::Greater => false,
        Ordering::Equal => {
            let is_unsure = info.tcpi_bytes_received > 0 && info.tcpi_last_ack_recv >= received;
            is_unsure && quiet > Duration::ZERO && quiet_for < DOUBT
        }
    };
    info.tcpi_unacked > 0 || quiet_for < quiet || is_asked
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::{TcpListener, TcpStream};

    use super::*;

    const QUIET: Duration = Duration::from_secs(1);

    #[test]
    fn who_has_sent_last_says_whether_a_connection_is_idle() {
        let info = |state: u8, sent: u32, received: u32, acknowledged: u32| {
            let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
            let client = TcpStream::connect(listener.local_addr().expect("an address")).expect("connect");
            let mut info = tcp_info(&client).expect("an established connection");
            assert_eq!(info.tcpi_bytes_received, 0);
            info.tcpi_state = state;
            info.tcpi_unacked = 0;
            info.tcpi_last_data_sent = sent;
            info.tcpi_last_data_recv = received;
            info.tcpi_last_ack_recv = acknowledged;
            info
        };
        let is_busy = |info: libc::tcp_info| is_at_work(&info, QUIET);
        let after_a_request = |info| libc::tcp_info { tcpi_bytes_received: 1, ..info };
        assert!(is_busy(info(1, 5_000, 3_000, 3_000)), "a request is not answered");
        assert!(
            is_busy(info(8, 5_000, 3_000, 3_000)),
            "a request is not answered, and the client sends no other"
        );
        assert!(!is_busy(info(1, 3_000, 3_100, 3_000)), "answered, and nothing since");
        assert!(is_busy(info(1, 300, 3_000, 300)), "an answer is on its way");
        assert!(!is_busy(info(1, 3_000, 3_000, 3_000)), "nothing was ever sent");
        assert!(!is_busy(info(2, 3_000, 10, 10)), "no connection yet");
        let one_tick = after_a_request(info(1, 3_000, 3_000, 3_000));
        assert!(is_busy(one_tick), "the next request may have come right after the answer");
        assert!(!is_at_work(&one_tick, Duration::ZERO), "it cannot be told, and time is short");
        let long_ago = after_a_request(info(1, 6_000, 6_000, 6_000));
        assert!(!is_busy(long_ago), "it is hardly a request");
        let answered = after_a_request(info(1, 3_000, 3_000, 2_960));
        assert!(!is_busy(answered), "the answer was acknowledged, and nothing came since");
    }

    #[test]
    fn connections_of_a_process_are_found_by_their_port() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let port = listener.local_addr().expect("an address").port();
        let own = HashSet::from([std::process::id()]);
        assert!(!any_busy(&own, &[port], QUIET), "a listening socket is no connection");
        let mut client = TcpStream::connect(("127.0.0.1", port)).expect("connect");
        let (mut server, _) = listener.accept().expect("accept");
        client.write_all(b"?").expect("send");
        server.read_exact(&mut [0]).expect("receive");
        assert!(any_busy(&own, &[port], QUIET));
        assert!(!any_busy(&own, &[port ^ 1], QUIET), "of another port");
    }
}
