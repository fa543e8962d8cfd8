'use strict';
// Listens on everything that argv[2] lists as JSON and sends the parent what became of each:
// {index, listening: server.address()} or {index, error, errno, syscall, address, port}.
// An entry is what `server.listen` takes: one value, or a list of arguments. `{"tls": true, …}` makes an HTTPS server.
// `kind` is `TCP` or `Pipe` where the worker accepts by itself, `Object` where the primary does.
// SIGUSR2 closes all servers.
const fs = require('node:fs');
const http = require('node:http');
const https = require('node:https');
const path = require('node:path');

const read = (name) => fs.readFileSync(path.join(__dirname, 'tls', name));

const servers = JSON.parse(process.argv[2]).map((entry, index) => {
  const answer = (request, response) => response.end(JSON.stringify({ pid: process.pid, index }));
  const server = entry?.tls
    ? https.createServer({ key: read('key.pem'), cert: read('cert.pem') }, answer)
    : http.createServer(answer);
  server.on('error', ({ code, errno, syscall, address, port }) => {
    process.send({ index, error: code, errno, syscall, address, port });
  });
  server.on('listening', () => {
    process.send({ index, listening: server.address(), kind: server._handle.constructor.name });
  });
  return server.listen(...(Array.isArray(entry) ? entry : [entry]));
});
process.on('SIGUSR2', () => servers.forEach((server) => server.close()));
