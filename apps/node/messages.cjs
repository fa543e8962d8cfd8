'use strict';
// Messages both ways: greets with JSON values of every kind, then sends every message back as it came.
// `messages.cjs BYTES` greets with one message of that size more.
const http = require('node:http');
const identity = require('./identity.cjs');

const values = {
  string: 'worksong – ☃ – \u{1F3B5} – "quoted"\n\u0000',
  empty: '',
  number: -1.5e-7,
  integer: Number.MAX_SAFE_INTEGER,
  yes: true,
  no: false,
  nothing: null,
  list: [1, 'two', [3, []], null],
  object: { cmd: 'node_not_internal', nested: { deep: {} } },
};

process.on('message', (message) => process.send(message));
process.send({ greeting: 'hello', pid: process.pid, values });
for (const value of Object.values(values)) process.send(value);
if (process.argv[2]) process.send('x'.repeat(Number(process.argv[2])));
http.createServer((request, response) => response.end(JSON.stringify(identity(request.url)))).listen(process.env.PORT || 0);
