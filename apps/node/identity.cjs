'use strict';
// What every fixture server answers: who served the request. Deno reads a `.js` file as a module, so it is a `.cjs`.
const cluster = require('node:cluster');

module.exports = (url) => ({
  pid: process.pid,
  worker: cluster.worker?.id ?? null,
  isWorker: cluster.isWorker,
  slot: process.env.WORKSONG_SLOT ?? null,
  runtime: process.version,
  url,
});
