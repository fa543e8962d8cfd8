//! A system that is short of what only the whole system has: descriptors of all processes, memory of the kernel.
//!
//! It is not brought about, which would hurt whatever else runs: a filter lets `accept4` fail as it does then.

use std::fs;

use rustix::io::Errno;
use worksong_testkit::{Folder, Launch, Worksong, binary, eventually, fixture, http};

use crate::{stop, ticks};

/// Executes a program whose `accept4` fails with this error while this file is there.
const STARVE: &str = "\
import ctypes, fcntl, os, platform, select, socket, struct, sys
error, file = int(sys.argv[1]), sys.argv[2]
accept4, seccomp = {'x86_64': (288, 317), 'aarch64': (242, 277)}[platform.machine()]
ours, theirs = socket.socketpair()
if os.fork() == 0:
    # Whoever runs the tests sees the program alone.
    if os.fork() != 0:
        os._exit(0)
    ours.close()
    (listener,) = socket.recv_fds(theirs, 1, 1)[1]
    poll = select.poll()
    poll.register(listener, select.POLLIN)
    while not poll.poll()[0][1] & select.POLLHUP:
        call = bytearray(80)
        try:
            fcntl.ioctl(listener, 0xC0502100, call)
            failure = error if os.path.exists(file) else 0
            answer = struct.pack('=8sqiI', bytes(call[:8]), 0, -failure, 0 if failure else 1)
            fcntl.ioctl(listener, 0xC0182101, answer)
        except OSError:
            # Who has called is gone.
            continue
    os._exit(0)
os.wait()
theirs.close()
libc = ctypes.CDLL(None, use_errno=True)
# Load the number of the call; that one is asked about, everything else is allowed.
rules = [(0x20, 0, 0, 0), (0x15, 0, 1, accept4), (0x06, 0, 0, 0x7FC00000), (0x06, 0, 0, 0x7FFF0000)]
program = ctypes.create_string_buffer(b''.join(struct.pack('HBBI', *rule) for rule in rules))
class Filter(ctypes.Structure):
    _fields_ = [('length', ctypes.c_ushort), ('rules', ctypes.c_void_p)]
filter = Filter(len(rules), ctypes.addressof(program))
assert libc.prctl(38, 1, 0, 0, 0) == 0
listener = libc.syscall(seccomp, 1, 8, ctypes.byref(filter))
assert listener >= 0, ctypes.get_errno()
socket.send_fds(ours, [b'.'], [listener])
os.execv(sys.argv[3], sys.argv[3:])
";

fn starved(error: Errno, file: &str) -> Launch {
    let launch = Worksong::with(["python3", "-c", STARVE, &error.raw_os_error().to_string(), file]);
    launch.binary("/usr/bin/env").args([binary("worksong")]).args(["run", "--json", "-i", "2"])
}

/// Returns how often the thread has slept that accepts connections.
fn sleeps(pid: u32) -> u64 {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).expect("it runs").map_while(Result::ok);
    let statuses = tasks.filter_map(|task| fs::read_to_string(task.path().join("status")).ok());
    let of_data = |status: &String| status.starts_with("Name:\tworksong-data\n");
    let status = statuses.into_iter().find(of_data).expect("it has a data plane");
    let count = |line: &str| line.strip_prefix("voluntary_ctxt_switches:")?.trim().parse().ok();
    status.lines().find_map(count).expect("the kernel counts them")
}

/// There is nothing to shed with either: connections wait in the kernel, and the primary does not spin.
#[test]
fn connections_wait_while_the_system_is_short_of_descriptors_or_memory() {
    for (error, of) in [(Errno::NFILE, "system_descriptors"), (Errno::NOMEM, "memory")] {
        let folder = Folder::new();
        let file = folder.join("short");
        let launch = starved(error, file.to_str().expect("a path of the test's own"));
        let worksong = launch.program(fixture("node/http.js")).start();
        worksong.wait_ready(2);
        let port = worksong.listening_port();
        http::get(port, "/").expect("there is enough as yet");

        folder.write("short", "");
        let before = ticks(worksong.pid());
        let mut clients: Vec<http::Connection> =
            (0..20).map(|_| http::Connection::open(port).expect("the kernel completes it")).collect();
        worksong.wait_event("shortage", |event| event["of"] == of);
        let slept = sleeps(worksong.pid());
        // It tries fifty times in a second, and after one it would shed what it could.
        eventually("that it has slept and tried for long enough", || {
            (sleeps(worksong.pid()) >= slept + 100).then_some(())
        });
        let used = ticks(worksong.pid()) - before;
        assert!(used < 50, "{used} hundredths of a second of processor time");

        fs::remove_file(&file).expect("it was written");
        for client in &mut clients {
            assert_eq!(client.get("/").expect("it has waited").status, 200, "{of}");
        }
        assert!(worksong.events().iter().all(|event| event.name() != "shed"), "{of}");
        stop(&worksong);
    }
}
