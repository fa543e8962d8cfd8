'use strict';
// Clients of a Socket.IO server: PORT KIND COUNT [BYTES]. KIND says how each of them reaches it:
//   polling    long polling, each request on a connection of its own, from another address: the hardest
//   upgrade    the same, and then a WebSocket
//   websocket  a WebSocket from the beginning
//   proxied    long polling through a proxy, which has one address and says for whom it speaks
//   pool       long polling, all clients over one pool of connections that stay open, as the tabs of a browser have it
// Every client echoes BYTES random bytes, and then goes on echoing numbers. What happens is printed as JSON lines: connected,
// echoed (the first of every ten numbers), disconnected, refused, failed.
const crypto = require('node:crypto');
const http = require('node:http');
const { io } = require('socket.io-client');

const [port, kind, count, bytes = 1000] = process.argv.slice(2);
const TRANSPORTS = { upgrade: ['polling', 'websocket'], websocket: ['websocket'] };

/** A new connection for every request, each from another address of this machine. */
class Wanderer extends http.Agent {
  createConnection(options, done) {
    return super.createConnection({ ...options, localAddress: `127.1.${crypto.randomInt(256)}.${crypto.randomInt(1, 255)}` }, done);
  }
}

const AGENTS = {
  polling: new Wanderer(),
  upgrade: new Wanderer(),
  websocket: new Wanderer(),
  proxied: new http.Agent(),
  // As browsers have it for each origin.
  pool: new http.Agent({ keepAlive: true, maxSockets: 6 }),
};

function start(client) {
  const say = (event, fields) => console.log(JSON.stringify({ client, event, ...fields }));
  const socket = io(`http://127.0.0.1:${port}`, {
    agent: AGENTS[kind],
    extraHeaders: kind === 'proxied' ? { 'X-Forwarded-For': '198.51.100.7' } : {},
    forceNew: true,
    reconnectionDelay: 20,
    reconnectionDelayMax: 200,
    transports: TRANSPORTS[kind] ?? ['polling'],
  });
  let number = 0;
  let life = 0;
  socket.on('who', async (who) => {
    const current = (life += 1);
    const name = () => socket.io.engine.transport.name;
    if (kind === 'upgrade' && name() !== 'websocket') {
      await new Promise((done) => socket.io.engine.once('upgrade', done));
    }
    say('connected', { ...who, transport: name() });
    try {
      const data = crypto.randomBytes(Number(bytes));
      const back = await socket.timeout(60000).emitWithAck('echo', data);
      if (!data.equals(back)) say('failed', { message: `${back.length} other bytes came back` });
      while (current === life) {
        if ((await socket.timeout(60000).emitWithAck('echo', (number += 1))) !== number) say('failed', { message: 'wrong number' });
        if (number % 10 === 1) say('echoed', { number, pid: who.pid });
        // Others need the machine, too.
        await new Promise((done) => setTimeout(done, 30));
      }
    } catch (error) {
      // What was on its way when the connection ended has no answer.
      if (current === life && socket.connected) say('failed', { message: error.message });
    }
  });
  socket.on('disconnect', (reason, details) => {
    life += 1;
    say('disconnected', { reason, status: details?.description });
  });
  socket.io.on('error', (error) => say('refused', { message: error.message, status: error.description, answer: error.context?.responseText }));
}

for (let client = 0; client < Number(count); client += 1) start(client);
