'use strict';
// Serves HTTP; after its answer to `/go` it misuses the channel in the way that argv[2] names.
const fs = require('node:fs');
const http = require('node:http');
const identity = require('./identity.js');

const raw = (bytes) => fs.writeSync(process.channel.fd, bytes);

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
  'unknown-act': () => raw('{"cmd":"NODE_CLUSTER","act":"dance","seq":900}\n'),
  'unowed-ack': () => raw('{"cmd":"NODE_HANDLE_ACK"}\n'),
};

const server = http.createServer((request, response) => {
  if (request.url === '/go') response.on('close', () => modes[process.argv[2]]());
  response.end(JSON.stringify(identity(request.url)));
});
server.listen(process.env.PORT || 0);
