'use strict';
// Answers who it is, and records in $CHAOS_FOLDER/<worker> how far each connection came into it, so that it is known
// after its death. The records are system calls, not buffers: they survive SIGKILL. A connection is called by the
// address that its client connected to, which no other client of the run uses.
const cluster = require('node:cluster');
const fs = require('node:fs');
const http = require('node:http');
const path = require('node:path');

const record = fs.openSync(path.join(process.env.CHAOS_FOLDER, String(cluster.worker.id)), 'a');
const local = {};
const note = (what) => fs.writeSync(record, `${what} ${local.address}\n`);

// Before Node's own cluster code sees the connection.
process.prependListener('internalMessage', (message, handle) => {
  if (message.act !== 'newconn' || !handle) return;
  handle.getsockname(local);
  note('received');
});

// Around the system call that tells the primary, which is the moment from which the connection is this worker's.
const { send } = process;
process.send = function (message, ...rest) {
  if (message?.cmd !== 'NODE_CLUSTER' || message.accepted !== true) return send.call(this, message, ...rest);
  note('accepting');
  const sent = send.call(this, message, ...rest);
  note('accepted');
  return sent;
};

const server = http.createServer((request, response) => response.end(`worker ${cluster.worker.id}`));
server.listen(0);
