//! Programs that connect a socket to each of their clients, at the address of the first one, as servers of DTLS do.

use rustix::process::{Pid, Signal, kill_process};

use super::*;

const SECOND: WorkerId = WorkerId { app: AppId(1), number: 2 };

/// Begins a script at a port.
fn script(port: u16, rest: &str) -> String {
    format!(
        "at = ('127.0.0.1', {port})\n\
         def udp(): return socket.socket(socket.AF_INET, socket.SOCK_DGRAM)\n\
         def bound(reuse=socket.SO_REUSEADDR):\n\
         \x20   s = udp(); s.settimeout(9); s.setsockopt(socket.SOL_SOCKET, reuse, 1); s.bind(at); return s\n\
         {rest}"
    )
}

#[test]
fn each_client_has_a_socket_and_all_others_have_the_first() {
    let (desk, port) = (Desk::new(), free_port());
    let addresses = [CaptureAddress::UdpPort(port)];
    let server = script(
        port,
        "signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1])\n\
         first = bound(); clients = [udp(), udp(), udp()]; own = []\n\
         for client in clients[:2]:\n\
         \x20   client.settimeout(9); client.sendto(b'hello', at); _, who = first.recvfrom(9)\n\
         \x20   s = bound(); s.connect(who); own.append(s)\n\
         def ask():\n\
         \x20   for number, client in enumerate(clients): client.sendto(bytes([number]), at)\n\
         \x20   got = [s.recv(9)[0] for s in own] + [first.recv(9)[0]]\n\
         \x20   for s in own: s.send(b'!')\n\
         \x20   return got + [client.recvfrom(9) == (b'!', at) for client in clients[:2]]\n\
         print(ask(), flush=True)\n\
         signal.sigwait([signal.SIGUSR1])\n\
         own.pop().close(); clients.pop(1)\n\
         clients[0].sendto(b'0', at); clients[1].sendto(b'1', at); print(own[0].recv(9), first.recv(9))\n",
    );
    let (watch, mut output) = desk.start(WORKER, &server, &addresses);
    let pid = watch.leader;
    desk.capture.watch(watch);
    desk.slots.rotate(WORKER, true);
    let expected = "[0, 1, 2, True, True]\n";
    let mut told = vec![0; expected.len()];
    output.read_exact(&mut told).expect("it serves");
    assert_eq!(String::from_utf8_lossy(&told), expected);
    let stranger = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::DGRAM, None).expect("a socket");
    stranger.set_reuse_address(true).expect("an option");
    stranger.bind(&SocketAddr::from(([127, 0, 0, 1], port)).into()).expect_err("it is nobody else's");
    desk.slots.add(SECOND, Slot(1));
    assert_eq!(desk.run_as(SECOND, &script(port, "bound(); print('ok')"), &addresses), "ok");
    kill_process(Pid::from_raw(pid.cast_signed()).expect("a process"), Signal::USR1).expect("it is a child");
    let mut rest = String::new();
    output.read_to_string(&mut rest).expect("its output");
    end(pid);
    assert_eq!(rest.trim(), "b'0' b'1'");
}

#[test]
fn who_connects_the_socket_that_it_was_given_gets_no_further_one() {
    let (desk, port) = (Desk::new(), free_port());
    let rest = "s = bound(); c = udp(); c.bind(('127.0.0.1', 0)); s.connect(c.getsockname())\n\
         try: bound()\n\
         except OSError as error: print(error.errno, end=' ')\n\
         s.close(); t = bound(socket.SO_REUSEPORT); u = bound(socket.SO_REUSEPORT)\n\
         print(os.fstat(t.fileno()).st_ino == os.fstat(u.fileno()).st_ino)\n";
    let told = desk.run(&script(port, rest), &[CaptureAddress::UdpPort(port)]);
    assert_eq!(told, format!("{} True", libc::EADDRINUSE));
}
