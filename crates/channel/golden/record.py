#!/usr/bin/env python3
"""Records what real Node writes to its channels, for the tests of the channel crate.

    record.py NODE OUT        run a Node binary as worker and as primary, write OUT/*.jsonl
    record.py as-worker FILE  (a Node primary starts this in place of node) write to FILE what it sends

A file holds the lines of one side, byte for byte. Everything a recording depends on is in this folder.
"""

import json
import os
import re
import socket
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
PATIENCE_SECONDS = 20


class Channel:
    """One end of a channel: whole lines, each with the descriptors that came by then."""

    def __init__(self, end):
        self.socket = end
        self.socket.settimeout(PATIENCE_SECONDS)
        self.seq = 0

    def send(self, message, fd=None):
        data = json.dumps(message, separators=(",", ":")).encode() + b"\n"
        socket.send_fds(self.socket, [data], [] if fd is None else [fd])

    def cluster(self, passing=None, kind="net.Native", **fields):
        message = {"cmd": "NODE_CLUSTER", **fields, "seq": self.seq}
        self.seq += 1
        if passing is not None:
            message = {"cmd": "NODE_HANDLE", "type": kind, "msg": message}
        self.send(message, passing)

    def lines(self):
        rest = b""
        while True:
            try:
                data, fds, _flags, _address = socket.recv_fds(self.socket, 65536, 16)
            except ConnectionResetError:
                return
            for fd in fds:
                os.close(fd)
            if not data:
                return
            *whole, rest = (rest + data).split(b"\n")
            for line in whole:
                message = json.loads(line)
                if isinstance(message, dict) and message.get("cmd") == "NODE_HANDLE":
                    self.send({"cmd": "NODE_HANDLE_ACK"})
                yield line + b"\n", message


def record_worker(node, scenario, out):
    """Is a foreign primary for one Node worker and writes down what the worker says."""
    ours, theirs = socket.socketpair()
    environment = {
        "PATH": os.environ["PATH"],
        "NODE_CHANNEL_FD": str(theirs.fileno()),
        "NODE_UNIQUE_ID": "1",
    }
    worker = subprocess.Popen(
        [node, HERE / "worker.js", scenario], env=environment, pass_fds=[theirs.fileno()], cwd="/tmp"
    )
    theirs.close()
    channel = Channel(ours)
    key = "k"
    with open(out / f"worker-{scenario}.jsonl", "wb") as file:
        for line, message in channel.lines():
            file.write(line)
            if not isinstance(message, dict):
                if message == "closed":
                    hand_over(channel, key)
                continue
            if message.get("cmd", "") in ("NODE_SOCKET_GET_COUNT", "NODE_SOCKET_NOTIFY_CLOSE"):
                answer(channel, message)
            if message.get("cmd") != "NODE_CLUSTER":
                continue
            match message.get("act"):
                case "queryServer":
                    key = f"k{message['seq']}"
                    reply_to_query(channel, message, key)
                case "listening" if scenario == "connection":
                    hand_over(channel, key)
                case "listening" if scenario == "disconnected":
                    channel.cluster(act="disconnect")
                case "exitedAfterDisconnect":
                    channel.cluster(ack=message["seq"])
                case None if message.get("accepted") is False:
                    channel.send("leave")
    ours.close()
    if worker.wait(PATIENCE_SECONDS) != 0:
        sys.exit(f"{node} {scenario}: exit {worker.returncode}")


def reply_to_query(channel, message, key):
    reply = {"errno": 0, "key": key, "ack": message["seq"], "data": message["data"]}
    kind = str(message.get("addressType"))
    if message.get("fd", -1) not in (-1, None):
        channel.cluster(**{**reply, "errno": -22})
    elif kind.startswith("udp"):
        family = socket.AF_INET6 if kind == "udp6" else socket.AF_INET
        with socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as shared:
            shared.bind((message["address"], int(message.get("port") or 0)))
            channel.cluster(passing=shared.fileno(), kind="dgram.Native", **reply)
    elif kind == "-1":
        channel.cluster(**reply)
    else:
        sockname = {"address": "::", "family": "IPv6", "port": message["port"] or 49152}
        channel.cluster(**reply, sockname=sockname)


def hand_over(channel, key):
    with socket.create_server(("127.0.0.1", 0)) as server:
        client = socket.create_connection(server.getsockname())
        connection, _address = server.accept()
    connection.setblocking(False)
    channel.cluster(passing=connection.fileno(), act="newconn", key=key)
    connection.close()
    client.close()


def answer(channel, message):
    if message["cmd"] == "NODE_SOCKET_GET_COUNT":
        channel.send({"cmd": "NODE_SOCKET_COUNT", "key": message["key"], "count": 0})
    else:
        channel.send({"cmd": "NODE_SOCKET_ALL_CLOSED", "key": message["key"]})


def be_worker(out):
    """Goes through everything that a Node primary can be made to say."""
    channel = Channel(socket.socket(fileno=int(os.environ["NODE_CHANNEL_FD"])))
    channel.cluster(act="online")
    query = {"index": 0, "data": None, "address": "127.0.0.1", "port": 0, "addressType": 4, "backlog": 0}
    questions = [
        dict(query, address=None, data={"ticketKeys": "00" * 48}),
        dict(query, address="203.0.113.1"),
        dict(query, address=f"{out}.sock", port=-1, addressType=-1),
        {"index": 0, "data": None, "address": "127.0.0.1", "port": 0, "addressType": "udp4", "fd": -1, "flags": 0},
        dict(query),
    ]
    clients = []
    with open(out, "wb") as file:
        channel.cluster(act="queryServer", **questions.pop(0))
        for line, message in channel.lines():
            file.write(line)
            if not isinstance(message, dict):
                continue
            if message.get("cmd") == "NODE_HANDLE":
                message = message["msg"]
            if message.get("act") == "newconn":
                channel.cluster(ack=message["seq"], accepted=True)
                channel.send("user")
            elif "errno" in message and questions:
                channel.cluster(act="queryServer", **questions.pop(0))
            elif "errno" in message and "sockname" in message:
                clients.append(socket.create_connection(("127.0.0.1", message["sockname"]["port"])))
            elif "errno" in message:
                channel.send("user")
            elif message.get("a") == 1:
                channel.send("socket")
            elif message.get("a") == "socket":
                channel.send("disconnect")
            elif message.get("cmd") == "NODE_SOCKET_GET_COUNT":
                answer(channel, message)
            elif message.get("cmd") == "NODE_SOCKET_NOTIFY_CLOSE":
                answer(channel, message)
            elif message.get("act") == "disconnect":
                channel.cluster(act="exitedAfterDisconnect")
            elif "ack" in message and message["ack"] == channel.seq - 1:
                return


def record_primary(node, policy, out):
    file = Path("/tmp") / f"golden-{policy}.jsonl"
    arguments = [node, HERE / "primary.js", HERE / "record.py", file, policy]
    subprocess.run(arguments, check=True, timeout=PATIENCE_SECONDS)
    (out / f"primary-{policy}.jsonl").write_bytes(file.read_bytes())
    file.unlink()


def main():
    if sys.argv[1] == "as-worker":
        be_worker(sys.argv[2])
        return
    node, out = sys.argv[1], Path(sys.argv[2])
    out.mkdir(parents=True, exist_ok=True)
    for scenario in re.findall(r"^  '([a-z0-9-]+)': ", (HERE / "worker.js").read_text(), re.MULTILINE):
        record_worker(node, scenario, out)
    for policy in ("rr", "none"):
        record_primary(node, policy, out)


main()
