import http from 'node:http';

const server = http.createServer((request, response) => {
  const milliseconds = Number(new URL(request.url, 'http://localhost').searchParams.get('ms'));
  setTimeout(() => response.end(String(process.pid)), milliseconds);
});
server.listen(process.env.SOCKET);
process.on('SIGTERM', () => server.close());
