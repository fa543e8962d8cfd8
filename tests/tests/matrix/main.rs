//! The capture matrix: real servers that bind their port by themselves, as they are, on three workers.
//!
//! Each row goes through the same trial: every worker serves, a reload under load loses nothing, the queue of a killed
//! worker goes to its successor, and connections wait while there is no worker at all. `docs/capture.md` publishes
//! what comes out of it; `WORKSONG_MATRIX=write` makes the tests write it there.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking, also in its helpers")]

mod at_path;
mod client;
mod publish;
mod server;
mod stage;
mod table;
mod trial;

use table as t;

macro_rules! rows {
    ($($test:ident: $server:expr,)*) => {
        /// All rows, in the order in which they are published.
        const ROWS: &[&server::Server] = &[$(&$server),*];
        $(#[test]
        fn $test() {
            trial::run(&$server);
        })*
    };
}

rows! {
    nginx: t::NGINX,
    nginx_reuseport: t::NGINX_REUSEPORT,
    apache: t::APACHE,
    lighttpd: t::LIGHTTPD,
    haproxy: t::HAPROXY,
    varnish: t::VARNISH,
    caddy: t::CADDY,
    mini_httpd: t::MINI_HTTPD,
    webfs: t::WEBFS,
    redis: t::REDIS,
    memcached: t::MEMCACHED,
    mosquitto: t::MOSQUITTO,
    php: t::PHP,
    php_fpm: t::PHP_FPM,
    dnsmasq: t::DNSMASQ,
    webrick: t::WEBRICK,
    puma: t::PUMA,
    java: t::JAVA,
    python_http_server: t::HTTP_SERVER,
    gunicorn: t::GUNICORN,
    uvicorn: t::UVICORN,
    waitress: t::WAITRESS,
    hypercorn: t::HYPERCORN,
    tornado: t::TORNADO,
    aiohttp: t::AIOHTTP,
    node: t::NODE,
    express: t::EXPRESS,
    fastify: t::FASTIFY,
    npm_http_server: t::NPM_HTTP_SERVER,
    npm_serve: t::NPM_SERVE,
    deno: t::DENO,
    bun: t::BUN,
    axum: t::AXUM,
    static_rust: t::STATIC_RUST,
    drops_privileges: t::DROPS,
    probes_its_port: t::PROBES,
    epoll_first: t::EPOLL_FIRST,
    several_ports: t::SEVERAL,
}

macro_rules! rows_at_a_path {
    ($($test:ident: $server:expr,)*) => {
        /// The rows of servers at a path, which are published in a table of their own.
        const ROWS_AT_A_PATH: &[&server::Server] = &[$(&$server),*];
        $(#[test]
        fn $test() {
            at_path::run(&$server);
        })*
    };
}

rows_at_a_path! {
    nginx_at_a_path: at_path::NGINX,
    gunicorn_at_a_path: at_path::GUNICORN,
    uvicorn_at_a_path: at_path::UVICORN,
    puma_at_a_path: at_path::PUMA,
    node_at_a_path: at_path::NODE,
    php_fpm_at_a_path: at_path::PHP_FPM,
    redis_at_a_path: at_path::REDIS,
}

#[test]
fn every_row_is_published() {
    let published = publish::names();
    let rows: Vec<&str> = ROWS.iter().chain(ROWS_AT_A_PATH).map(|server| server.name).collect();
    assert_eq!(published, rows, "docs/capture.md has these rows, in this order");
}
