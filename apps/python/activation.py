"""Python's own http.server on the sockets that it inherits (LISTEN_FDS); ends on SIGTERM after its requests."""

import http.server
import json
import os
import signal
import socket
import threading


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        body = json.dumps({"pid": os.getpid(), "url": self.path, "slot": os.environ.get("WORKSONG_SLOT")}).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


if os.environ.get("LISTEN_PID") != str(os.getpid()):
    raise SystemExit("activation.py: LISTEN_PID is not this process: start it with inherited sockets")

server = http.server.ThreadingHTTPServer(("", 0), Handler, bind_and_activate=False)
server.daemon_threads = False
server.socket.close()
server.socket = socket.socket(fileno=3)
server.socket.setblocking(False)  # several workers wait on this socket; only one of them gets each connection

# Started now: a thread that the handler starts would wait for a lock of `threading` that the code below it may hold.
told = threading.Event()
threading.Thread(target=lambda: told.wait() and server.shutdown(), daemon=True).start()
signal.signal(signal.SIGTERM, lambda *_: told.set())
server.serve_forever(poll_interval=0.05)
server.server_close()
