//! Which programs share their port.

use std::process::Command;

use worksong_testkit::http::Response;
use worksong_testkit::{Folder, Worksong, binary, bun, free_port, node};

use super::{python, text_pid, wait_sharers};

const JAVASCRIPT: &str = "\
const answer = (_, response) => response.end(JSON.stringify({ pid: process.pid }));
require('node:http').createServer(answer).listen(Number(process.argv[2]), '127.0.0.1');
";

/// Runs four workers of a program that takes its port as its last argument, and waits for answers of all.
#[track_caller]
fn share(options: &[&str], program: &[&str], pid_of: fn(&Response) -> u32) {
    let port = free_port();
    let worksong = Worksong::run(["-i", "4"]).args(options).args(program).args([port.to_string()]).start();
    let pids = worksong.wait_ready(4);
    worksong.wait_event("listening", |event| event["port"] == port);
    assert_eq!(wait_sharers(port, 4, pid_of), pids);
}

#[test]
fn python_that_blocks_in_accept() {
    let port = free_port();
    let worksong = python("4", port, &[]).start();
    let pids = worksong.wait_ready(4);
    assert_eq!(wait_sharers(port, 4, text_pid), pids);
}

#[test]
fn python_that_nobody_told_anything_of() {
    let folder = Folder::new();
    let script = folder.write("server.py", super::PYTHON);
    share(&[], &[script.to_str().expect("a path")], text_pid);
}

#[test]
fn node_without_cluster() {
    let folder = Folder::new();
    let script = folder.write("server.cjs", JAVASCRIPT);
    let script = script.to_str().expect("a path");
    let node = node("24");
    share(&["--dialect", "capture"], &[node.to_str().expect("a path"), script], Response::json_pid);
    let bun = bun();
    share(&["--dialect", "capture"], &[bun.to_str().expect("a path"), script], Response::json_pid);
}

#[test]
fn deno() {
    let folder = Folder::new();
    let script = folder.write(
        "server.mjs",
        "Deno.serve({ port: Number(Deno.args[0]), hostname: '127.0.0.1' }, () => Response.json({ pid: Deno.pid }));\n",
    );
    let deno = deno_path();
    share(
        &["--dialect", "capture"],
        &[&deno, "run", "-A", script.to_str().expect("a path")],
        Response::json_pid,
    );
}

fn deno_path() -> String {
    worksong_testkit::deno().display().to_string()
}

#[test]
fn java() {
    let folder = Folder::new();
    let source = folder.write(
        "Server.java",
        "import com.sun.net.httpserver.HttpServer;\n\
         import java.net.InetSocketAddress;\n\
         public class Server {\n\
         \x20 public static void main(String[] args) throws Exception {\n\
         \x20   var server = HttpServer.create(new InetSocketAddress(\"127.0.0.1\", Integer.parseInt(args[0])), 0);\n\
         \x20   server.createContext(\"/\", exchange -> {\n\
         \x20     var body = Long.toString(ProcessHandle.current().pid()).getBytes();\n\
         \x20     exchange.sendResponseHeaders(200, body.length);\n\
         \x20     exchange.getResponseBody().write(body);\n\
         \x20     exchange.close();\n\
         \x20   });\n\
         \x20   server.start();\n\
         \x20 }\n\
         }\n",
    );
    // Once: four that each compile what they run took 20 s to listen on a busy machine.
    let mut compile = Command::new("javac");
    compile.arg("-d").arg(folder.path()).arg(&source);
    assert!(compile.status().expect("Java is installed").success());
    let options = ["--dialect", "capture", "--ready-timeout", "2m"];
    let classes = folder.path().to_str().expect("a path");
    share(&options, &["java", "-XX:TieredStopAtLevel=1", "-cp", classes, "Server"], text_pid);
}

#[test]
fn a_rust_server_that_knows_nothing_of_worksong() {
    let port = free_port();
    let worksong =
        Worksong::run(["-i", "4"]).env("PORT", port.to_string()).program(binary("rust-raw")).start();
    let pids = worksong.wait_ready(4);
    worksong.wait_event("listening", |event| event["port"] == port);
    assert_eq!(wait_sharers(port, 4, text_pid), pids);
}
