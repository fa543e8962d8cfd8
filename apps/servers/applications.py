"""The same answer as a WSGI and as an ASGI application."""

import asyncio
import os
import time
from urllib.parse import parse_qs


def pause(query):
    return int(parse_qs(query).get("ms", ["0"])[0]) / 1000


def wsgi(environ, start_response):
    time.sleep(pause(environ["QUERY_STRING"]))
    body = str(os.getpid()).encode()
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", str(len(body)))])
    return [body]


async def asgi(scope, receive, send):
    if scope["type"] != "http":
        return
    await asyncio.sleep(pause(scope["query_string"].decode()))
    body = str(os.getpid()).encode()
    headers = [(b"content-type", b"text/plain"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})
