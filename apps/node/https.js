'use strict';
// A TLS server. Session tickets are shared by the workers, so a client can resume at any of them.
const fs = require('node:fs');
const https = require('node:https');
const path = require('node:path');
const identity = require('./identity.cjs');

const read = (name) => fs.readFileSync(path.join(__dirname, 'tls', name));
const server = https.createServer({ key: read('key.pem'), cert: read('cert.pem') }, (request, response) => {
  response.end(JSON.stringify(identity(request.url)));
});
server.listen(process.env.PORT || 0);
