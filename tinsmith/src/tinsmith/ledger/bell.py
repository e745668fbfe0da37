"""The doorbell beside the ledger: front and engine tell each other that there is something to read.

A message carries no truth: whoever misses one finds everything in the ledger. JSON over a
loopback connection that authenticates both ends (multiprocessing.connection); nothing is pickled.
"""

from __future__ import annotations

import json
import secrets
import socket
import threading
from multiprocessing.connection import Client, Connection, Listener
from typing import Any

Message = dict[str, Any]


class Bell:
    """One end of a connection. `ring` may be called from any thread, `listen` from one."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._sending = threading.Lock()
        # Small messages in a row: the second would wait 40 ms for word that the first has come.
        with socket.fromfd(connection.fileno(), socket.AF_INET, socket.SOCK_STREAM) as same:
            same.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    @classmethod
    def connect(cls, port: int, key: str) -> Bell:
        """Raises ConnectionError or multiprocessing.AuthenticationError."""
        return cls(Client(("127.0.0.1", port), authkey=bytes.fromhex(key)))

    def ring(self, kind: str, **fields: Any) -> bool:
        """Send a message; False if nobody is there any more."""
        data = json.dumps({"kind": kind, **fields}).encode()
        try:
            with self._sending:
                self._connection.send_bytes(data)
        except OSError:
            return False
        return True

    def listen(self, timeout_s: float | None) -> Message | None:
        """The next message, or None if none came in time (None waits for ever).

        Raises:
            EOFError: the other end is gone.
        """
        try:
            if not self._connection.poll(timeout_s):
                return None
            return json.loads(self._connection.recv_bytes())
        except OSError as error:
            raise EOFError from error

    def close(self) -> None:
        self._connection.close()


class BellListener:
    """Where one engine connects to: a free loopback port and a key made for it."""

    def __init__(self) -> None:
        self.key = secrets.token_hex(32)
        self._listener = Listener(("127.0.0.1", 0), authkey=bytes.fromhex(self.key))
        self.port = int(self._listener.address[1])

    def accept(self) -> Bell:
        """Wait for the engine. Raises OSError once closed, AuthenticationError for a stranger."""
        return Bell(self._listener.accept())

    def close(self) -> None:
        self._listener.close()
