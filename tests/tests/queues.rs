//! Connections that wait in the kernel: who is told how many.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::thread;

use serde_json::json;
use worksong_testkit::http::{self, Connection};
use worksong_testkit::{Folder, Worksong};

#[test]
fn a_queue_that_fills_is_told_once_and_so_is_its_end() {
    let folder = Folder::new();
    let program = folder.write(
        "short.js",
        "require('node:http').createServer((_, response) => response.end('answer')).listen({ port: 0, backlog: 8 });\n",
    );
    let worksong = Worksong::run(["-i", "1", "--max-open", "1"]).program(program).start();
    worksong.wait_ready(1);
    let port = worksong.listening_port();
    let mut stays = Connection::open(port).expect("the kernel completes it");
    assert_eq!(stays.get("/").expect("an answer").status, 200);
    // More than have room: the kernel leaves the last ones to try again.
    let clients: Vec<_> =
        (0..12).map(|_| thread::spawn(move || http::get(port, "/").expect("it waits").status)).collect();
    let fills = worksong.wait_event("queue_fills", |_| true);
    assert_eq!(fills["backlog"], json!(8));
    assert!(fills["queued"].as_u64().is_some_and(|queued| (5..=9).contains(&queued)), "{fills:?}");
    drop(stays);
    for client in clients {
        assert_eq!(client.join().expect("no panic"), 200);
    }
    let over = worksong.wait_event("queue_over", |_| true);
    assert_eq!(over["address"], fills["address"]);
    assert!(over["most"].as_u64() >= fills["queued"].as_u64() && over.has("overflows"), "{over:?}");
    let told = worksong.events().iter().filter(|event| event.name() == "queue_fills").count();
    assert_eq!(told, 1);
}

#[test]
fn the_queue_of_a_path_is_told_where_workers_accept_by_themselves() {
    let folder = Folder::new();
    let path = folder.join("a.sock");
    // After its first answer it stands still while this is there.
    let busy = folder.write("busy", "");
    let program = folder.write(
        "short.js",
        "const { existsSync } = require('node:fs');\n\
         const sleep = () => Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, 20);\n\
         const server = require('node:http').createServer((_, response) => {\n\
         \x20 response.end('answer', () => { while (existsSync(process.argv[3])) sleep(); });\n\
         });\n\
         server.listen({ path: process.argv[2], backlog: 8 });\n",
    );
    let options = ["-i", "1", "--no-agent", "--policy", "shared"];
    let worksong = Worksong::run(options).program(program).args(["--".as_ref(), &*path, &*busy]).start();
    worksong.wait_ready(1);
    let ask = || {
        let mut stream = UnixStream::connect(&path).expect("it is there");
        stream.write_all(b"GET / HTTP/1.0\r\n\r\n").expect("it is open");
        stream
    };
    // Its end is seen later: the worker stands still.
    let answered = |mut stream: UnixStream| {
        let mut answer = Vec::new();
        while !answer.ends_with(b"answer") {
            let mut byte = [0];
            stream.read_exact(&mut byte).expect("it is answered");
            answer.extend(byte);
        }
    };
    answered(ask());
    let clients: Vec<_> = (0..8).map(|_| ask()).collect();
    let fills = worksong.wait_event("queue_fills", |_| true);
    assert_eq!(fills["address"].as_str(), path.to_str());
    // It may have been looked at while they came: it is told when more than half is full.
    assert!(fills["queued"].as_u64().is_some_and(|queued| (5..=8).contains(&queued)), "{fills:?}");
    assert_eq!(fills["backlog"], json!(8));
    std::fs::remove_file(&busy).expect("it is there");
    clients.into_iter().for_each(answered);
    worksong.wait_event("queue_over", |_| true);
}
