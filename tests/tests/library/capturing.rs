//! Programs that bind by themselves, run by the library.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::process::Command;

use worksong_engine::engine::{Engine, EngineOptions, Outcome};
use worksong_engine::spec::{AppSpec, CaptureAddress, Dialect};
use worksong_testkit::http::{self, Response};
use worksong_testkit::{Load, Program, Signal, binary, eventually, fixture, free_port, process};

use crate::serving::{Serving, last_word_pid};
use crate::{in_time, run, spec};

fn text_pid(answer: &Response) -> u32 {
    answer.text().trim().parse().expect("the answer is a pid")
}

#[test]
fn a_spec_names_what_is_captured() {
    run(async {
        let port = free_port();
        let script = fixture("servers/http_server.py");
        let dialect = Dialect::Capture { channel: false };
        let mut web = spec("web", "/usr/bin/env".into(), ["python3".into(), script.into()], 2, dialect);
        web.command.env = vec![("PORT".into(), port.to_string().into())];
        let address = SocketAddr::from(([127, 0, 0, 1], port));
        let web = AppSpec { capture: vec![CaptureAddress::from(address)], ..web };
        let engine = Engine::start(EngineOptions::default()).unwrap();
        let mut events = engine.subscribe();
        let web = Serving::start(&engine, &mut events, web).await;
        assert_eq!(web.port, port);
        let load = Load::start(port, text_pid);
        load.wait_answers_of(&web.pids);
        in_time("the reload", web.app.reload()).await.unwrap();
        load.wait_answers(20);
        assert!(load.finish_without_failure().len() >= 3, "old and new workers have served");
        web.app.stop("the test is over").await;
        assert_eq!(in_time("its end", web.app.finished()).await, Ok(Outcome::Stopped));
        assert!(matches!(http::get(port, "/"), Err(http::Error::Connect(_))), "its sockets are closed");
    });
}

#[test]
fn a_program_of_the_library_shares_what_its_server_binds() {
    let port = free_port();
    let mut command = Command::new(binary("examples/any_server"));
    let program = Program::start(command.arg(format!("127.0.0.1:{port}")));
    eventually("the first answer", || http::get(port, "/").ok());
    let mut first = BTreeSet::new();
    eventually("both workers", || {
        first.insert(last_word_pid(&http::get(port, "/").unwrap()));
        (first.len() == 2).then_some(())
    });
    let load = Load::start(port, last_word_pid);
    load.wait_answers_of(&first);
    program.signal(Signal::HUP);
    eventually("the end of both", || (!first.iter().any(|pid| process::alive(*pid))).then_some(()));
    load.wait_answers(20);
    assert!(load.finish_without_failure().len() >= 3, "old and new workers have served");
    program.signal(Signal::TERM);
    assert!(program.wait_exit().success());
}
