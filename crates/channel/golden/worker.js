// The Node worker whose traffic record.py records: `node worker.js SCENARIO`.
'use strict';
const cluster = require('node:cluster');
const dgram = require('node:dgram');
const net = require('node:net');
const tls = require('node:tls');

const leave = () => cluster.worker.disconnect();

function listen(...form) {
  const server = net.createServer();
  server.on('error', leave);
  server.listen(...form, () => server.close(leave));
}

function bind(type, ...form) {
  const socket = dgram.createSocket(type);
  socket.on('error', leave);
  socket.bind(...form, () => socket.close(leave));
}

const scenarios = {
  'tcp-port': () => listen(8101),
  'tcp-any-port': () => listen(0),
  'tcp-backlog': () => listen({ port: 8101, backlog: 77 }),
  'tcp-host': () => listen(8101, '127.0.0.1'),
  'tcp-host6': () => listen(8101, '::1'),
  'tcp-ipv6only': () => listen({ port: 8101, host: '::', ipv6Only: true }),
  'tcp-ipv6only-no-host': () => listen({ port: 8101, ipv6Only: true }),
  'tcp-string-port': () => listen({ port: '8101' }),
  'path': () => listen('/tmp/golden.sock'),
  'path-all': () => listen({ path: '/tmp/golden.sock', readableAll: true, writableAll: true }),
  'path-abstract': () => listen('\0golden'),
  'descriptor': () => listen({ fd: 7 }),
  'tls': () => {
    const server = tls.createServer({ ticketKeys: Buffer.alloc(48) });
    server.listen(8101, () => server.close(leave));
  },
  'udp4': () => bind('udp4', 8105),
  'udp6': () => bind('udp6', 8105),
  'udp-any-port': () => bind('udp4'),
  'udp-string-port': () => bind('udp4', '8105'),
  'udp-reuse': () => bind({ type: 'udp4', reuseAddr: true }, 8105),
  'udp-ipv6only': () => bind({ type: 'udp6', ipv6Only: true }, 8105),
  'udp-descriptor': () => bind('udp4', { fd: 7 }),
  'three-servers': () => {
    // The first is closed before the third opens, yet the third has index 2.
    const servers = [0, 1, 2].map(() => net.createServer());
    servers[0].listen(0, () => servers[1].listen(0, () => {
      servers[0].close();
      servers[2].listen(0, () => { servers[1].close(); servers[2].close(leave); });
    }));
  },
  'connection': () => {
    const server = net.createServer((socket) => {
      socket.destroy();
      server.close(() => process.send('closed'));
    });
    server.listen(8101);
    process.on('message', leave);
  },
  'disconnected': () => net.createServer().listen(8101),
  'user': () => {
    process.send({ cmd: 'NODE_' });
    process.send({ cmd: 'node_x', act: 'online' });
    process.send({ cmd: 7 });
    process.send({ cmd: 'NODE_SOMETHING', value: 1 });
    for (const value of ['text é 日本 \u{1f600}', '\ud800', 1.5, true, false, null, [1, [2]], { a: { b: null } }]) process.send(value);
    leave();
  },
  'handles': () => {
    // One accepted socket (it has a list key), one server, one datagram socket, sent to the primary.
    const server = net.createServer({ pauseOnConnect: true });
    server.listen({ port: 0, host: '127.0.0.1', exclusive: true }, () => {
      net.connect(server.address().port, '127.0.0.1').on('error', () => {});
    });
    server.on('connection', (socket) => {
      process.send('socket', socket, () => server.getConnections(() => {
        process.send('server', server, () => {
          const datagram = dgram.createSocket('udp4');
          datagram.bind({ port: 0, address: '127.0.0.1', exclusive: true }, () => {
            process.send('datagram', datagram, () => {
              datagram.close();
              server.close(leave);
            });
          });
        });
      }));
    });
  },
};

scenarios[process.argv[2]]();
