//! Addresses that workers have bound and do not have any more: nobody waits there for ever.

use std::io::{ErrorKind, Read};
use std::net::TcpStream;

use worksong_testkit::http::{self, Connection};
use worksong_testkit::{Folder, Signal, Worksong, free_port, process};

use super::{PYTHON, text_pid};

/// Returns the Python server with something done before its last line, which serves.
fn server_that(first: &str) -> String {
    let (handler, serve) = PYTHON.rsplit_once("\nhttp.server").expect("its last line");
    format!("{handler}\n{first}\nhttp.server{serve}")
}

/// Asserts that the kernel has nobody to listen there.
#[track_caller]
fn assert_refused(port: u16) {
    let error = TcpStream::connect(("127.0.0.1", port)).expect_err("it is closed");
    assert_eq!(error.kind(), ErrorKind::ConnectionRefused);
}

#[test]
fn a_port_that_was_only_tried_is_closed_with_what_waits_there() {
    let (port, tried) = (free_port(), free_port());
    let script = server_that(
        "import socket\n\
         trial = socket.socket(); trial.bind(('127.0.0.1', int(sys.argv[2]))); trial.listen(); trial.close()",
    );
    let worksong = Worksong::run(["-i", "2", "--dialect", "capture", "python3", "-c", &script]);
    let worksong = worksong.args([port.to_string(), tried.to_string()]).start();
    worksong.wait_ready(2);
    let mut waits = TcpStream::connect(("127.0.0.1", tried)).expect("nobody knows yet");
    let unbound = worksong.wait_event("unbound", |_| true);
    assert_eq!(unbound["address"].as_str(), Some(&*format!("127.0.0.1:{tried}")));
    assert_eq!(unbound["count"], 1);
    assert_eq!(waits.read(&mut [0]).expect_err("it is reset").kind(), ErrorKind::ConnectionReset);
    assert_refused(tried);
    http::get(port, "/").expect("the other one stays");
}

#[test]
fn a_port_that_new_workers_do_not_bind_any_more_is_closed() {
    let (folder, before, after) = (Folder::new(), free_port(), free_port());
    let setting = folder.write("port", before.to_string());
    let script = PYTHON.replace("int(sys.argv[1])", "int(open(sys.argv[1]).read())");
    let options = ["-i", "2", "--dialect", "capture", "--restart-delay", "20ms", "python3", "-c", &script];
    let worksong = Worksong::run(options).args([&setting]).start();
    let old = worksong.wait_ready(2);
    http::get(before, "/").expect("an answer");
    folder.write("port", after.to_string());
    for pid in old {
        process::kill(pid, Signal::KILL);
        worksong.wait_event("exit", |event| event.pid() == pid);
    }
    worksong.wait_ready(2);
    http::get(after, "/").expect("an answer");
    let unbound = worksong.wait_event("unbound", |_| true);
    assert_eq!(unbound["address"].as_str(), Some(&*format!("127.0.0.1:{before}")));
    assert_refused(before);
    http::get(after, "/").expect("an answer");
}

#[test]
fn a_worker_that_closes_its_socket_and_goes_on_gets_nothing_new() {
    let port = free_port();
    let script = PYTHON.replace(
        "http.server.HTTPServer(('127.0.0.1', int(sys.argv[1])), Handler).serve_forever()",
        "import signal, threading\n\
         server = http.server.ThreadingHTTPServer(('127.0.0.1', int(sys.argv[1])), Handler)\n\
         def close(*_):\n\
         \x20   def stop(): server.shutdown(); server.server_close(); print('closed', flush=True)\n\
         \x20   threading.Thread(target=stop).start()\n\
         signal.signal(signal.SIGUSR1, close)\n\
         threading.Thread(target=server.serve_forever, daemon=True).start()\n\
         while True: signal.pause()\n",
    );
    let worksong = Worksong::run(["-i", "2", "--dialect", "capture", "python3", "-c", &script]);
    let worksong = worksong.args([port.to_string()]).start();
    let pids = worksong.wait_ready(2);
    assert_eq!(super::wait_sharers(port, 2, text_pid), pids);
    let closes = *pids.first().expect("two workers");
    process::kill(closes, Signal::USR1);
    worksong.wait_output("its end", |output| (output.line == "closed").then_some(()));
    let ask = |_| {
        let mut connection = Connection::open(port).expect("nobody is refused");
        connection.send(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n").expect("it is open");
        connection
    };
    // About half of them wait where nobody accepts; none does in one run of 10^12.
    let waiting: Vec<Connection> = (0..40).map(ask).collect();
    let orphaned = worksong.wait_event("orphaned", |_| true);
    assert!(orphaned["count"].as_u64().is_some_and(|count| count > 0), "{orphaned:?}");
    for mut connection in waiting {
        let answer = connection.read_response(false).expect("one more worker has started for it");
        assert_ne!(text_pid(&answer), closes);
    }
    for _ in 0..40 {
        assert_ne!(text_pid(&http::get(port, "/").expect("an answer")), closes);
    }
    assert!(worksong.events().iter().all(|event| event.name() != "unbound"), "the other one has it");
}
