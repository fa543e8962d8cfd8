// The worker of every Node row: the smallest HTTP server whose answer says which process gave it.
'use strict';

const body = `hello ${process.pid}\n`;

require('node:http')
  .createServer((request, response) => response.end(body))
  .listen(0, '127.0.0.1');
