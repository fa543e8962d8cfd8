//! Servers that bind a Unix socket: all workers share it.

use std::collections::BTreeSet;

use worksong_testkit::Signal;

use crate::client::{Load, Protocol, Visit};
use crate::publish::{self, Outcome};
use crate::server::{Limit, Server};
use crate::stage::{Stage, WORKERS, freeze};
use crate::trial::{SOME, assert_answered, stay};

pub(crate) const NGINX: Server = Server {
    name: "nginx, `listen unix:`",
    version: "nginx -v",
    command: r#"nginx -e stderr -c "$CONFIG" -g "pid $FOLDER/$$.pid;""#,
    config: Some("nginx-unix.conf"),
    stop_signal: Some("QUIT"),
    ..Server::HTTP
};

pub(crate) const GUNICORN: Server = Server {
    name: "Gunicorn, `--bind unix:`",
    version: r#""$APPS/python/.venv/bin/gunicorn" --version"#,
    command: r#""$APPS/python/.venv/bin/gunicorn" --bind "unix:$SOCKET" --pythonpath "$SERVERS" applications:wsgi"#,
    ..Server::PAUSING
};

pub(crate) const UVICORN: Server = Server {
    name: "Uvicorn, `--uds`",
    version: r#""$APPS/python/.venv/bin/uvicorn" --version | sed "s/.*uvicorn//""#,
    command: r#""$APPS/python/.venv/bin/uvicorn" --app-dir "$SERVERS" --uds "$SOCKET" applications:asgi"#,
    limit: Some(Limit::ClosesUnread),
    note: "at SIGTERM it closes connections whose request it has not read yet",
    ..Server::PAUSING
};

pub(crate) const NODE: Server = Server {
    name: "Node.js, `listen(path)`",
    version: r#""$APPS/runtimes/bin/node-24" --version"#,
    command: r#""$APPS/runtimes/bin/node-24" "$SERVERS/node_unix.mjs""#,
    note: "with a handler of SIGTERM that closes its server",
    ..Server::PAUSING
};

pub(crate) const PUMA: Server = Server {
    name: "Puma, `unix://`",
    version: "puma -V",
    command: r#"puma --quiet --bind "unix://$SOCKET" "$SERVERS/config.ru""#,
    limit: Some(Limit::ConnectsFirst),
    note: "connects to its path first and gives up when somebody answers, as workers do",
    ..Server::PAUSING
};

pub(crate) const REDIS: Server = Server {
    name: "Redis, `unixsocket`",
    version: "redis-server -v",
    command: r#"redis-server --port 0 --unixsocket "$SOCKET" --save "" --appendonly no"#,
    protocol: Protocol::Redis,
    limit: Some(Limit::ClosesUnread),
    note: "ends at SIGTERM whatever it has accepted; each has data of its own",
    ..Server::HTTP
};

/// Puts a server through the trial of Unix sockets.
pub(crate) fn run(server: &'static Server) {
    const CAPTURE: &[&str] = &["--capture", "unix:x.sock", "--ready-timeout", "10s"];
    if server.limit == Some(Limit::ConnectsFirst) {
        let stage = Stage::start_with(server, 1, CAPTURE);
        return stay(&stage, stage.path.as_path());
    }
    let stage = Stage::start_with(server, WORKERS, CAPTURE);
    serve_alone(&stage);
    let may_cut = server.limit == Some(Limit::ClosesUnread);
    let reloaded = reload(&stage, may_cut);
    let outcome = Outcome::PassedAtPath { reloaded, may_cut, killed: kill(&stage), held: hold(&stage) };
    stage.worksong.signal(Signal::TERM);
    assert!(stage.worksong.wait_exit().success());
    assert!(!stage.path.exists(), "{}: its path goes with the app", server.name);
    publish::row(server, &outcome);
}

/// Every worker serves, also when all others stand still.
fn serve_alone(stage: &Stage) {
    let workers = stage.worksong.wait_ready(WORKERS);
    for worker in &workers {
        let others: Vec<_> =
            workers.iter().filter(|other| *other != worker).map(|other| freeze(*other)).collect();
        assert_answered(stage, (0..SOME).map(|_| asked(stage)));
        others.iter().flatten().for_each(|member| member.signal(Signal::CONT));
    }
}

/// All workers are replaced under load, and nobody is refused. Returns how much was answered.
fn reload(stage: &Stage, may_cut: bool) -> usize {
    let old = stage.worksong.wait_ready(WORKERS);
    let load = Load::start(stage.path.as_path(), stage.server.protocol);
    load.wait_answers(50);
    stage.worksong.signal(Signal::HUP);
    stage.worksong.wait_event("reload_done", |event| event.generation() == 2);
    for worker in &old {
        stage.worksong.wait_event("exit", |event| event.pid() == *worker);
    }
    load.wait_answers(50);
    let (answers, failures) = load.finish();
    let fits = failures.iter().all(|failure| may_cut && failure.is_cut());
    assert!(fits, "{}: {} failures beside {answers}: {failures:?}", stage.server.name, failures.len());
    answers
}

/// One worker is killed while it stands still: the others answer.
fn kill(stage: &Stage) -> usize {
    let victim = *stage.worksong.wait_ready(WORKERS).first().unwrap();
    let members = freeze(victim);
    let visits: Vec<Visit> = (0..SOME).map(|_| asked(stage)).collect();
    for member in members {
        member.signal(Signal::KILL);
    }
    assert_answered(stage, visits);
    stage.wait_successors(&BTreeSet::from([victim]));
    SOME
}

/// No worker lives: who connects, before or after their end, waits for the next ones.
fn hold(stage: &Stage) -> usize {
    let old = stage.worksong.wait_ready(WORKERS);
    let members: Vec<_> = old.iter().map(|worker| freeze(*worker)).collect();
    let mut visits: Vec<Visit> = (0..SOME).map(|_| asked(stage)).collect();
    for member in members.into_iter().flatten() {
        member.signal(Signal::KILL);
    }
    visits.extend((0..SOME).map(|_| asked(stage)));
    assert_answered(stage, visits);
    stage.wait_successors(&old);
    2 * SOME
}

/// Connects and sends a whole question.
fn asked(stage: &Stage) -> Visit {
    let mut visit = stage.visit(stage.path.as_path());
    visit.ask().unwrap();
    visit
}
