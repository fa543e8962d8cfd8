// Only erasable types: Node runs it by itself where it strips types (22.18 and newer).
import http from 'node:http';
import type { IncomingMessage, ServerResponse } from 'node:http';
import identity from './identity.cjs';

interface Answer {
  pid: number;
  worker: number | null;
}

function answer(request: IncomingMessage, response: ServerResponse): void {
  const body: Answer = identity(request.url);
  response.end(JSON.stringify(body));
}

http.createServer(answer).listen(process.env.PORT || 0);
