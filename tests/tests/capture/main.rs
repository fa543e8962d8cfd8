//! `--dialect capture`: programs that bind their port by themselves, unmodified, on many workers.

mod life;
mod paths;
mod programs;
mod rescue;
mod unbound;

use std::collections::BTreeSet;

use worksong_testkit::http::{self, Response};
use worksong_testkit::{Launch, Worksong, eventually};

/// Answers every request with its process id, in a process that accepts one connection after another and blocks.
pub(crate) const PYTHON: &str = "\
import http.server, os, sys, time

class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        if self.path == '/slow':
            time.sleep(1)
        body = str(os.getpid()).encode()
        self.send_response(200)
        self.send_header('content-length', str(len(body)))
        self.end_headers()
        self.wfile.write(body)
    def log_message(self, *args):
        pass

http.server.HTTPServer(('127.0.0.1', int(sys.argv[1])), Handler).serve_forever()
";

/// Prepares so many workers of a Python server, whose script is written into the home.
pub(crate) fn python(workers: &str, port: u16, options: &[&str]) -> Launch {
    // Who is never seen idle is told to end after half of it; clients that never pause leave little to see.
    let drain = ["--drain-timeout", "10s"];
    let launch = Worksong::run(["-i", workers, "--dialect", "capture"]).args(drain).args(options);
    launch.args(["python3", "-c", PYTHON, &port.to_string()])
}

/// Reads the process id that is the whole answer.
pub(crate) fn text_pid(answer: &Response) -> u32 {
    answer.text().trim().parse().expect("the answer is a pid")
}

/// Waits until each of so many processes has answered, and returns them.
#[track_caller]
pub(crate) fn wait_sharers(port: u16, count: usize, pid_of: fn(&Response) -> u32) -> BTreeSet<u32> {
    let mut answered = BTreeSet::new();
    eventually("answers of all workers", || {
        answered.insert(pid_of(&http::get(port, "/").expect("an answer")));
        (answered.len() >= count).then(|| answered.clone())
    })
}
