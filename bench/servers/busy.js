// The worker that can be blocked, from outside and by requests:
//   SIGUSR2, SIGHUP     blocks its thread for 200 ms, for 2 s
//   GET /busy/MS        computes for so long, then answers
//   GET /wait/MS        answers after so long, and does other things meanwhile
//   POST /upload        answers with the SHA-256 of what it got
//   GET /anything else  answers at once, as hello.js
'use strict';

const { createHash } = require('node:crypto');
const { createServer } = require('node:http');

const body = `hello ${process.pid}\n`;

// Without using the processor: what is measured is who waits for the worker, not who shares a core with it.
const block = (milliseconds) => {
  Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, milliseconds);
};

const compute = (milliseconds) => {
  const end = process.hrtime.bigint() + BigInt(milliseconds) * 1_000_000n;
  while (process.hrtime.bigint() < end);
};

process.on('SIGUSR2', () => block(200));
process.on('SIGHUP', () => block(2000));

createServer((request, response) => {
  const [, kind, milliseconds] = request.url.split(/[/?]/);
  switch (kind) {
    case 'busy':
      compute(Number(milliseconds));
      response.end(body);
      break;
    case 'wait':
      setTimeout(() => response.end(body), Number(milliseconds));
      break;
    case 'upload': {
      const hash = createHash('sha256');
      request.on('data', (bytes) => hash.update(bytes));
      request.on('end', () => response.end(hash.digest('hex')));
      break;
    }
    default:
      response.end(body);
  }
}).listen(0, '127.0.0.1');
