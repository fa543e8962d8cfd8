'use strict';
// A CommonJS module by its extension.
const http = require('node:http');
const identity = require('./identity.cjs');

http.createServer((request, response) => response.end(JSON.stringify(identity(request.url)))).listen(process.env.PORT || 0);
