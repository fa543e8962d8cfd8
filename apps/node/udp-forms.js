'use strict';
// Binds every UDP socket that argv[2] lists as JSON and sends the parent what became of each, as listen-forms.js does.
// An entry is {type, bind, …}: what `dgram.createSocket` takes, and in `bind` what `socket.bind` takes.
// Each socket answers datagrams with {pid, index, text}. SIGUSR2 closes all sockets.
const dgram = require('node:dgram');

const sockets = JSON.parse(process.argv[2]).map(({ bind, ...options }, index) => {
  const socket = dgram.createSocket(options);
  socket.on('error', ({ code, errno, syscall, address, port }) => {
    process.send({ index, error: code, errno, syscall, address, port });
  });
  socket.on('listening', () => process.send({ index, listening: socket.address() }));
  socket.on('message', (data, from) => {
    socket.send(JSON.stringify({ pid: process.pid, index, text: data.toString() }), from.port, from.address);
  });
  return socket.bind(bind);
});
process.on('SIGUSR2', () => sockets.forEach((socket) => socket.close()));
