//! Reloads, crashes, other sizes and the end of captured programs: what was let in is served.

use worksong_testkit::http::{self, Connection};
use worksong_testkit::{Folder, Load, Signal, Worksong, eventually, free_port, node, process};

use super::{PYTHON, python, text_pid, wait_sharers};

#[test]
fn reloads_lose_nothing() {
    let port = free_port();
    // It ends of SIGTERM at once, whatever it is doing.
    let worksong = python("2", port, &[]).start();
    worksong.wait_ready(2);
    assert_eq!(worksong.listening_port(), port);
    let loads = [Load::start(port, text_pid), Load::start(port, text_pid)];
    for generation in 2..4 {
        loads[0].wait_answers_of(&worksong.wait_ready(2));
        worksong.signal(Signal::HUP);
        worksong.wait_event("reload_report", |event| event.generation() == generation);
    }
    let last = worksong.wait_ready(2);
    for load in loads {
        load.wait_answers_of(&last);
        load.finish_without_failure();
    }
}

#[test]
fn a_program_may_look_whether_its_socket_listens_already() {
    let port = free_port();
    // As gunicorn does: it listens only if the socket does not. A used one does.
    let looking = PYTHON.replace(".serve_forever()", "");
    let looking = looking.replace(
        "http.server.HTTPServer(('127.0.0.1', int(sys.argv[1])), Handler)",
        "import socket
server = http.server.HTTPServer(('127.0.0.1', int(sys.argv[1])), Handler, False)
server.server_bind()
if not server.socket.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
    server.server_activate()
server.serve_forever()",
    );
    let options = ["-i", "1", "--dialect", "capture", "python3", "-c", &looking, &port.to_string()];
    let worksong = Worksong::run(options).start();
    worksong.wait_ready(1);
    for generation in 2..4 {
        worksong.signal(Signal::HUP);
        worksong.wait_event("reload_report", |event| event.generation() == generation);
        http::get(port, "/").expect("an answer");
    }
}

#[test]
fn workers_that_share_one_socket_share_the_port_and_leave_at_once() {
    let port = free_port();
    let worksong = python("2", port, &["--policy", "shared"]).start();
    worksong.wait_ready(2);
    let load = Load::start(port, text_pid);
    load.wait_answers(50);
    worksong.signal(Signal::HUP);
    // It accepts as long as it runs, so it never runs dry.
    worksong.wait_event("reload_report", |_| true);
    load.wait_answers(50);
}

#[test]
fn a_slow_answer_is_finished_before_its_worker_ends() {
    let port = free_port();
    let worksong = python("1", port, &[]).start();
    let old = worksong.wait_ready(1);
    let mut slow = Connection::open(port).expect("a connection");
    slow.send(b"GET /slow HTTP/1.1\r\nhost: a\r\n\r\n").expect("it is open");
    let mut waiting = Connection::open(port).expect("a connection");
    waiting.send(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n").expect("it is open");
    worksong.signal(Signal::HUP);
    worksong.wait_event("reload_report", |_| true);
    assert!(old.contains(&text_pid(&slow.read_response(false).expect("it is answered"))));
    assert!(
        old.contains(&text_pid(&waiting.read_response(false).expect("an answer"))),
        "it was queued there"
    );
}

#[test]
fn a_request_that_came_right_after_an_answer_is_at_work() {
    const SLOW: &[u8] = b"GET /slow HTTP/1.1\r\nhost: a\r\n\r\n";
    let folder = Folder::new();
    // It ends of SIGTERM at once.
    let script = folder.write(
        "server.cjs",
        "require('node:http').createServer((request, response) => {\n\
           const answer = () => response.end(JSON.stringify({ pid: process.pid }));\n\
           request.url === '/slow' ? setTimeout(answer, 3000) : answer();\n\
         }).listen(Number(process.argv[2]), '127.0.0.1');\n",
    );
    let port = free_port();
    let node = node("24");
    let worksong = Worksong::run(["-i", "1", "--dialect", "capture"]);
    let worksong = worksong.args([node, script]).args([port.to_string()]).start();
    let old = worksong.wait_ready(1);
    let open = |_| {
        let mut connection = Connection::open(port).expect("a connection");
        connection.get("/").expect("an answer");
        // In the same tick of the kernel's clock, mostly.
        connection.send(SLOW).expect("it is open");
        connection
    };
    let connections: Vec<_> = (0..8).map(open).collect();
    worksong.signal(Signal::HUP);
    for mut connection in connections {
        let answer = connection.read_response(false).expect("it is finished");
        assert!(old.contains(&answer.json_pid()));
    }
    worksong.wait_event("reload_report", |_| true);
}

#[test]
fn a_killed_worker_loses_only_what_it_had_accepted() {
    let port = free_port();
    let worksong = python("2", port, &["--restart-delay", "20ms"]).start();
    let pids = worksong.wait_ready(2);
    assert_eq!(wait_sharers(port, 2, text_pid), pids);
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
    let by_successor = waiting.into_iter().map(|mut connection| {
        text_pid(&connection.read_response(false).expect("it waits for the successor"))
    });
    let by_successor = by_successor.filter(|pid| !pids.contains(pid)).count();
    assert!(by_successor > 0, "what was in its queue is answered by another one");
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
        assert!(!pids.contains(&text_pid(&answer)));
    }
}

#[test]
fn the_port_is_free_when_the_app_has_ended() {
    let port = free_port();
    let worksong = python("2", port, &[]).start();
    worksong.wait_ready(2);
    let load = Load::start(port, text_pid);
    load.wait_answers(20);
    drop(load);
    worksong.signal(Signal::TERM);
    assert_eq!(worksong.wait_exit().code(), Some(0));
    eventually("the port", || std::net::TcpListener::bind(("127.0.0.1", port)).ok());
}
