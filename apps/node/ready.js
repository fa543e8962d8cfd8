'use strict';
// Listens at once, says `almost`, and says `ready` only when it gets SIGUSR2.
const http = require('node:http');
const identity = require('./identity.cjs');

process.once('SIGUSR2', () => process.send('ready'));
const server = http.createServer((request, response) => response.end(JSON.stringify(identity(request.url))));
server.listen(process.env.PORT || 0, () => process.send('almost'));
