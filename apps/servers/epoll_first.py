"""Asks an epoll instance about its socket before it binds it, as Boost.Asio does, and waits for nothing else."""

import os
import runpy
import select
import socketserver

bind = socketserver.TCPServer.server_bind


def ask_and_bind(server):
    server.epoll = select.epoll()
    server.epoll.register(server.fileno(), select.EPOLLIN | select.EPOLLET)
    server.socket.setblocking(False)
    bind(server)


def serve(server):
    while True:
        server.epoll.poll()
        try:
            while True:
                server.process_request(*server.get_request())
        except BlockingIOError:
            pass


socketserver.TCPServer.server_bind = ask_and_bind
socketserver.BaseServer.serve_forever = serve
runpy.run_path(os.path.join(os.path.dirname(__file__), "http_server.py"))
