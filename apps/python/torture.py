"""What torture.js answers, without WebSocket and HTTP/2, for gunicorn: `gunicorn torture:app`."""

import hashlib
import time

PERIOD = 23
PART = bytes(ord("a") + place % PERIOD for place in range(PERIOD * 4096))


def pattern(count):
    while count > 0:
        yield PART[:count]
        count -= len(PART)


def numbers(count, pause_ms):
    for number in range(count):
        time.sleep(pause_ms / 1000)
        yield b"%d\n" % number


def digest(body):
    sha256 = hashlib.sha256()
    while part := body.read(65536):
        sha256.update(part)
    return sha256.hexdigest().encode()


def app(environ, start_response):
    match environ["PATH_INFO"].split("/")[1:]:
        case ["say", word]:
            headers, body = [("Content-Length", str(len(word)))], [word.encode()]
        case ["bytes", count]:
            headers, body = [("Content-Length", count)], pattern(int(count))
        case ["stream", count, pause_ms]:
            headers, body = [], numbers(int(count), int(pause_ms))
        case ["upload"]:
            text = digest(environ["wsgi.input"])
            headers, body = [("Content-Length", str(len(text)))], [text]
        case _:
            start_response("404 Not Found", [("Content-Length", "0")])
            return []
    start_response("200 OK", headers)
    return body
