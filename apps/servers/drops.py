"""Becomes another user once it is bound, as servers do that root starts for a port below 1024."""

import http.server
import os


class Dropping(http.server.ThreadingHTTPServer):
    def server_activate(self):
        if os.getuid() == 0:
            os.setgroups([])
            os.setgid(65534)
            os.setuid(65534)
        super().server_activate()


class Answer(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        body = f"{os.getpid()} as {os.getuid()}".encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


Dropping(("127.0.0.1", int(os.environ["PORT"])), Answer).serve_forever()
