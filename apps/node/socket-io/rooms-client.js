'use strict';
// Clients in one room of a Socket.IO server whose workers know of each other: PORT COUNT MESSAGES WORKERS. Every other one uses long
// polling. When all have joined, each says so many messages to the room. What came of it is printed as one JSON line.
const http = require('node:http');
const { io } = require('socket.io-client');

const [port, count, messages, workers] = process.argv.slice(2).map(Number);

function connect(client) {
  const socket = io(`http://127.0.0.1:${port}`, {
    agent: new http.Agent(),
    extraHeaders: { 'X-Forwarded-For': '198.51.100.7' },
    forceNew: true,
    reconnection: false,
    transports: client % 2 === 0 ? ['polling'] : ['websocket'],
  });
  const problem = (reason) => { throw new Error(`client ${client}: ${reason}`); };
  socket.on('connect_error', (error) => problem(error.message));
  socket.on('disconnect', problem);
  return new Promise((done) => socket.on('who', ({ slot, pid }) => done({ client, socket, slot, pid, heard: [] })));
}

const all = (members, action) => Promise.all(members.map(action));

(async () => {
  const members = await all([...Array(count).keys()], connect);
  // Workers hear of each other a moment after they are there.
  for (let others = []; others.length < workers - 1;) others = await members[0].socket.emitWithAck('servers');
  await all(members, ({ socket }) => socket.emitWithAck('join', 'room'));
  const expected = members.length * messages;
  const hearing = all(members, (member) => new Promise((done) => {
    member.socket.on('told', (text) => { if (member.heard.push(text) === expected) done(); });
  }));
  for (const { client, socket } of members) {
    for (let number = 0; number < messages; number += 1) socket.emit('tell', 'room', `${client}-${number}`);
  }
  await hearing;
  for (const { client, socket } of members) socket.on('question', (answer) => answer(client));
  // Whoever is told it has heard everything that was said before.
  const { socket } = members[0];
  const answers = await socket.emitWithAck('poll', 'room');
  console.log(JSON.stringify({
    slots: [...new Set(members.map(({ slot }) => slot))].sort(),
    once: members.every(({ heard }) => heard.length === expected && new Set(heard).size === expected),
    inRoom: await socket.emitWithAck('count', 'room'),
    answers: answers.sort((a, b) => a - b),
    servers: (await socket.emitWithAck('servers')).length,
  }));
  process.exit(0);
})().catch((error) => { console.log(JSON.stringify({ error: error.message })); process.exit(1); });
