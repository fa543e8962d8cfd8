// The Node primary whose traffic record.py records, as its worker: `node primary.js RECORDER FILE POLICY`.
'use strict';
const cluster = require('node:cluster');
const net = require('node:net');

const [recorder, file, policy] = process.argv.slice(2);
cluster.schedulingPolicy = policy === 'none' ? cluster.SCHED_NONE : cluster.SCHED_RR;
process.execPath = recorder;
cluster.setupPrimary({ exec: 'as-worker', execArgv: [], args: [file] });

const worker = cluster.fork();
// The recorder says what it wants to be sent.
worker.on('message', (wish) => {
  if (wish === 'user') {
    for (const value of ['text é', 1.5, true, null, [1], { cmd: 'NODE_' }, { a: 1 }]) worker.send(value);
  } else if (wish === 'socket') {
    const server = net.createServer({ pauseOnConnect: true }, (socket) => worker.send({ a: 'socket' }, socket));
    server.listen(0, '127.0.0.1', () => net.connect(server.address().port, '127.0.0.1').on('error', () => {}));
    worker.on('disconnect', () => server.close());
  } else if (wish === 'disconnect') {
    worker.disconnect();
  }
});
worker.on('exit', () => process.exit(0));
