'use strict';
// Serves HTTP; after its answer to `/go` it misuses the channel in the way that argv[2] names.
const fs = require('node:fs');
const http = require('node:http');
const identity = require('./identity.cjs');

const raw = (bytes) => fs.writeSync(process.channel.fd, bytes);

// Sends the same message without end and never reads; as soon as the primary reads no more, it waits.
const repeat = (message) => {
  const lines = Buffer.from(`${message}\n`.repeat(Math.ceil(4096 / message.length)));
  for (let sent = 0; ; ) {
    try {
      sent = (sent + fs.writeSync(process.channel.fd, lines, sent)) % lines.length;
    } catch (error) {
      if (error.code !== 'EAGAIN') throw error;
    }
  }
};

const modes = {
  // Messages without end, each sent when the one before it was written.
  send: () => process.send({ flood: 'x'.repeat(1000) }, modes.send),
  // Never reads: its event loop stands still.
  block() {
    for (;;);
  },
  garbage: () => raw('this is not JSON\n'),
  blank: () => raw('\n\n\n'),
  binary: () => raw(Buffer.from([0xff, 0xfe, 0x00, 0x0a])),
  half: () => raw('{"cmd":"NODE_CLUSTER","act":"queryS'),
  // A line that never ends.
  endless() {
    for (;;) {
      try {
        raw(Buffer.alloc(1 << 16, 'x'));
      } catch (error) {
        if (error.code !== 'EAGAIN') throw error;
      }
    }
  },
  chatter: () => repeat('"hello"'),
  // Each is answered, and no answer is read.
  questions: () => repeat(`{"cmd":"NODE_SOCKET_GET_COUNT","key":"${'k'.repeat(4000)}"}`),
  'unknown-act': () => raw('{"cmd":"NODE_CLUSTER","act":"dance","seq":900}\n'),
  'unowed-ack': () => raw('{"cmd":"NODE_HANDLE_ACK"}\n'),
};

const server = http.createServer((request, response) => {
  if (request.url === '/go') response.on('close', () => modes[process.argv[2]]());
  response.end(JSON.stringify(identity(request.url)));
});
server.listen(process.env.PORT || 0);
