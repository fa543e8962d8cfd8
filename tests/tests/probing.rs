//! Readiness by a probe: a request that reaches one worker, before it gets its first connection.

use worksong_testkit::{
    Event, Folder, Launch, Load, NODE_VERSIONS, Signal, Worksong, binary, free_port, http,
};

/// Answers `/healthz` well from the third time on, and says who was asked what.
const WARMS_UP: &str = "
let asked = 0;
require('node:http').createServer((request, response) => {
  console.log(process.pid, request.url, request.headers.host, request.socket.remoteAddress);
  const isWarm = request.url !== '/healthz' || ++asked > 2;
  response.writeHead(isWarm ? 200 : 503);
  response.end(JSON.stringify({ pid: process.pid }));
}).listen(process.argv[2] ?? 0);
";

fn probing(how: &str) -> Launch {
    Worksong::run(["--ready", how, "--ready-timeout", "3s"])
}

/// Waits until workers have said that they were asked so often; nobody else asks for this page.
fn wait_probes(worksong: &Worksong, count: usize) {
    let mut asked = 0;
    worksong.wait_output("probes", |output| {
        asked += usize::from(output.line.contains("/healthz"));
        (asked == count).then_some(())
    });
}

fn reason(event: &Event) -> &str {
    event["reason"].as_str().expect("a reason")
}

#[test]
fn a_worker_gets_connections_when_it_has_answered_its_own_probe() {
    let folder = Folder::new();
    let program = folder.write("server.cjs", WARMS_UP);
    for version in NODE_VERSIONS {
        let worksong = probing("http:/healthz").args(["-i", "2"]).node(version).program(&program).start();
        let workers = worksong.wait_ready(2);
        assert_eq!(http::get(worksong.listening_port(), "/").expect("an answer").status, 200);
        for pid in workers {
            let mut asked = Vec::new();
            worksong.wait_output("three requests of each", |output| {
                asked.extend(output.line.starts_with(&pid.to_string()).then(|| output.line.clone()));
                (asked.len() == 3).then_some(())
            });
            let expected = format!("{pid} /healthz localhost 127.0.0.1");
            assert_eq!(
                asked,
                vec![expected; 3],
                "Node {version}: each was asked by itself, and nothing else"
            );
        }
    }
}

#[test]
fn a_reload_fails_with_what_the_probe_was_answered() {
    let folder = Folder::new();
    let good = "require('node:http').createServer((request, response) =>\n\
                response.end(JSON.stringify({ pid: process.pid }))).listen(0);";
    let program = folder.write("server.cjs", good);
    let worksong = probing("http:/healthz").args(["-i", "2"]).program(&program).start();
    let old = worksong.wait_ready(2);
    let load = Load::start(worksong.listening_port(), http::Response::json_pid);

    folder.write("server.cjs", good.replace("response.end", "response.writeHead(500) && response.end"));
    worksong.signal(Signal::HUP);
    let failed = worksong.wait_event("reload_failed", |_| true);
    assert!(
        reason(&failed).ends_with("was not ready within 3s: GET /healthz answered 500 Internal Server Error"),
        "{failed:?}"
    );
    load.wait_answers(100);
    assert_eq!(worksong.wait_ready(2), old);
    let answered = load.finish_without_failure();
    assert!(
        answered.is_subset(&old),
        "a worker that is not ready has answered: {answered:?}, not only {old:?}"
    );
}

/// It listens, so it can be asked, and then takes nothing: its event loop stands still.
#[test]
fn a_reload_fails_with_a_connection_that_was_not_taken() {
    let folder = Folder::new();
    let good = "const server = require('node:http').createServer((request, response) => response.end('good'));\n\
                server.listen(0);";
    // Node's own handler, which tells the primary, comes first.
    let stuck = "\nserver.on('listening', () => { for (;;); });";
    let program = folder.write("server.cjs", good);
    let worksong = probing("tcp").args(["-i", "1"]).program(&program).start();
    let old = worksong.wait_ready(1);

    folder.write("server.cjs", format!("{good}{stuck}"));
    worksong.signal(Signal::HUP);
    let failed = worksong.wait_event("reload_failed", |_| true);
    let cause = "was not ready within 3s: a connection did not reach it: it has not answered the one before";
    assert!(reason(&failed).ends_with(cause), "{failed:?}");
    assert_eq!(http::get(worksong.listening_port(), "/").expect("the old one serves").text(), "good");
    assert_eq!(worksong.wait_ready(1), old);
}

#[test]
fn a_first_worker_that_answers_late_is_kept_and_asked_on() {
    let folder = Folder::new();
    let program = folder.write(
        "server.cjs",
        "const from = Date.now() + 1500;\n\
         require('node:http').createServer((_, response) => {\n\
         response.writeHead(Date.now() < from ? 503 : 200);\n\
         response.end();\n\
         }).listen(0);",
    );
    let options = ["-i", "1", "--ready", "http:/", "--ready-timeout", "1s"];
    let worksong = Worksong::run(options).program(program).start();
    let late = worksong.wait_event("not_ready", |_| true);
    assert_eq!(reason(&late), "GET / answered 503 Service Unavailable");
    worksong.wait_ready(1);
}

#[test]
fn a_worker_on_a_unix_socket_is_asked_too() {
    let folder = Folder::new();
    let program = folder.write("server.cjs", WARMS_UP);
    let socket = folder.join("server.sock");
    let worksong = probing("http:/healthz").args(["-i", "1"]).program(program).args([&socket]).start();
    worksong.wait_ready(1);
    wait_probes(&worksong, 3);
    assert_eq!(http::get(socket.as_path(), "/").expect("an answer").status, 200);
}

#[test]
fn a_deno_worker_is_asked_too() {
    let folder = Folder::new();
    let program = folder.write(
        "server.mjs",
        "import http from 'node:http';\n\
         let asked = 0;\n\
         http.createServer((request, response) => {\n\
         console.log(request.url);\n\
         response.writeHead(++asked < 3 ? 503 : 200);\n\
         response.end();\n\
         }).listen(0);",
    );
    let options = ["-i", "1", "--interpreter", "deno"];
    let worksong = probing("http:/healthz").args(options).program(program).start();
    worksong.wait_ready(1);
    wait_probes(&worksong, 3);
}

#[test]
fn a_rust_worker_is_asked_too() {
    for how in ["tcp", "http:/"] {
        let worksong = probing(how).args(["-i", "2"]).program(binary("examples/under_node")).start();
        assert_eq!(worksong.wait_ready(2).len(), 2, "{how}");
        worksong.signal(Signal::TERM);
        assert_eq!(worksong.wait_exit().code(), Some(0));
        let answered = if how == "tcp" { "answered 0" } else { "answered 1" };
        let said = worksong.output().into_iter().filter(|output| output.line == answered).count();
        assert_eq!(said, 2, "{how}: each has answered its probe and nothing else");
    }
}

#[test]
fn a_program_with_a_port_of_its_own_is_asked_there() {
    let folder = Folder::new();
    let port = free_port();
    let script = folder.write(
        "server.py",
        "import http.server, os\n\
         class Handler(http.server.BaseHTTPRequestHandler):\n\
         \x20   asked = 0\n\
         \x20   def do_GET(self):\n\
         \x20       Handler.asked += 1\n\
         \x20       self.send_response(200 if Handler.asked > 2 else 503)\n\
         \x20       self.end_headers()\n\
         http.server.HTTPServer(('127.0.0.1', int(os.environ['PORT'])), Handler).serve_forever()\n",
    );
    let options = ["-i", "1", "--port", &port.to_string()];
    let worksong = probing("http:/healthz").args(options).program(script).start();
    worksong.wait_ready(1);
    let asked = |output: &worksong_testkit::Output| output.line.contains("GET /healthz").then_some(());
    worksong.wait_output("the probes in its log", asked);
}

#[test]
fn a_bad_build_on_a_port_that_the_old_worker_has_too_never_passes() {
    let folder = Folder::new();
    let port = free_port();
    let serving = |status: u32| {
        format!(
            "import http.server, os, socket\n\
             class Handler(http.server.BaseHTTPRequestHandler):\n\
             \x20   def do_GET(self):\n\
             \x20       body = str(os.getpid()).encode()\n\
             \x20       self.send_response({status} if self.path == '/healthz' else 200)\n\
             \x20       self.send_header('content-length', str(len(body)))\n\
             \x20       self.end_headers()\n\
             \x20       self.wfile.write(body)\n\
             class Server(http.server.HTTPServer):\n\
             \x20   def server_bind(self):\n\
             \x20       self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)\n\
             \x20       super().server_bind()\n\
             Server(('127.0.0.1', int(os.environ['PORT'])), Handler).serve_forever()\n"
        )
    };
    let script = folder.write("server.py", serving(200));
    let options = ["-i", "1", "--dialect", "port", "--port", &port.to_string()];
    let how = ["--ready", "http:/healthz", "--ready-timeout", "8s"];
    let worksong = Worksong::run(how).args(options).program(&script).start();
    let old = worksong.wait_ready(1);
    let pid = || http::get(port, "/").expect("an answer").text().parse::<u32>().expect("a pid");
    let failures = [
        ("import time\ntime.sleep(1000)\n".to_owned(), "it does not listen on port"),
        (serving(503), "answered 503"),
    ];
    for (generation, (build, told)) in (2..).zip(failures) {
        folder.write("server.py", build);
        worksong.signal(Signal::HUP);
        let failed = worksong.wait_event("reload_failed", |event| event.generation() == generation);
        // Where the machine is busy with other work, the last probe before the deadline may have been cut short.
        let was_cut_short = reason(&failed).contains("was not answered within");
        assert!(reason(&failed).contains(told) || was_cut_short, "{failed:?}");
        let gone = |event: &Event| {
            event.pid() != 0 && !old.contains(&event.pid()) && event.generation() == generation
        };
        worksong.wait_event("exit", gone);
        assert!(old.contains(&pid()));
    }
    folder.write("server.py", serving(200));
    worksong.signal(Signal::HUP);
    worksong.wait_event("reload_report", |_| true);
    assert!(!old.contains(&pid()), "a good one passes, although the old one answers, too");
}
