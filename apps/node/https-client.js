'use strict';
// A TLS client: PORT COUNT → one JSON line per connection, {pid, resumed}; each offers the session of the first.
const fs = require('node:fs');
const path = require('node:path');
const tls = require('node:tls');

const [port, count] = process.argv.slice(2).map(Number);
const ca = fs.readFileSync(path.join(__dirname, 'tls', 'cert.pem'));
let session;

function connect(left) {
  if (left === 0) return;
  const socket = tls.connect({ host: '127.0.0.1', port, servername: 'localhost', ca, session });
  let text = '';
  socket.setEncoding('utf8');
  socket.on('session', (fresh) => (session ??= fresh));
  socket.on('data', (chunk) => (text += chunk));
  socket.on('end', () => {
    const { pid } = JSON.parse(text.slice(text.indexOf('\r\n\r\n')));
    console.log(JSON.stringify({ pid, resumed: socket.isSessionReused() }));
    connect(left - 1);
  });
  socket.write('GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n');
}
connect(count);
