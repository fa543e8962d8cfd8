'use strict';
// A server with something for each class of client in bench/torture: small, large, slow and chunked answers, uploads,
// WebSocket, and HTTP/2 without TLS on a port of its own. It handles no
// signal, unless GRACEFUL asks for what PM2's users write.
const { createHash } = require('node:crypto');
const http = require('node:http');
const http2 = require('node:http2');
const { WebSocketServer } = require('ws');

const PERIOD = 23;
const pattern = Buffer.alloc(PERIOD * 4096, 'abcdefghijklmnopqrstuvw');

function bytes(response, count) {
  response.setHeader('content-length', count);
  let sent = 0;
  const more = () => {
    while (sent < count) {
      const part = pattern.subarray(0, Math.min(pattern.length, count - sent));
      sent += part.length;
      if (!response.write(part)) return response.once('drain', more);
    }
    response.end();
  };
  more();
}

function stream(response, count, pause) {
  let number = 0;
  const timer = setInterval(() => {
    response.write(`${number++}\n`);
    if (number < count) return;
    clearInterval(timer);
    response.end();
  }, pause);
  response.on('close', () => clearInterval(timer));
}

function upload(request, response) {
  const hash = createHash('sha256');
  request.on('data', (part) => hash.update(part));
  request.on('end', () => response.end(hash.digest('hex')));
}

function answer(request, response) {
  const [, what, first, second] = request.url.split('/');
  switch (what) {
    case 'say': return response.end(first);
    case 'bytes': return bytes(response, Number(first));
    case 'stream': return stream(response, Number(first), Number(second));
    case 'upload': return upload(request, response);
    default:
      response.statusCode = 404;
      return response.end();
  }
}

const server = http.createServer(answer);
// The default of 5 s counts from when the kernel has taken the answer: clients that read slowly need longer.
server.keepAliveTimeout = 75_000;
const sockets = new WebSocketServer({ server, path: '/ws' });
sockets.on('connection', (socket) => socket.on('message', (data) => socket.send(data.toString())));
const server2 = http2.createServer(answer);
if (process.env.GRACEFUL) {
  process.once('SIGINT', () => {
    server2.close();
    server.close(() => process.exit(0));
  });
}

let starting = 2;
function listening() {
  if (--starting > 0) return;
  console.log(`ports ${server.address().port} ${server2.address().port}`);
  // recluster counts listeners as workers unless workers say when they are ready.
  if (process.send) process.send({ cmd: 'ready' });
}
server.listen(Number(process.env.PORT || 0), '127.0.0.1', listening);
server2.listen(Number(process.env.PORT2 || 0), '127.0.0.1', listening);
