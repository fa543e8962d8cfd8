'use strict';
const express = require('../node/node_modules/express');

const app = express();
app.get('/', (request, response) => {
  setTimeout(() => response.send(String(process.pid)), Number(request.query.ms ?? 0));
});
app.listen(Number(process.env.PORT), '127.0.0.1');
