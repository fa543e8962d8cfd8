'use strict';
// A Socket.IO server for whatever loaded the package. Each client hears who it is with, and may ask for what the handlers
// below do. With the argument `rooms` the workers know of each other by @socket.io/cluster-adapter.
const http = require('node:http');

module.exports = function serve(Server) {
  const options = { maxHttpBufferSize: 1e8 };
  if (process.argv[2] === 'rooms') options.adapter = require('@socket.io/cluster-adapter').createAdapter();
  const server = http.createServer((request, response) => response.end('a page\n'));
  const io = new Server(server, options);
  if (process.argv[2] === 'own-ids') {
    let count = 0;
    io.engine.generateId = async () => `own-${process.pid}-${(count += 1)}`;
  }
  io.on('connection', (socket) => {
    socket.emit('who', { pid: process.pid, slot: Number(process.env.WORKSONG_SLOT), sid: socket.conn.id });
    socket.on('echo', (data, answer) => answer(data));
    socket.on('join', async (room, answer) => {
      await socket.join(room);
      answer();
    });
    socket.on('tell', (room, text) => io.to(room).emit('told', text));
    socket.on('count', async (room, answer) => answer((await io.in(room).fetchSockets()).length));
    socket.on('poll', async (room, answer) => answer(await io.in(room).timeout(20000).emitWithAck('question')));
    socket.on('servers', async (answer) => answer(await io.serverSideEmitWithAck('pid')));
  });
  io.on('pid', (answer) => answer(process.pid));
  server.listen(0);
};
