import http from 'node:http';

const server = http.createServer((request, response) => {
  const milliseconds = Number(new URL(request.url, 'http://localhost').searchParams.get('ms'));
  setTimeout(() => response.end(String(process.pid)), milliseconds);
});
server.listen(Number(process.env.PORT), '127.0.0.1');
