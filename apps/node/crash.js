'use strict';
// Fails in the way that argv[2] names; the ways that get that far serve HTTP.
const { spawn } = require('node:child_process');
const fs = require('node:fs');
const http = require('node:http');
const identity = require('./identity.cjs');

const [mode, argument] = process.argv.slice(2);
let onRequest = () => {};

function serve() {
  const server = http.createServer((request, response) => {
    onRequest(request, response);
    response.end(JSON.stringify(identity(request.url)));
  });
  server.listen(process.env.PORT || 0);
}

const modes = {
  // Before it listens:
  throw() {
    throw new Error('crash.js was told to throw');
  },
  exit() {
    console.error('crash.js exits with %s', argument);
    process.exit(Number(argument));
  },
  abort: () => process.abort(),
  signal: () => process.kill(process.pid, argument),
  'never-listen': () => setInterval(() => {}, 1 << 30),
  // A bad build while the file exists, a good one without it.
  'throw-if'() {
    if (fs.existsSync(argument)) throw new Error(`crash.js found ${argument}`);
    serve();
  },
  // After it listens:
  'throw-on-request'() {
    onRequest = () => {
      throw new Error('crash.js was told to throw at a request');
    };
    serve();
  },
  'exit-on-request'() {
    onRequest = () => process.exit(Number(argument));
    serve();
  },
  'block-on-request'() {
    onRequest = () => {
      for (;;);
    };
    serve();
  },
  'ignore-sigterm'() {
    process.on('SIGTERM', () => console.log('SIGTERM ignored'));
    setInterval(() => {}, 1 << 30);
    serve();
  },
  // A grandchild (for ten minutes) in a session of its own, which no signal to the worker's group reaches.
  grandchild() {
    const { pid } = spawn('sleep', ['600'], { detached: true, stdio: 'ignore' });
    console.log('grandchild %d', pid);
    serve();
  },
};

modes[mode]();
