'use strict';
// A primary with Node's cluster and the rolling restart that people write by hand: WORKERS DEADLINE PROGRAM. SIGUSR2
// replaces one worker after the other: fork, wait until it is ready, disconnect the old one, kill it at the deadline.
const cluster = require('node:cluster');

const [count, deadline, exec] = process.argv.slice(2);
cluster.setupPrimary({ exec });

function fork() {
  const worker = cluster.fork();
  worker.on('exit', () => {
    if (!worker.exitedAfterDisconnect) fork();
  });
  return worker;
}

function ready(worker) {
  return new Promise((resolve) => worker.on('message', (message) => message.cmd === 'ready' && resolve()));
}

async function reload() {
  for (const old of Object.values(cluster.workers)) {
    if (!old.isConnected() || old.exitedAfterDisconnect) continue;
    await ready(fork());
    old.disconnect();
    const timer = setTimeout(() => old.process.kill(), Number(deadline) * 1000);
    old.on('exit', () => clearTimeout(timer));
  }
  console.log('reloaded');
}

for (let number = 0; number < Number(count); number++) fork();
process.on('SIGUSR2', reload);
