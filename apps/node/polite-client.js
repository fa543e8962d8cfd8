'use strict';
// A client that keeps its connection until the server ends it: PORT https|h2|ws. It asks every 10 ms and prints a JSON
// line when another process answers: {pid, before, failures, end}; `end` is how the last connection was ended.
const fs = require('node:fs');
const http2 = require('node:http2');
const https = require('node:https');
const path = require('node:path');

const [port, kind] = process.argv.slice(2);
const failures = [];
let pid;
let end;

function heard(answeredBy) {
  if (answeredBy !== pid) console.log(JSON.stringify({ pid: answeredBy, before: pid, failures, end }));
  pid = answeredBy;
}

/** Some fixtures answer with their pid, some with JSON. */
function pidIn(text) {
  return text.startsWith('{') ? JSON.parse(text).pid : Number(text);
}

function collect(stream, done) {
  let text = '';
  stream.setEncoding('utf8').on('data', (chunk) => (text += chunk)).on('end', () => done(pidIn(text)));
}

function askHttps(agent, done) {
  https.get({ port, agent, servername: 'localhost' }, (response) => {
    collect(response, (answeredBy) => {
      heard(answeredBy);
      end = response.headers.connection;
      done();
    });
  }).on('error', (error) => { failures.push(error.message); done(); });
}

function askH2(session, done) {
  const stream = session.request({ ':path': '/' });
  stream.on('error', (error) => {
    // The server has not looked at it: the request is to be sent again (RFC 9113, section 8.7).
    if (stream.rstCode !== http2.constants.NGHTTP2_REFUSED_STREAM) failures.push(error.message);
    done();
  });
  collect(stream, (answeredBy) => { heard(answeredBy); done(); });
  stream.end();
}

if (kind === 'https') {
  const ca = fs.readFileSync(path.join(__dirname, 'tls', 'cert.pem'));
  const agent = new https.Agent({ keepAlive: true, maxSockets: 1, ca });
  const next = () => askHttps(agent, () => setTimeout(next, 10));
  next();
} else if (kind === 'ws') {
  const { WebSocket } = require('ws');
  const open = () => {
    const socket = new WebSocket(`ws://127.0.0.1:${port}`);
    // The first message says who it is, the others are echoes.
    socket.once('message', (text) => {
      heard(pidIn(String(text)));
      const ask = setInterval(() => { if (socket.readyState === WebSocket.OPEN) socket.send('.'); }, 10);
      socket.on('close', (code) => { clearInterval(ask); end = code; open(); });
    });
    socket.on('error', (error) => failures.push(error.message));
  };
  open();
} else {
  let session;
  const next = () => {
    if (session === undefined || session.closed) {
      session = http2.connect(`http://127.0.0.1:${port}`);
      session.on('goaway', () => { end = 'goaway'; });
      session.on('error', (error) => failures.push(error.message));
    }
    askH2(session, () => setTimeout(next, 10));
  };
  next();
}
