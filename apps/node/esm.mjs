// An ECMAScript module with a top-level await.
import { once } from 'node:events';
import http from 'node:http';
import identity from './identity.cjs';

const server = http.createServer((request, response) => response.end(JSON.stringify(identity(request.url))));
server.listen(process.env.PORT || 0);
await once(server, 'listening');
