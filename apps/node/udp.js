'use strict';
// A UDP server (`udp.js [udp4|udp6]`): answers each datagram with who it is and what it got.
const dgram = require('node:dgram');

const socket = dgram.createSocket(process.argv[2] || 'udp4');
socket.on('message', (data, from) => {
  socket.send(JSON.stringify({ pid: process.pid, text: data.toString() }), from.port, from.address);
});
socket.bind(Number(process.env.PORT || 0), process.env.HOST);
