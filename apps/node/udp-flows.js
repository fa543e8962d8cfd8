'use strict';
// Answers each datagram by its slot and process.
const dgram = require('node:dgram');

const socket = dgram.createSocket('udp4');
const name = `${process.env.WORKSONG_SLOT} ${process.pid}`;
socket.on('message', (_, from) => socket.send(name, from.port, from.address));
socket.bind(Number(process.argv[2]), '127.0.0.1');
