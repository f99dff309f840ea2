"""A client of the chat protocol over TCP, for measurements that need no load generator: one JSON object per line."""

import json
import socket
import time


class Silence(Exception):
    """The server did not answer in time, or hung up."""


class Client:
    """Connected and welcomed."""

    def __init__(self, port, name):
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=PATIENCE_S)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.unread = b""
        self.last_id = 0
        self.ask({"type": "connect", "name": name}, wants="welcome")

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.socket.close()

    def fileno(self):
        return self.socket.fileno()

    def send(self, command):
        """Sends a command and returns its id."""
        self.last_id += 1
        self.socket.sendall(json.dumps(command | {"id": self.last_id}, separators=(",", ":")).encode() + b"\n")
        return self.last_id

    def ask(self, command, wants="ok"):
        """The answer to a command; pushes that come before it are left out."""
        number = self.send(command)
        end = time.monotonic() + PATIENCE_S
        while time.monotonic() < end:
            for event in self.arrived():
                if event.get("id") == number:
                    if event["type"] != wants:
                        raise Silence(f"the server answered {event} to {command}")
                    return event
        raise Silence(f"no answer to {command}")

    def arrived(self):
        """What has arrived, at least a part of a line: whole events only."""
        try:
            part = self.socket.recv(1 << 20)
        except TimeoutError:
            raise Silence("the server says nothing") from None
        if not part:
            raise Silence("the server hung up")
        *lines, self.unread = (self.unread + part).split(b"\n")
        return [json.loads(line) for line in lines if line]


PATIENCE_S = 30
