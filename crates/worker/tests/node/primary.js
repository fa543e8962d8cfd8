'use strict';
// A Node primary of native workers: POLICY COUNT BINARY. Events go out as JSON lines; commands come in as JSON lines.
const cluster = require('node:cluster');
const fs = require('node:fs');
const readline = require('node:readline');

const [policy, count, binary] = process.argv.slice(2);
cluster.schedulingPolicy = policy === 'rr' ? cluster.SCHED_RR : cluster.SCHED_NONE;
process.execPath = binary;
cluster.setupPrimary({ exec: '127.0.0.1:0', execArgv: [], stdio: ['ignore', 'ignore', 'inherit', 'ipc'] });

const tell = (event, worker, more) => {
  fs.writeSync(1, `${JSON.stringify({ event, id: worker.id, pid: worker.process.pid, ...more })}\n`);
};

function start() {
  const worker = cluster.fork();
  worker.on('online', () => tell('online', worker));
  worker.on('listening', ({ port, addressType }) => tell('listening', worker, { port, addressType }));
  worker.on('message', (body) => tell('message', worker, { body }));
  worker.on('disconnect', () => tell('disconnect', worker));
  worker.on('exit', (code, signal) => {
    tell('exit', worker, { code, signal, voluntary: worker.exitedAfterDisconnect });
  });
}

for (let i = 0; i < Number(count); i++) start();

readline.createInterface({ input: process.stdin }).on('line', (line) => {
  const { to, disconnect, message } = JSON.parse(line);
  if (disconnect) cluster.workers[to].disconnect();
  else cluster.workers[to].send(message);
});
