'use strict';
// Answers who it is; `/wait` when the file `$RELEASE` exists, after it has said that the request has come.
const { existsSync } = require('node:fs');
require('node:http').createServer((request, response) => {
  const answer = () => {
    if (request.url === '/wait' && !existsSync(process.env.RELEASE)) return setTimeout(answer, 10);
    response.end(String(process.pid));
  };
  if (request.url === '/wait') console.log('waiting');
  answer();
}).listen(0);
