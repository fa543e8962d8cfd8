// Two servers; each answers a connection by its own number.
'use strict';
const net = require('node:net');
for (const port of [1, 2]) net.createServer((socket) => socket.end(String(port))).listen(port);
