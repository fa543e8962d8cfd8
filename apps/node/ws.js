'use strict';
// A WebSocket echo server; its first message says who it is.
const { WebSocketServer } = require('ws');
const identity = require('./identity.cjs');

const server = new WebSocketServer({ port: Number(process.env.PORT || 0) });
server.on('connection', (socket, request) => {
  socket.on('message', (data, isBinary) => socket.send(data, { binary: isBinary }));
  socket.send(JSON.stringify(identity(request.url)));
});
process.on('worksong:drain', () => {
  for (const client of server.clients) client.close(1001, 'a new worker is here');
});
