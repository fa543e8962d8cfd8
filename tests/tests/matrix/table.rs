//! The servers of the matrix.

use crate::client::Protocol;
use crate::server::{Limit, Server};

pub(crate) const NGINX: Server = Server {
    name: "nginx",
    version: "nginx -v",
    command: r#"nginx -e stderr -c "$CONFIG" -g "pid $FOLDER/$$.pid;""#,
    config: Some("nginx.conf"),
    stop_signal: Some("QUIT"),
    note: "a file for the pid of each: `pid …/$$.pid`",
    ..Server::HTTP
};

pub(crate) const NGINX_REUSEPORT: Server = Server {
    name: "nginx with `reuseport`",
    version: "nginx -v",
    command: r#"nginx -e stderr -c "$CONFIG" -g "pid $FOLDER/$$.pid;""#,
    config: Some("nginx-reuseport.conf"),
    stop_signal: Some("QUIT"),
    note: "its own workers share the socket of their slot",
    ..Server::HTTP
};

pub(crate) const APACHE: Server = Server {
    name: "Apache",
    version: "apache2 -v",
    command: r#"apache2 -D FOREGROUND -f "$CONFIG" -c "PidFile $FOLDER/$$.pid""#,
    config: Some("apache.conf"),
    stop_signal: Some("WINCH"),
    note: "mpm_event; a `PidFile` for each",
    ..Server::HTTP
};

pub(crate) const LIGHTTPD: Server = Server {
    name: "lighttpd",
    version: "lighttpd -v",
    command: r#"lighttpd -D -f "$CONFIG""#,
    config: Some("lighttpd.conf"),
    stop_signal: Some("INT"),
    ..Server::HTTP
};

pub(crate) const HAPROXY: Server = Server {
    name: "HAProxy",
    version: "haproxy -v",
    command: r#"haproxy -db -f "$CONFIG""#,
    config: Some("haproxy.cfg"),
    stop_signal: Some("USR1"),
    ..Server::HTTP
};

pub(crate) const VARNISH: Server = Server {
    name: "Varnish",
    version: "varnishd -V",
    command: r#"varnishd -F -f "$CONFIG" -a "127.0.0.1:$PORT" -n "$FOLDER/$$" -s default,8m"#,
    config: Some("varnish.vcl"),
    note: "each has a cache of its own; a folder for each: `-n`",
    ..Server::HTTP
};

pub(crate) const CADDY: Server = Server {
    name: "Caddy",
    version: "caddy version",
    command: r#"caddy run --adapter caddyfile --config "$CONFIG""#,
    config: Some("Caddyfile"),
    note: "written in Go; `admin off`, which is a port of its own",
    ..Server::HTTP
};

pub(crate) const MINI_HTTPD: Server = Server {
    name: "mini_httpd",
    version: "mini_httpd -V",
    command: r#"mini_httpd -D -h 127.0.0.1 -p "$PORT" -d "$FOLDER""#,
    note: "a process for each connection",
    ..Server::HTTP
};

pub(crate) const WEBFS: Server = Server {
    name: "webfs",
    version: "dpkg-query -W webfs",
    command: r#"webfsd -F -i 127.0.0.1 -p "$PORT" -r "$FOLDER" -f index.html"#,
    ..Server::HTTP
};

pub(crate) const REDIS: Server = Server {
    name: "Redis",
    version: "redis-server -v",
    command: r#"redis-server --bind 127.0.0.1 --port "$PORT" --save "" --appendonly no"#,
    protocol: Protocol::Redis,
    note: "each has data of its own: for a cache at best",
    ..Server::HTTP
};

pub(crate) const MEMCACHED: Server = Server {
    name: "memcached",
    version: "memcached -V",
    command: r#"memcached -u nobody -l 127.0.0.1 -p "$PORT" -U 0"#,
    stop_signal: Some("USR1"),
    protocol: Protocol::Memcached,
    note: "each has data of its own: for a cache at best",
    ..Server::HTTP
};

pub(crate) const MOSQUITTO: Server = Server {
    name: "Mosquitto",
    version: "mosquitto -h",
    command: r#"mosquitto -c "$CONFIG""#,
    config: Some("mosquitto.conf"),
    protocol: Protocol::Mqtt,
    note: "each has subscribers of its own: of no use without a bridge",
    ..Server::HTTP
};

pub(crate) const PHP: Server = Server {
    name: "PHP's built-in server",
    version: "php -v",
    command: r#"php -S "127.0.0.1:$PORT" "$SERVERS/answer.php""#,
    note: "one request at a time",
    ..Server::PAUSING
};

pub(crate) const PHP_FPM: Server = Server {
    name: "PHP-FPM",
    version: "ls /usr/sbin | grep php-fpm",
    command: r#"$(ls /usr/sbin/php-fpm* | head -1) --nodaemonize --fpm-config "$CONFIG""#,
    config: Some("php-fpm.conf"),
    stop_signal: Some("QUIT"),
    protocol: Protocol::FastCgi,
    note: "speaks FastCGI; with two processes of its own",
    ..Server::HTTP
};

pub(crate) const DNSMASQ: Server = Server {
    name: "dnsmasq",
    version: "dnsmasq --version",
    command: r#"dnsmasq --keep-in-foreground --conf-file=/dev/null --user=root --pid-file --no-resolv --no-hosts --port="$PORT" --listen-address=127.0.0.1 --bind-interfaces"#,
    protocol: Protocol::Dns,
    reads_datagrams: true,
    note: "TCP and UDP; `--capture 53 --capture udp:53`",
    ..Server::HTTP
};

pub(crate) const WEBRICK: Server = Server {
    name: "WEBrick",
    version: "ruby -rwebrick -e 'puts WEBrick::VERSION'",
    command: r#"ruby "$SERVERS/webrick.rb""#,
    ..Server::PAUSING
};

pub(crate) const PUMA: Server = Server {
    name: "Puma",
    version: "puma -V",
    command: r#"puma --quiet --bind "tcp://127.0.0.1:$PORT" "$SERVERS/config.ru""#,
    ..Server::PAUSING
};

pub(crate) const JAVA: Server = Server {
    name: "Java `HttpServer`",
    version: "java --version",
    before: r#"javac -d "$FOLDER" "$SERVERS/Answer.java""#,
    command: r#"java -XX:TieredStopAtLevel=1 -cp "$FOLDER" Answer"#,
    ..Server::PAUSING
};

pub(crate) const HTTP_SERVER: Server = Server {
    name: "Python `http.server`",
    version: r#""$SERVERS/.venv/bin/python3" --version"#,
    command: r#""$SERVERS/.venv/bin/python3" "$SERVERS/http_server.py""#,
    ..Server::PAUSING
};

pub(crate) const GUNICORN: Server = Server {
    name: "Gunicorn",
    version: r#""$APPS/python/.venv/bin/gunicorn" --version"#,
    command: r#""$APPS/python/.venv/bin/gunicorn" --chdir "$SERVERS" --bind "127.0.0.1:$PORT" --workers 2 applications:wsgi"#,
    note: "with two workers of its own",
    ..Server::PAUSING
};

pub(crate) const UVICORN: Server = Server {
    name: "Uvicorn",
    version: r#""$APPS/python/.venv/bin/uvicorn" --version | sed "s/.*uvicorn//""#,
    command: r#""$APPS/python/.venv/bin/uvicorn" --app-dir "$SERVERS" --port "$PORT" applications:asgi"#,
    ..Server::PAUSING
};

pub(crate) const WAITRESS: Server = Server {
    name: "Waitress",
    version: r#""$SERVERS/.venv/bin/python3" -c "import importlib.metadata as m; print(m.version('waitress'))""#,
    command: r#""$SERVERS/.venv/bin/waitress-serve" --host 127.0.0.1 --port "$PORT" applications:wsgi"#,
    ..Server::PAUSING
};

pub(crate) const HYPERCORN: Server = Server {
    name: "Hypercorn",
    version: r#""$SERVERS/.venv/bin/python3" -c "import importlib.metadata as m; print(m.version('hypercorn'))""#,
    command: r#""$SERVERS/.venv/bin/hypercorn" --bind "127.0.0.1:$PORT" applications:asgi"#,
    ..Server::PAUSING
};

pub(crate) const TORNADO: Server = Server {
    name: "Tornado",
    version: r#""$SERVERS/.venv/bin/python3" -c "import tornado; print(tornado.version)""#,
    command: r#""$SERVERS/.venv/bin/python3" "$SERVERS/tornado_server.py""#,
    ..Server::PAUSING
};

pub(crate) const AIOHTTP: Server = Server {
    name: "aiohttp",
    version: r#""$SERVERS/.venv/bin/python3" -c "import aiohttp; print(aiohttp.__version__)""#,
    command: r#""$SERVERS/.venv/bin/python3" "$SERVERS/aiohttp_server.py""#,
    ..Server::PAUSING
};

pub(crate) const NODE: Server = Server {
    name: "Node.js without `cluster`",
    version: r#""$APPS/runtimes/bin/node-24" --version"#,
    command: r#""$APPS/runtimes/bin/node-24" "$SERVERS/node.mjs""#,
    note: "`--dialect node`, which is what `auto` takes, moves idle connections as well",
    ..Server::PAUSING
};

pub(crate) const EXPRESS: Server = Server {
    name: "Express",
    version: r#""$APPS/runtimes/bin/node-24" -p "require('$APPS/node/node_modules/express/package.json').version""#,
    command: r#""$APPS/runtimes/bin/node-24" "$SERVERS/express.cjs""#,
    note: "as above",
    ..Server::PAUSING
};

pub(crate) const FASTIFY: Server = Server {
    name: "Fastify",
    version: r#""$APPS/runtimes/bin/node-24" -p "require('$APPS/node/node_modules/fastify/package.json').version""#,
    command: r#""$APPS/runtimes/bin/node-24" "$SERVERS/fastify.cjs""#,
    note: "as above",
    ..Server::PAUSING
};

pub(crate) const NPM_HTTP_SERVER: Server = Server {
    name: "npm `http-server`",
    version: r#""$APPS/runtimes/bin/node-24" "$SERVERS/node_modules/.bin/http-server" --version"#,
    command: r#""$APPS/runtimes/bin/node-24" "$SERVERS/node_modules/.bin/http-server" -s -c-1 -a 127.0.0.1 -p "$PORT" "$FOLDER""#,
    ..Server::HTTP
};

pub(crate) const NPM_SERVE: Server = Server {
    name: "npm `serve`",
    version: r#""$APPS/runtimes/bin/node-24" "$SERVERS/node_modules/.bin/serve" --version"#,
    command: r#""$APPS/runtimes/bin/node-24" "$SERVERS/node_modules/.bin/serve" --no-port-switching -L -l "tcp://127.0.0.1:$PORT" "$FOLDER""#,
    limit: Some(Limit::ConnectsFirst),
    note: "connects to its port first and takes another one when somebody answers, as workers do; give it `--dialect port`",
    ..Server::HTTP
};

pub(crate) const DENO: Server = Server {
    name: "`Deno.serve`",
    version: r#""$APPS/runtimes/bin/deno" --version"#,
    command: r#""$APPS/runtimes/bin/deno" run --allow-net --allow-env "$SERVERS/serve.ts""#,
    ..Server::PAUSING
};

pub(crate) const BUN: Server = Server {
    name: "`Bun.serve`",
    version: r#""$APPS/runtimes/bin/bun" --version"#,
    command: r#""$APPS/runtimes/bin/bun" run "$SERVERS/serve.ts""#,
    ..Server::PAUSING
};

pub(crate) const AXUM: Server = Server {
    name: "axum",
    version: r#"grep -A1 'name = "axum"' "$APPS/../Cargo.lock""#,
    command: r#""$AXUM""#,
    note: "a Rust server of crates.io",
    ..Server::PAUSING
};

pub(crate) const STATIC_RUST: Server = Server {
    name: "statically linked",
    version: "rustc --version",
    command: r#""$SERVERS/bin/static""#,
    note: "Rust with its own libc: nothing can be preloaded into it",
    ..Server::PAUSING
};

pub(crate) const DROPS: Server = Server {
    name: "drops its privileges",
    version: r#""$SERVERS/.venv/bin/python3" --version"#,
    command: r#""$SERVERS/.venv/bin/python3" "$SERVERS/drops.py""#,
    note: "becomes another user between `bind` and `listen`",
    ..Server::HTTP
};

pub(crate) const PROBES: Server = Server {
    name: "probes its port",
    version: r#""$SERVERS/.venv/bin/python3" --version"#,
    command: r#""$SERVERS/.venv/bin/python3" "$SERVERS/probes.py""#,
    note: "binds, listens, closes; binds, closes; binds and stays",
    ..Server::PAUSING
};

pub(crate) const EPOLL_FIRST: Server = Server {
    name: "epoll before `bind`",
    version: r#""$SERVERS/.venv/bin/python3" --version"#,
    command: r#""$SERVERS/.venv/bin/python3" "$SERVERS/epoll_first.py""#,
    note: "registers its socket before it binds it, as Boost.Asio does",
    ..Server::PAUSING
};

pub(crate) const SEVERAL: Server = Server {
    name: "several ports",
    version: r#""$SERVERS/.venv/bin/python3" --version"#,
    command: r#""$SERVERS/.venv/bin/python3" "$SERVERS/several.py""#,
    listens_more_than_once: true,
    note: "two ports of IPv4 and one of IPv6",
    ..Server::HTTP
};
