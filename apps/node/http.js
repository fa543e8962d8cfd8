'use strict';
// The plainest server: answers who it is. `/slow?ms=N` answers after N ms, `/big?bytes=N` with that many bytes.
const http = require('node:http');
const identity = require('./identity.cjs');

const server = http.createServer((request, response) => {
  const url = new URL(request.url, 'http://fixture');
  const answer = () => {
    response.setHeader('content-type', 'application/json');
    response.end(JSON.stringify(identity(request.url)));
  };
  if (url.pathname === '/slow') setTimeout(answer, Number(url.searchParams.get('ms')));
  else if (url.pathname === '/big') response.end(Buffer.alloc(Number(url.searchParams.get('bytes')), 'x'));
  else answer();
});
server.listen(process.env.PORT || 0, process.env.HOST);
