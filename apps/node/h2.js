'use strict';
// HTTP/2 without TLS; the answer says who gave it.
require('node:http2').createServer((request, response) => response.end(String(process.pid))).listen(0);
