"""Listens on one port of IPv4 and IPv6, and on a second port, as three sockets."""

import os
import socket
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Answer(BaseHTTPRequestHandler):
    def do_GET(self):
        body = str(os.getpid()).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


class Version6(ThreadingHTTPServer):
    address_family = socket.AF_INET6

    def server_bind(self):
        self.socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        super().server_bind()


port, other = int(os.environ["PORT"]), int(os.environ["OTHER_PORT"])
servers = [
    ThreadingHTTPServer(("127.0.0.1", port), Answer),
    Version6(("::1", port), Answer),
    ThreadingHTTPServer(("127.0.0.1", other), Answer),
]
for server in servers[1:]:
    threading.Thread(target=server.serve_forever, daemon=True).start()
servers[0].serve_forever()
