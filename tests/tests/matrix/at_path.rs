//! Servers that bind a Unix socket: all workers share it.

use worksong_testkit::Signal;

use crate::client::Protocol;
use crate::publish::{self, Outcome};
use crate::server::{Limit, Server};
use crate::stage::{Stage, WORKERS, freeze};
use crate::trial::{May, SOME, assert_answered, hold, kill, reload, stay};

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

pub(crate) const PHP_FPM: Server = Server {
    name: "PHP-FPM, `listen = /path`",
    version: "ls /usr/sbin | grep php-fpm",
    command: r#"$(ls /usr/sbin/php-fpm* | head -1) --nodaemonize --fpm-config "$CONFIG""#,
    config: Some("php-fpm-unix.conf"),
    stop_signal: Some("QUIT"),
    protocol: Protocol::FastCgi,
    limit: Some(Limit::ConnectsFirst),
    note: "connects to its path first and gives up when somebody answers, as workers do",
    ..Server::HTTP
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
        return stay(&Stage::start_with(server, 1, CAPTURE).at_its_path());
    }
    let stage = Stage::start_with(server, WORKERS, CAPTURE).at_its_path();
    serve_alone(&stage);
    let may = if server.limit == Some(Limit::ClosesUnread) { May::Cut } else { May::Nothing };
    let reloaded = reload(&stage, may);
    let may_cut = may == May::Cut;
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
        assert_answered(stage, (0..SOME).map(|_| stage.ask()));
        others.iter().flatten().for_each(|member| member.signal(Signal::CONT));
    }
}
