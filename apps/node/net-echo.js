'use strict';
// A raw TCP server: one line that says who it is, then an echo. Half-open, so the last bytes come back after EOF.
const net = require('node:net');

const server = net.createServer({ allowHalfOpen: true }, (socket) => {
  socket.on('error', () => socket.destroy());
  socket.write(`${process.pid}\n`);
  socket.pipe(socket);
});
server.listen(process.env.PORT || 0);
