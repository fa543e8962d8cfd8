'use strict';
// A primary with recluster, as its README shows it: WORKERS DEADLINE PROGRAM. SIGUSR2 reloads.
const recluster = require('recluster');

const [workers, deadline, program] = process.argv.slice(2);
const cluster = recluster(program, {
  workers: Number(workers),
  timeout: Number(deadline),
  readyWhen: 'ready',
  log: { respawns: false },
});
cluster.run();
process.on('SIGUSR2', () => cluster.reload(() => console.log('reloaded')));
