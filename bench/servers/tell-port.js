// Preloaded into a server that nobody asks where it listens: it tells the process that forked it.
'use strict';

const { Server } = require('node:net');

const { listen } = Server.prototype;
Server.prototype.listen = function tell(...where) {
  this.once('listening', () => process.send({ port: this.address().port }));
  return listen.apply(this, where);
};
