//! Calls that a signal interrupts while they are asked about, and that are made again.

use rustix::process::{Pid, PidfdFlags, PidfdGetfdFlags, Signal, kill_process, pidfd_getfd, pidfd_open};

use super::notify::{Answer, Call, Question};
use super::*;
use crate::capture::answer::Outcome;

/// Has itself asked about each `bind`, and tells the number of the descriptor by which the kernel asks. Unlike ours, this
/// filter lets every signal interrupt a call that is asked about, as all do before Linux 5.19.
const ASKS: &str = "\
import ctypes, platform
libc = ctypes.CDLL(None, use_errno=True)
bind, seccomp = {'x86_64': (49, 317), 'aarch64': (200, 277)}[platform.machine()]
# Load the number of the call; ask about that one, everything else is allowed.
rules = [(0x20, 0, 0, 0), (0x15, 0, 1, bind), (0x06, 0, 0, 0x7fc00000), (0x06, 0, 0, 0x7fff0000)]
program = ctypes.create_string_buffer(b''.join(struct.pack('HBBI', *rule) for rule in rules))
class Filter(ctypes.Structure):
    _fields_ = [('length', ctypes.c_ushort), ('rules', ctypes.c_void_p)]
filter = Filter(len(rules), ctypes.addressof(program))
libc.prctl(38, 1, 0, 0, 0)
print(libc.syscall(seccomp, 1, 8, ctypes.byref(filter)), flush=True)
signal.signal(signal.SIGUSR1, lambda *_: None); signal.siginterrupt(signal.SIGUSR1, False)
";

/// Starts a script that is asked about by such a filter.
fn start(desk: &Desk, script: &str, addresses: &[CaptureAddress]) -> (Watched, PipeReader) {
    let (Started { pid, .. }, mut output) = launch(&format!("{ASKS}{script}"), None);
    let mut number = Vec::new();
    while number.last() != Some(&b'\n') {
        let mut byte = [0];
        output.read_exact(&mut byte).expect("it says by which descriptor");
        number.extend(byte);
    }
    let number = String::from_utf8_lossy(&number).trim().parse().expect("a number");
    let process = Pid::from_raw(pid.cast_signed()).expect("a process");
    let handle = pidfd_open(process, PidfdFlags::empty()).expect("it runs");
    let notifier = pidfd_getfd(&handle, number, PidfdGetfdFlags::empty()).expect("it is a child");
    let (slots, addresses, mark) = (desk.slots.clone(), addresses.to_vec(), Stamp::new().mark(WORKER));
    (Watch { worker: WORKER, notifier, slots, addresses, leader: pid, mark }.into(), output)
}

/// Waits for the next `bind`.
fn next_bind(watched: &Watched) -> Question {
    loop {
        if let Some(question) = watched.notifier.receive().expect("it asks")
            && matches!(question.call, Call::Bind { .. })
        {
            return question;
        }
    }
}

/// Answers a `bind` whose thread a signal interrupts after all is done but the answer.
fn interrupt_and_answer(watched: &mut Watched) {
    let first = next_bind(watched);
    let done = watched.decide(&first);
    assert!(matches!(done, Outcome::Silent(Answer::Done) | Outcome::Told(Answer::Done, _)), "{done:?}");
    let process = Pid::from_raw(watched.leader.cast_signed()).expect("a process");
    kill_process(process, Signal::USR1).expect("it is a child");
    let second = next_bind(watched);
    assert!(!watched.notifier.still_waits(&first), "it is made again");
    let outcome = watched.decide(&second);
    assert!(matches!(outcome, Outcome::Silent(Answer::Done)), "{outcome:?}");
    watched.notifier.answer(&second, Answer::Done);
}

/// Returns what is left of the output, and waits for the end.
fn finish(watched: &Watched, mut output: PipeReader) -> String {
    let mut text = String::new();
    output.read_to_string(&mut text).expect("its output");
    end(watched.leader);
    text.trim().to_owned()
}

#[test]
fn a_bind_that_is_made_again_is_done_once() {
    let (desk, port) = (Desk::new(), free_port());
    let script = format!("s = tcp(); s.bind(('127.0.0.1', {port})); print(s.getsockname()[1])\n");
    let (mut watched, output) = start(&desk, &script, &[]);
    interrupt_and_answer(&mut watched);
    assert_eq!(desk.slots.only_bound(WORKER).len(), 1, "it has one socket");
    assert_eq!(finish(&watched, output), port.to_string());
}

#[test]
fn so_is_one_of_datagrams() {
    let (desk, port) = (Desk::new(), free_port());
    let script = format!(
        "s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.bind(('127.0.0.1', {port})); print(s.getsockname()[1])\n"
    );
    let (mut watched, output) = start(&desk, &script, &[CaptureAddress::UdpPort(port)]);
    interrupt_and_answer(&mut watched);
    assert_eq!(finish(&watched, output), port.to_string());
}

#[test]
fn so_is_one_of_a_path() {
    let desk = Desk::new();
    let name = format!("worksong-signals-{}", std::process::id());
    let script = format!("s = socket.socket(socket.AF_UNIX); s.bind('\\0{name}'); print('ok')\n");
    let (mut watched, output) = start(&desk, &script, &[CaptureAddress::Unix(format!("\0{name}").into())]);
    interrupt_and_answer(&mut watched);
    assert_eq!(finish(&watched, output), "ok");
}
