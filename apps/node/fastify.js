'use strict';
// A Fastify application; it resolves and listens by host name, on each address of it.
const fastify = require('fastify')();
const identity = require('./identity.cjs');

fastify.get('/*', async (request) => identity(request.url));
fastify.listen({ port: Number(process.env.PORT || 0), host: process.env.HOST || '127.0.0.1' });
