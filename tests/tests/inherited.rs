//! `--listen` with `--policy kernel`: each worker inherits a socket of its own.

use std::collections::BTreeSet;

use worksong_testkit::http::{self, Connection, Response};
use worksong_testkit::{
    Folder, Launch, Load, Signal, Worksong, binary, eventually, fixture, free_port, process,
};

/// A server that blocks in `accept` and ends of SIGTERM at once, whatever it is doing.
const PYTHON: &str = "\
import http.server, json, os, socket, time

class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        if self.path == '/slow':
            time.sleep(1)
        body = json.dumps({'pid': os.getpid()}).encode()
        self.send_response(200)
        self.send_header('content-length', str(len(body)))
        self.end_headers()
        self.wfile.write(body)
    def log_message(self, *args):
        pass

server = http.server.HTTPServer(('', 0), Handler, bind_and_activate=False)
server.socket.close()
server.socket = socket.socket(fileno=3)
server.serve_forever()
";

fn python(workers: &str, port: u16, options: &[&str]) -> Launch {
    // Who is never seen idle is told to end after half of it; clients that never pause leave little to see.
    let launch = Worksong::run(["-i", workers, "--drain-timeout", "10s", "--policy", "kernel", "--listen"]);
    launch.args([format!("127.0.0.1:{port}")]).args(options).args(["python3", "-c", PYTHON])
}

/// Asks until so many processes have answered.
fn wait_answers_of(port: u16, count: usize) -> BTreeSet<u32> {
    let mut answered = BTreeSet::new();
    eventually("answers of all workers", || {
        answered.insert(http::get(port, "/").expect("an answer").json_pid());
        (answered.len() >= count).then(|| answered.clone())
    })
}

#[test]
fn programs_share_a_port_with_a_socket_for_each() {
    let app = fixture("python").display().to_string();
    let programs: [&[&str]; 3] =
        [&["gunicorn", "wsgi:app"], &["uvicorn", "asgi:app", "--fd", "3"], &["python3", "activation.py"]];
    for program in programs {
        let port = free_port();
        let options = ["-i", "4", "--policy", "kernel", "--cwd", &app, "--listen"];
        let worksong = Worksong::run(options)
            .env("PYTHONDONTWRITEBYTECODE", "1")
            .args([format!("127.0.0.1:{port}")])
            .args(program)
            .start();
        worksong.wait_ready(4);
        assert_eq!(wait_answers_of(port, 4).len(), 4, "{program:?}");
    }
}

#[test]
fn reloads_lose_nothing_although_programs_end_at_once() {
    let port = free_port();
    let worksong = python("2", port, &[]).start();
    let first = worksong.wait_ready(2);
    assert_eq!(wait_answers_of(port, 2), first);
    let loads = [Load::start(port, Response::json_pid), Load::start(port, Response::json_pid)];
    for load in &loads {
        load.wait_answers_of(&first);
    }
    worksong.signal(Signal::HUP);
    worksong.wait_event("reload_report", |_| true);
    let second = worksong.wait_ready(2);
    for load in loads {
        load.wait_answers_of(&second);
        load.finish_without_failure();
    }
}

#[test]
fn a_slow_answer_is_finished_and_what_is_queued_behind_it_is_served() {
    let port = free_port();
    let worksong = python("1", port, &[]).start();
    let old = worksong.wait_ready(1);
    wait_answers_of(port, 1);
    let [mut slow, mut queued] = ["/slow", "/"].map(|path| {
        let mut connection = Connection::open(port).expect("a connection");
        connection.send(format!("GET {path} HTTP/1.1\r\nhost: a\r\n\r\n").as_bytes()).expect("it is open");
        connection
    });
    worksong.signal(Signal::HUP);
    worksong.wait_event("reload_report", |_| true);
    for connection in [&mut slow, &mut queued] {
        assert!(old.contains(&connection.read_response(false).expect("an answer").json_pid()));
    }
}

#[test]
fn the_queue_of_a_killed_worker_is_its_successors() {
    let port = free_port();
    let worksong = python("2", port, &["--restart-delay", "20ms"]).start();
    let pids = worksong.wait_ready(2);
    assert_eq!(wait_answers_of(port, 2), pids);
    let victim = *pids.first().expect("two workers");
    // It stands still and accepts nothing, so all that it gets is in its queue when it dies.
    process::freeze(victim);
    let waiting: Vec<_> = (0..40)
        .map(|_| {
            let mut connection = Connection::open(port).expect("nobody is refused");
            connection.send(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n").expect("it is open");
            connection
        })
        .collect();
    process::kill(victim, Signal::KILL);
    let answers = waiting.into_iter().map(|mut connection| connection.read_response(false));
    let by_successor = answers
        .map(|answer| answer.expect("it waits for the successor").json_pid())
        .filter(|pid| !pids.contains(pid))
        .count();
    assert!(by_successor > 0, "what was in its queue is answered by another one");
}

#[test]
fn a_worker_gets_nothing_before_it_waits_for_connections() {
    let folder = Folder::new();
    let gate = folder.join("gate");
    let slow = format!("import os, time\nwhile os.path.exists({gate:?}): time.sleep(0.01)\n{PYTHON}");
    let port = free_port();
    let options = ["-i", "3", "--policy", "kernel", "--restart-delay", "20ms", "--listen"];
    let worksong = Worksong::run(options).args([format!("127.0.0.1:{port}")]).args(["python3", "-c", &slow]);
    let worksong = worksong.start();
    let pids = worksong.wait_ready(3);
    assert_eq!(wait_answers_of(port, 3), pids);
    folder.write("gate", "");
    let victim = *pids.first().expect("three workers");
    process::kill(victim, Signal::KILL);
    let successor = worksong.wait_event("forked", |event| !pids.contains(&event.pid())).pid();
    for _ in 0..40 {
        let answer = http::get(port, "/").expect("the others answer");
        assert!(pids.contains(&answer.json_pid()));
    }
    std::fs::remove_file(gate).expect("it is there");
    worksong.wait_event("ready", |event| event.pid() == successor);
    assert!(wait_answers_of(port, 3).contains(&successor));
}

/// It takes longer than a worker has that hides what it does, and longer than it has at all.
#[test]
fn a_worker_that_is_seen_not_to_wait_is_never_believed() {
    let folder = Folder::new();
    let gate = folder.write("gate", "");
    let late = format!(
        "import os, time\n\
         while os.environ['WORKSONG_SLOT'] == '1' and os.path.exists({gate:?}): time.sleep(0.01)\n\
         {PYTHON}"
    );
    let port = free_port();
    let options = ["-i", "2", "--policy", "kernel", "--ready-timeout", "6s", "--listen"];
    let worksong = Worksong::run(options).args([format!("127.0.0.1:{port}")]).args(["python3", "-c", &late]);
    let worksong = worksong.start();
    let first = worksong.wait_ready(1);
    let load = Load::start(port, Response::json_pid);
    let late = worksong.wait_event("not_ready", |_| true);
    let reason = format!("it does not wait for connections at 127.0.0.1:{port}, which it inherited");
    assert_eq!(late["reason"], reason);
    assert_eq!(load.finish_without_failure(), first);
    std::fs::remove_file(gate).expect("it is there");
    worksong.wait_event("ready", |event| event.pid() == late.pid());
    assert!(wait_answers_of(port, 2).contains(&late.pid()));
}

#[test]
fn a_worker_that_hides_what_it_does_is_believed_after_a_while() {
    let hides = format!("import ctypes\nctypes.CDLL(None).prctl(4, 0)\n{PYTHON}");
    let port = free_port().to_string();
    let options = ["run", "--json", "-i", "1", "--policy", "kernel", "--listen", &port];
    let worksong = if rustix::process::geteuid().is_root() {
        // One that may do everything sees everything.
        let launch = Worksong::with(["--bounding-set=-sys_ptrace"]).binary("/usr/bin/setpriv");
        launch.args([binary("worksong")]).args(options)
    } else {
        Worksong::with(options)
    };
    let worksong = worksong.args(["python3", "-c", &hides]).start();
    let ready = worksong.wait_event("ready", |_| true);
    assert!(ready["after_ms"].as_u64().expect("a number") >= 5_000, "{ready:?}");
    wait_answers_of(port.parse().expect("a port"), 1);
}

#[test]
fn connections_wait_while_there_is_no_worker() {
    let port = free_port();
    let worksong = python("2", port, &["--restart-delay", "300ms"]).start();
    let pids = worksong.wait_ready(2);
    for pid in &pids {
        process::kill(*pid, Signal::KILL);
        worksong.wait_event("exit", |event| event.pid() == *pid);
    }
    for _ in 0..5 {
        let answer = http::get(port, "/").expect("it is held, not refused");
        assert!(!pids.contains(&answer.json_pid()));
    }
}

#[test]
fn each_listener_has_its_own_policy_and_its_place_among_the_descriptors() {
    let folder = Folder::new();
    let path = folder.join("api.sock");
    let (kernel, shared) = (free_port(), free_port());
    let script = "echo sockets $(readlink /proc/$$/fd/3 /proc/$$/fd/4 /proc/$$/fd/5) $LISTEN_FDS $LISTEN_FDNAMES; exec sleep 1000";
    let worksong = Worksong::run(["-i", "2", "--policy"])
        .args([format!("{kernel}=kernel"), "--policy".to_owned(), format!("{}=kernel", path.display())])
        .args(["--listen".to_owned(), format!("127.0.0.1:{shared}")])
        .args(["--listen".to_owned(), kernel.to_string()])
        .args(["--listen", path.to_str().expect("a path")])
        .args(["sh", "-c", script])
        .start();
    let [first, second] = [0, 1].map(|slot| {
        worksong.wait_output("its sockets", |output| {
            let words = output.line.strip_prefix("sockets ").filter(|_| output.slot == slot)?;
            Some(words.split(' ').map(str::to_owned).collect::<Vec<_>>())
        })
    });
    assert_eq!(first[3..], ["3".to_owned(), format!("{shared}:{kernel}:api.sock")]);
    assert_eq!(first[3..], second[3..]);
    assert_eq!(first[0], second[0], "round-robin is one socket for all where workers accept");
    assert_ne!(first[1], second[1], "kernel is one for each");
    assert_eq!(first[2], second[2], "the kernel spreads no Unix sockets");
}
