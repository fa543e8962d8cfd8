"""A worker that speaks Node's cluster protocol as far as listening, and reads nothing from then on."""

import json
import os
import signal
import socket

channel = socket.socket(fileno=int(os.environ["NODE_CHANNEL_FD"]))


def say(**message):
    channel.sendall((json.dumps({"cmd": "NODE_CLUSTER", **message}) + "\n").encode())


server = {"address": "127.0.0.1", "port": int(os.environ["PORT"]), "addressType": 4}
say(act="online", seq=0)
say(act="queryServer", seq=1, index=0, data=None, **server)
while b'"ack":1' not in channel.recv(65536):
    pass
say(act="listening", seq=2, **server)
channel.shutdown(socket.SHUT_RD)
signal.pause()
