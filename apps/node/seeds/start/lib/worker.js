'use strict';
// The article's worker serves an Express application; here it is reduced to Node's own server.
const { once } = require('events');
const http = require('http');
const identity = require('../../../identity.cjs');

module.exports = class WorkerNode {
  async start() {
    const server = http.createServer((request, response) => response.end(JSON.stringify(identity(request.url))));
    server.listen(process.env.PORT || 0);
    await once(server, 'listening');
  }
};
