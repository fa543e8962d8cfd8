// nginx in front of N servers that each have a port: `node behind-nginx.js N SCRIPT NGINX`.
// It writes the same event lines as `worksong run --json`, to stdout; the port is nginx's.
'use strict';

const { fork, spawn } = require('node:child_process');
const { randomInt } = require('node:crypto');
const { once } = require('node:events');
const fs = require('node:fs');
const net = require('node:net');
const os = require('node:os');
const path = require('node:path');

const [count, script, nginx] = process.argv.slice(2);
const folder = fs.mkdtempSync(path.join(os.tmpdir(), 'behind-nginx-'));
const children = [];
const say = (event) => process.stdout.write(`${JSON.stringify(event)}\n`);

// What nginx itself recommends for many short requests: connections to the servers stay open. The zone makes the counts
// of least_conn those of all its processes, and a server that is slow is not taken for a dead one.
const configuration = (port, servers) => `
daemon off;
worker_processes 2;
pid ${folder}/pid;
error_log stderr error;
events { worker_connections 4096; }
http {
  access_log off;
  client_body_temp_path ${folder}/body;
  proxy_temp_path ${folder}/proxy;
  fastcgi_temp_path ${folder}/fastcgi;
  uwsgi_temp_path ${folder}/uwsgi;
  scgi_temp_path ${folder}/scgi;
  upstream servers {
    zone servers 64k;
    least_conn;
${servers.map((server) => `    server 127.0.0.1:${server} max_fails=0;`).join('\n')}
    keepalive 64;
  }
  server {
    listen 127.0.0.1:${port};
    location / {
      proxy_pass http://servers;
      proxy_http_version 1.1;
      proxy_set_header Connection "";
    }
  }
}
`;

const serve = async () => {
  const server = fork(script, { execArgv: ['--require', path.join(__dirname, 'tell-port.js')] });
  children.push(server);
  const [{ port }] = await once(server, 'message');
  return { pid: server.pid, port };
};

// By chance, and below what the kernel gives to clients: one that it chose might be a client's before nginx has it.
const freePort = async () => {
  for (;;) {
    const port = randomInt(10000, 32000);
    const server = net.createServer().listen(port, '127.0.0.1');
    try {
      await once(server, 'listening');
    } catch {
      continue;
    }
    server.close();
    await once(server, 'close');
    return port;
  }
};

const takesConnections = (port) =>
  new Promise((resolve) => {
    const socket = net.connect(port, '127.0.0.1');
    socket.on('connect', () => socket.destroy() && resolve(true));
    socket.on('error', () => resolve(false));
  });

const end = (code) => {
  for (const child of children) child.kill();
  fs.rmSync(folder, { recursive: true, force: true });
  process.exit(code);
};

const fail = (event) => {
  say(event);
  end(1);
};

const main = async () => {
  const servers = await Promise.all(Array.from({ length: Number(count) }, serve));
  const port = await freePort();
  const file = path.join(folder, 'nginx.conf');
  fs.writeFileSync(file, configuration(port, servers.map((server) => server.port)));
  const proxy = spawn(nginx, ['-p', folder, '-c', file], { stdio: ['ignore', 'ignore', 'inherit'] });
  children.push(proxy);
  proxy.on('error', (error) => fail({ event: 'spawn_failed', reason: error.message }));
  proxy.on('exit', (code) => fail({ event: 'exit', pid: proxy.pid, code }));
  while (!(await takesConnections(port))) await new Promise(setImmediate);
  for (const { pid } of servers) say({ event: 'listening', pid, port });
};

process.on('SIGTERM', () => end(0));
main();
