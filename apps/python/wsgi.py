"""A WSGI application for gunicorn: `gunicorn wsgi:app`."""

import json
import os


def app(environ, start_response):
    body = json.dumps({"pid": os.getpid(), "url": environ["PATH_INFO"]}).encode()
    start_response("200 OK", [("Content-Type", "application/json"), ("Content-Length", str(len(body)))])
    return [body]
