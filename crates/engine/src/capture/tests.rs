//! Real processes that ask, and what becomes of it.

mod dtls;
mod epolls;
mod signals;
mod unix;

use std::io::{PipeReader, Read};
use std::net::{SocketAddr, TcpListener};
use std::sync::mpsc;
use std::time::Duration;

use super::*;
use crate::ids::{AppId, Slot};
use crate::listen::Spread;
use crate::process::mark::Stamp;
use crate::process::notifier::Asks;
use crate::process::spawn::{Launch, Started, spawn};
use crate::spec::Policy;

const WORKER: WorkerId = WorkerId { app: AppId(1), number: 1 };
const PATIENCE: Duration = Duration::from_secs(30);

/// A thread that answers, and what it tells.
struct Desk {
    capture: Capture,
    told: mpsc::Receiver<CaptureFact>,
    slots: Slots,
}

impl Desk {
    fn new() -> Self {
        let (tell, told) = mpsc::channel();
        let capture = Capture::start(move |fact| drop(tell.send(fact))).expect("a thread");
        let slots = Slots::new(Policy::Kernel(Spread::Hash).into()).expect("an epoll");
        slots.add(WORKER, Slot(0));
        capture.tend(WORKER.app, slots.clone());
        Self { capture, told, slots }
    }

    /// Runs a Python script to its end, and returns what it prints.
    fn run(&self, script: &str, addresses: &[CaptureAddress]) -> String {
        self.run_as(WORKER, script, addresses)
    }

    /// Does the same as another worker.
    fn run_as(&self, worker: WorkerId, script: &str, addresses: &[CaptureAddress]) -> String {
        let (watch, mut output) = self.start(worker, script, addresses);
        let pid = watch.leader;
        self.capture.watch(watch);
        let mut text = String::new();
        output.read_to_string(&mut text).expect("its output");
        end(pid);
        text.trim().to_owned()
    }

    /// Starts a Python script, whose questions wait, and returns its output.
    fn start(&self, worker: WorkerId, script: &str, addresses: &[CaptureAddress]) -> (Watch, PipeReader) {
        let mark = Stamp::new().mark(worker);
        let (Started { pid, notifier }, output) = launch(script, Some(Asks::SocketsAndFiles));
        let notifier = notifier.expect("the kernel asks");
        let (slots, addresses) = (self.slots.clone(), addresses.to_vec());
        (Watch { worker, notifier, slots, addresses, leader: pid, mark }, output)
    }

    fn fact(&self) -> CaptureFact {
        self.told.recv_timeout(PATIENCE).expect("something is told")
    }
}

/// Starts a Python script with a few words that all of them need, and returns its output.
fn launch(script: &str, asks: Option<Asks>) -> (Started, PipeReader) {
    let (output, theirs) = std::io::pipe().expect("a pipe");
    let prelude = "import socket, sys, os, threading, signal, fcntl, struct, subprocess\n\
         def tcp(): return socket.socket(socket.AF_INET, socket.SOCK_STREAM)\n";
    let started = spawn(Launch {
        program: "/usr/bin/env".into(),
        arguments: ["env", "python3", "-c", &format!("{prelude}{script}")].map(Into::into).to_vec(),
        environment: std::env::vars_os().collect(),
        directory: None,
        descriptors: vec![(theirs.into(), 1)],
        listen_pid: false,
        outlives_parent: false,
        asks,
    });
    (started.expect("python3"), output)
}

fn free_port() -> u16 {
    let listener = TcpListener::bind(("127.0.0.1", 0)).expect("a port");
    listener.local_addr().expect("an address").port()
}

fn end(pid: u32) {
    let pid = rustix::process::Pid::from_raw(pid.cast_signed());
    rustix::process::waitpid(pid, rustix::process::WaitOptions::empty()).expect("it is a child");
}

fn open_descriptors() -> usize {
    std::fs::read_dir("/proc/self/fd").expect("it is mounted").count()
}

#[test]
fn a_program_gets_our_socket_with_its_own_options_and_flags() {
    for (inheritable, blocking) in [("True", "False"), ("False", "True")] {
        let (desk, port) = (Desk::new(), free_port());
        let script = format!(
            "s = tcp(); number = s.fileno(); s.setblocking({blocking})\n\
             s.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)\n\
             os.set_inheritable(number, {inheritable})\n\
             s.bind(('127.0.0.1', {port}))\n\
             s.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)\n\
             s.listen(5)\n\
             print(s.getsockname(), s.fileno() == number, s.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN),\n\
             \x20     s.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY), os.get_inheritable(number),\n\
             \x20     not fcntl.fcntl(number, fcntl.F_GETFL) & os.O_NONBLOCK)\n"
        );
        let expected = format!("('127.0.0.1', {port}) True 1 1 {inheritable} {blocking}");
        assert_eq!(desk.run(&script, &[]), expected);
        let address = SocketAddr::from(([127, 0, 0, 1], port));
        let listening = CaptureFact::Listening { worker: WORKER, address: Address::Tcp(address) };
        assert_eq!(desk.fact(), listening);
        // Its process has ended, and it listens still: the socket is ours.
        std::net::TcpStream::connect(address).expect("it is held");
    }
}

#[test]
fn an_address_is_in_use_as_for_any_program() {
    let (desk, port, other) = (Desk::new(), free_port(), TcpListener::bind("127.0.0.1:0").expect("a port"));
    let taken = other.local_addr().expect("an address");
    let script = format!(
        "def bind(port, reuse=False):\n\
         \x20   s = tcp()\n\
         \x20   if reuse: s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)\n\
         \x20   try: s.bind(('127.0.0.1', port))\n\
         \x20   except OSError as error: print(error.errno, end=' ')\n\
         \x20   else: print('ok', end=' ')\n\
         \x20   return s\n\
         probe = bind({port}); probe.close()\n\
         first = bind({port}); first.listen(1)\n\
         bind({port})\n\
         bind({port}, True)\n\
         bind({})\n",
        taken.port()
    );
    let in_use = libc::EADDRINUSE;
    assert_eq!(desk.run(&script, &[]), format!("ok ok {in_use} ok {in_use}"));
    let failed = |address: String| CaptureFact::Failed { worker: WORKER, address, errno: in_use };
    assert!(matches!(desk.fact(), CaptureFact::Listening { .. }));
    assert_eq!(desk.fact(), failed(format!("127.0.0.1:{port}")));
    assert_eq!(desk.fact(), failed(taken.to_string()));
}

#[test]
fn who_tries_without_end_is_told_of_now_and_then() {
    let (desk, other) = (Desk::new(), TcpListener::bind("127.0.0.1:0").expect("a port"));
    let taken = other.local_addr().expect("an address").port();
    let script = format!(
        "failed = 0\n\
         for _ in range(500):\n\
         \x20   s = tcp()\n\
         \x20   try: s.bind(('127.0.0.1', {taken}))\n\
         \x20   except OSError: failed += 1\n\
         \x20   s.close()\n\
         print(failed)\n"
    );
    assert_eq!(desk.run(&script, &[]), "500");
    let told = desk.told.try_iter().count();
    assert!((1..100).contains(&told), "{told} of 500");
}

#[test]
fn what_a_gone_worker_left_behind_gets_no_socket() {
    let (desk, port) = (Desk::new(), free_port());
    desk.slots.remove(WORKER);
    let script = format!(
        "try: tcp().bind(('127.0.0.1', {port}))\n\
         except OSError as error: print(error.errno)\n"
    );
    assert_eq!(desk.run(&script, &[]), libc::EADDRINUSE.to_string());
    assert!(desk.slots.ports().is_empty());
}

#[test]
fn what_the_app_does_not_own_is_the_programs() {
    let (desk, owned, other) = (Desk::new(), free_port(), free_port());
    let script = format!(
        "s = tcp(); s.bind(('127.0.0.1', {other})); s.listen()\n\
         a = tcp(); a.bind(('127.0.0.1', 0)); a.listen()\n\
         u = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); u.bind(('127.0.0.1', {owned}))\n\
         n = socket.socket(socket.AF_UNIX); n.bind('\\0worksong-{other}'); n.listen()\n\
         o = tcp(); o.bind(('127.0.0.1', {owned})); o.listen()\n\
         print('ok')\n"
    );
    assert_eq!(desk.run(&script, &[CaptureAddress::Port(owned)]), "ok");
    let address = SocketAddr::from(([127, 0, 0, 1], owned));
    assert_eq!(desk.fact(), CaptureFact::Listening { worker: WORKER, address: Address::Tcp(address) });
    assert!(desk.told.try_recv().is_err(), "nothing else is known");
    assert_eq!(desk.slots.ports(), [owned]);
}

#[test]
fn a_named_host_is_captured_where_the_program_binds_just_that() {
    let (desk, named, other) = (Desk::new(), free_port(), free_port());
    let script = format!(
        "s = tcp(); s.bind(('127.0.0.1', {named})); s.listen()\n\
         o = tcp(); o.bind(('0.0.0.0', {other})); o.listen()\n\
         print('ok')\n"
    );
    let at = |port: u16| CaptureAddress::Tcp(SocketAddr::from(([127, 0, 0, 1], port)));
    assert_eq!(desk.run(&script, &[at(named), at(other)]), "ok");
    assert_eq!(desk.slots.ports(), [named]);
}

#[test]
fn what_is_bound_in_another_network_stays_there() {
    let (desk, port) = (Desk::new(), free_port());
    let own = std::process::Command::new("unshare").args(["-Urn", "true"]).status();
    if !own.is_ok_and(|status| status.success()) {
        // Networks of one's own are forbidden here.
        return;
    }
    let script = format!(
        "child = 'import socket; s = socket.socket(); s.bind((\"0.0.0.0\", {port})); s.listen(); print(\"ok\")'\n\
         subprocess.run(['unshare', '-Urn', sys.executable, '-c', child])\n"
    );
    assert_eq!(desk.run(&script, &[]), "ok");
    assert!(desk.slots.ports().is_empty());
}

#[test]
fn a_question_that_is_not_open_any_more_does_nothing() {
    let (desk, port) = (Desk::new(), free_port());
    // What it asked about stays in its memory and among its descriptors.
    let script = format!(
        "import ctypes\n\
         s = tcp(); address = ctypes.create_string_buffer(struct.pack('=H', socket.AF_INET) + struct.pack('!H4s8x', {port}, b'\\x7f\\0\\0\\x01'), 16)\n\
         print(ctypes.CDLL(None).bind(s.fileno(), address, 16), flush=True); signal.pause()\n"
    );
    let (watch, mut output) = desk.start(WORKER, &script, &[]);
    let pid = watch.leader;
    let mut watched = Watched::from(watch);
    let question = loop {
        if let Some(question) = watched.notifier.receive().expect("it asks") {
            if matches!(question.call, notify::Call::Bind { .. }) {
                break question;
            }
            watched.notifier.answer(&question, notify::Answer::Continue);
        }
    };
    watched.notifier.answer(&question, notify::Answer::Fail(libc::EADDRINUSE));
    output.read_exact(&mut [0; 3]).expect("it goes on");
    watched.decide(&question);
    assert!(desk.slots.ports().is_empty(), "nobody waits for it");
    let process = rustix::process::Pid::from_raw(pid.cast_signed()).expect("a process");
    rustix::process::kill_process(process, rustix::process::Signal::KILL).expect("it is a child");
    end(pid);
}

#[test]
fn who_asks_may_have_lost_its_first_thread() {
    let (desk, port) = (Desk::new(), free_port());
    let script = format!(
        "import ctypes, time\n\
         def bind():\n\
         \x20   while open(f'/proc/{{os.getpid()}}/stat').read().split()[2] != 'Z': time.sleep(0.001)\n\
         \x20   s = tcp(); s.bind(('127.0.0.1', {port})); s.listen(); print('ok', flush=True); os._exit(0)\n\
         threading.Thread(target=bind).start()\n\
         ctypes.CDLL(None).syscall({}, 0)\n",
        libc::SYS_exit
    );
    assert_eq!(desk.run(&script, &[]), "ok");
    let is_old = !matches!(desk.slots.ports()[..], [captured] if captured == port);
    assert!(!is_old || !knows_threads(), "it is captured as any other");
}

/// Returns whether the kernel opens threads: since Linux 6.9.
fn knows_threads() -> bool {
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").expect("it is mounted");
    let mut numbers = release.split(['.', '-']).map(|number| number.parse::<u32>().unwrap_or(0));
    (numbers.next(), numbers.next()) >= (Some(6), Some(9))
}

#[test]
fn both_families_are_served_as_the_program_asks() {
    let (desk, both, each) = (Desk::new(), free_port(), free_port());
    let script = format!(
        "s = socket.socket(socket.AF_INET6); s.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)\n\
         s.bind(('::', {both})); s.listen()\n\
         b = socket.socket(socket.AF_INET6); b.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)\n\
         b.bind(('::', {each})); b.listen()\n\
         c = tcp(); c.bind(('0.0.0.0', {each})); c.listen()\n\
         print('ok')\n"
    );
    assert_eq!(desk.run(&script, &[]), "ok");
    for port in [both, each] {
        std::net::TcpStream::connect(("127.0.0.1", port)).expect("IPv4");
        std::net::TcpStream::connect(("::1", port)).expect("IPv6");
    }
}

#[test]
fn a_fixed_port_of_a_client_is_no_listener() {
    let (desk, first) = (Desk::new(), free_port());
    let server = TcpListener::bind("127.0.0.1:0").expect("a port");
    let to = server.local_addr().expect("an address").port();
    let script = format!(
        "import errno\n\
         for port in range({first}, {first} + 200):\n\
         \x20   s = tcp(); s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)\n\
         \x20   try: s.bind(('127.0.0.1', port))\n\
         \x20   except OSError: continue\n\
         \x20   if port == {first}: s.connect(('127.0.0.1', {to})); print(s.getsockname()[1])\n\
         \x20   s.close()\n"
    );
    for _ in 0..2 {
        assert_eq!(desk.run(&script, &[]), first.to_string());
        let (mut connection, client) = server.accept().expect("it is there");
        assert_eq!(client.port(), first);
        assert_eq!(connection.read(&mut [0]).expect("its end is seen"), 0);
        assert!(desk.slots.only_bound(WORKER).len() < 150, "what is closed is forgotten");
        drop(connection);
        desk.slots.remove(WORKER);
        assert!(desk.slots.ports().is_empty());
        desk.slots.add(WORKER, Slot(0));
    }
}

#[test]
fn threads_and_children_ask_too_and_signals_do_not_disturb() {
    let (desk, first, second) = (Desk::new(), free_port(), free_port());
    let script = format!(
        "signal.signal(signal.SIGALRM, lambda *_: None); signal.siginterrupt(signal.SIGALRM, False)\n\
         signal.setitimer(signal.ITIMER_REAL, 0.0001, 0.0001)\n\
         for _ in range(200):\n\
         \x20   s = tcp(); s.bind(('127.0.0.1', {first})); s.listen(); s.close()\n\
         signal.setitimer(signal.ITIMER_REAL, 0)\n\
         def bind():\n\
         \x20   s = tcp(); s.bind(('127.0.0.1', {first})); s.listen(); print('thread', flush=True)\n\
         t = threading.Thread(target=bind); t.start(); t.join()\n\
         child = 'import socket; s = socket.socket(); s.bind((\"127.0.0.1\", {second})); s.listen(); print(\"child\")'\n\
         subprocess.run([sys.executable, '-c', child])\n"
    );
    assert_eq!(desk.run(&script, &[]), "thread\nchild");
    let mut ports = desk.slots.ports();
    ports.sort_unstable();
    let mut expected = [first, second];
    expected.sort_unstable();
    assert_eq!(ports, expected);
}

#[test]
fn whoever_is_killed_as_it_asks_leaves_nothing_behind() {
    let (desk, port) = (Desk::new(), free_port());
    let path = std::env::temp_dir().join(format!("worksong-killed-{}.sock", std::process::id()));
    let endless = format!(
        "import time\n\
         if os.fork() == 0:\n\
         \x20   parent = os.getppid(); time.sleep(0.01 * int(sys.argv[1] if len(sys.argv) > 1 else 1))\n\
         \x20   os.kill(parent, signal.SIGKILL); os._exit(0)\n\
         while True:\n\
         \x20   s = tcp(); s.bind(('127.0.0.1', {port})); s.listen(); s.close()\n\
         \x20   u = socket.socket(socket.AF_UNIX); u.bind({path:?}); u.listen(); u.close(); os.unlink({path:?})\n"
    );
    let addresses = [CaptureAddress::Port(port), CaptureAddress::Unix(path)];
    // The sockets of both addresses stay.
    let once = endless.replace("while True:", "for _ in range(1):").replace("os.fork() == 0", "False");
    desk.run(&once, &addresses);
    let before = open_descriptors();
    for _ in 0..12 {
        desk.run(&endless, &addresses);
    }
    // The last notifier closes when the thread has seen that nobody has the filter.
    let deadline = std::time::Instant::now() + PATIENCE;
    while open_descriptors() > before {
        assert!(std::time::Instant::now() < deadline, "{} of {before} are left", open_descriptors());
        thread::yield_now();
    }
    assert!(desk.run("print('answers')", &[]).contains("answers"));
}

#[test]
fn a_named_udp_port_is_captured_with_its_options_and_another_one_is_not() {
    let (desk, named, other) = (Desk::new(), free_port(), free_port());
    let script = format!(
        "def udp(): return socket.socket(socket.AF_INET, socket.SOCK_DGRAM)\n\
         s = udp(); s.setsockopt(socket.IPPROTO_IP, 8, 1); s.settimeout(9)\n\
         s.bind(('127.0.0.1', {named}))\n\
         o = udp(); o.bind(('127.0.0.1', {other}))\n\
         c = udp(); c.sendto(b'?', ('127.0.0.1', {named}))\n\
         print(s.getsockopt(socket.IPPROTO_IP, 8), s.recvfrom(9)[0], end=' ')\n\
         try: udp().bind(('127.0.0.1', {named}))\n\
         except OSError as error: print(error.errno, end=' ')\n\
         s.close(); s = udp(); s.bind(('127.0.0.1', {named})); print('again')\n"
    );
    assert_eq!(desk.run(&script, &[CaptureAddress::UdpPort(named)]), "1 b'?' 98 again");
    let address = SocketAddr::from(([127, 0, 0, 1], named));
    assert_eq!(desk.fact(), CaptureFact::Listening { worker: WORKER, address: Address::Udp(address) });
    let failed = CaptureFact::Failed { worker: WORKER, address: format!("udp {address}"), errno: 98 };
    assert_eq!(desk.fact(), failed);
    assert!(desk.slots.ports().is_empty(), "nothing listens");
    std::net::UdpSocket::bind(address).expect_err("the socket is ours, and outlives its worker");
    std::net::UdpSocket::bind(("127.0.0.1", other)).expect("that one was the program's");
}
