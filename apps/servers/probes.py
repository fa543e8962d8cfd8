"""Looks first whether its port is free, as development servers do: binds it, closes it, and binds it again."""

import os
import runpy
import socket

with socket.socket() as probe:
    probe.bind(("127.0.0.1", int(os.environ["PORT"])))
    probe.listen()
with socket.socket() as probe:
    probe.bind(("127.0.0.1", int(os.environ["PORT"])))
runpy.run_path(os.path.join(os.path.dirname(__file__), "http_server.py"))
