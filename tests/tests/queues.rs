//! Connections that wait in the kernel: who is told how many.

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
