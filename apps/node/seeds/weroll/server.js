'use strict';
// The weroll web application, reduced to Node's own server.
const http = require('http');
const identity = require('../../identity.cjs');

http.createServer((request, response) => response.end(JSON.stringify(identity(request.url)))).listen(process.env.PORT || 0);
