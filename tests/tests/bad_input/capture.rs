//! What becomes of `--dialect capture` where the system does not let programs be captured.

use worksong_testkit::{Launch, Worksong, binary, free_port};

use crate::{refused, stop, unprivileged};

/// Executes a program that may set no seccomp filters, as in some containers.
const FORBID: &str = "\
import ctypes, os, platform, struct, sys
libc = ctypes.CDLL(None, use_errno=True)
seccomp = {'x86_64': 317, 'aarch64': 277}[platform.machine()]
# Load the number of the call; EPERM for that one, everything else is allowed.
rules = [(0x20, 0, 0, 0), (0x15, 0, 1, seccomp), (0x06, 0, 0, 0x00050001), (0x06, 0, 0, 0x7fff0000)]
program = ctypes.create_string_buffer(b''.join(struct.pack('HBBI', *rule) for rule in rules))
class Filter(ctypes.Structure):
    _fields_ = [('length', ctypes.c_ushort), ('rules', ctypes.c_void_p)]
filter = Filter(len(rules), ctypes.addressof(program))
assert libc.prctl(38, 1, 0, 0, 0) == 0 and libc.prctl(22, 2, ctypes.byref(filter), 0, 0) == 0
os.execv(sys.argv[1], sys.argv[1:])
";

/// Listens on a port, and says so.
const LISTENS: &str = "\
import socket, sys
server = socket.create_server(('127.0.0.1', int(sys.argv[1])))
print('listens', flush=True)
server.accept()
";

fn forbidden(options: &[&str]) -> Launch {
    let launch = Worksong::with(["python3", "-c", FORBID]).binary("/usr/bin/env");
    launch.args([binary("worksong")]).args(["run", "--json", "-i", "1"]).args(options)
}

#[test]
fn where_filters_are_forbidden_it_says_so_and_names_the_way_out() {
    let sentence = "cannot be captured here, the container that this runs in forbids seccomp filters that ask; use --dialect port";
    for options in [&["--dialect", "capture"][..], &["--capture", "8080"]] {
        let (code, stderr) = refused(forbidden(options).args(["/bin/cat"]));
        assert_eq!(code, Some(1), "{options:?}: {stderr}");
        assert!(stderr.contains(sentence), "{options:?}: {stderr}");
    }
}

#[test]
fn where_filters_are_forbidden_a_program_that_nobody_wants_captured_runs() {
    let worksong = forbidden(&["python3", "-c", LISTENS, &free_port().to_string()]).start();
    worksong.wait_output("its socket", |output| (output.line == "listens").then_some(()));
    let lines = worksong.lines();
    let is_told = |text: &str| text.contains("do not share the ports that they bind");
    assert!(lines.iter().any(|line| is_told(&line.text)), "{lines:?}");
    stop(&worksong);
}

#[test]
fn below_another_program_that_captures_it_says_so() {
    let launch = Worksong::run(["-i", "1", "--dialect", "capture"]).args([binary("worksong")]);
    let worksong = launch.args(["--", "run", "-i", "1", "--dialect", "capture", "/bin/cat"]).start();
    let sentence = "this process runs below another program that captures; use --dialect port";
    worksong.wait_output("the refusal", |output| output.line.contains(sentence).then_some(()));
}

/// Such a program's memory is nobody's to read but root's, whose name is another one here.
#[test]
fn a_program_that_cannot_be_seen_binds_by_itself_and_that_is_told() {
    let hidden = format!("import ctypes; ctypes.CDLL(None).prctl(4, 0, 0, 0, 0)\n{LISTENS}");
    let port = free_port().to_string();
    let worksong = unprivileged(&["--json", "--dialect", "capture", "python3", "-c", &hidden, &port]).start();
    let told = worksong.wait_event("not_captured", |_| true);
    assert!(told["reason"].as_str().is_some_and(|reason| reason.contains("denied")), "{told:?}");
    worksong.wait_output("its socket", |output| (output.line == "listens").then_some(()));
    let count = worksong.events().iter().filter(|event| event.name() == "not_captured").count();
    assert_eq!(count, 1, "bind, listen and what it looks at: told once");
    stop(&worksong);
}
