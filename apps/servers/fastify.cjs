'use strict';
const fastify = require('../node/node_modules/fastify')();

fastify.get('/', async (request) => {
  await new Promise((resolve) => setTimeout(resolve, Number(request.query.ms ?? 0)));
  return String(process.pid);
});
fastify.listen({ port: Number(process.env.PORT), host: '127.0.0.1' });
