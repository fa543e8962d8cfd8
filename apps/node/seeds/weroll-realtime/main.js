'use strict';
// weroll's Realtime, reduced: a WebSocket server on a port of its own per process, base + instance.
const { WebSocketServer } = require('ws');
const identity = require('../../identity.cjs');

const base = Number(process.env.PORT || 0);
const port = base && base + Number(process.env.NODE_APP_INSTANCE ?? 0);
new WebSocketServer({ port }).on('connection', (socket, request) => socket.send(JSON.stringify(identity(request.url))));
