'use strict';
// Node's own cluster primary: COUNT PROGRAM [ARGS…]. It reports as `worksong run --json` does, so that tests and
// benchmarks can hold one against the other: events on stderr, the workers' lines on stdout.
const cluster = require('node:cluster');
const fs = require('node:fs');
const readline = require('node:readline');

const [count, exec, ...args] = process.argv.slice(2);
const app = 'reference';
let seq = 0;
let stopping = false;

cluster.setupPrimary({ exec, args, silent: true });

function start(slot) {
  const worker = cluster.fork({ WORKSONG_APP: app, WORKSONG_SLOT: slot, NODE_APP_INSTANCE: slot });
  const emit = (event, fields) => {
    const about = { worker: worker.id, slot, generation: 1, pid: worker.process.pid };
    fs.writeSync(2, `${JSON.stringify({ seq: ++seq, at_ms: Date.now(), app, event, ...about, ...fields })}\n`);
  };
  emit('forked');
  for (const stream of ['stdout', 'stderr']) {
    readline.createInterface({ input: worker.process[stream] }).on('line', (line) => {
      fs.writeSync(1, `${JSON.stringify({ app, slot, stream, line })}\n`);
    });
  }
  worker.once('listening', () => emit('ready', { after_ms: 0 }));
  worker.on('online', () => emit('online'));
  worker.on('listening', ({ address, port }) => {
    emit('listening', { address: `${address}:${port}`, port: port > 0 ? port : undefined });
  });
  worker.on('message', (body) => emit('message', { body }));
  worker.on('disconnect', () => emit('disconnect'));
  worker.process.on('exit', (code, signal) => {
    const voluntary = worker.exitedAfterDisconnect === true;
    emit('exit', { code: code ?? undefined, signal: signal ?? undefined, voluntary });
    if (!stopping) start(slot);
  });
}

for (let slot = 0; slot < Number(count); slot++) start(slot);

for (const signal of ['SIGTERM', 'SIGINT']) {
  process.on(signal, () => {
    stopping = true;
    cluster.disconnect(() => process.exit(0));
  });
}
