// Node's own cluster around a script: `NODE_CLUSTER_SCHED_POLICY=rr|none node cluster.js WORKERS SCRIPT`.
// It writes the same event lines as `worksong run --json`, to stdout.
'use strict';

const cluster = require('node:cluster');

const say = (event) => process.stdout.write(`${JSON.stringify(event)}\n`);

cluster.setupPrimary({ exec: process.argv[3] });
cluster.on('fork', (worker) => say({ event: 'forked', pid: worker.process.pid }));
cluster.on('listening', (worker, { port }) => say({ event: 'listening', pid: worker.process.pid, port }));
cluster.on('exit', (worker, code) => say({ event: 'exit', pid: worker.process.pid, code }));

for (let started = 0; started < Number(process.argv[2]); started += 1) cluster.fork();
