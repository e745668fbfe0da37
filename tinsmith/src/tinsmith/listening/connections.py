"""An HTTP connection that waits for its client only so long.

uvicorn ends connections that idle between two requests, and h11 bounds a request's head to 16 KiB.
Neither looks at the clock while a head, a body or an answer is on its way.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from tinsmith.config import Http
from tinsmith.telemetry import event

MIN_BYTES_PER_S = 1024
"""What a client must send of a request that it has begun."""
SPARE_CONNECTIONS = 64
"""Beyond the limit so many are still told why they are sent away."""
TOO_MANY = b'{"detail":"this server has as many connections as it takes; wait and repeat"}'


class BoundedConnection(H11Protocol):
    """Looks every `http.slow_client_s` seconds whether the client has kept it waiting since the
    last look, and then hangs up: at a head or a body that trickles, at an answer that is not
    read, at a closed connection with something left to send.
    """

    http: Http
    """Set by a subclass."""

    def __init__(self, *args: Any, **settings: Any) -> None:
        super().__init__(*args, **settings)
        self._next_look: asyncio.TimerHandle | None = None
        self._num_received = 0
        self._num_pauses = 0
        self._waited_for: tuple[str, int] | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        too_many = len(self.connections) - self.http.max_connections
        if too_many > SPARE_CONNECTIONS:
            transport.abort()
            return
        if too_many > 0:
            self.app = _too_many
        self._look()

    def connection_lost(self, exc: Exception | None) -> None:
        if self._next_look is not None:
            self._next_look.cancel()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        self._num_received += len(data)
        super().data_received(data)

    def pause_writing(self) -> None:
        self._num_pauses += 1
        super().pause_writing()

    def send_400_response(self, msg: str) -> None:
        """For what can't be parsed. If it is the body of a request, nothing else is answered to
        that: this is its answer, or the one that has begun is cut off."""
        is_head = False
        if self.cycle is not None:
            self.cycle.disconnected = True
            self.cycle.message_event.set()
            is_head = self.cycle.scope["method"] == "HEAD"  # whose answer has no body
        if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE) and not is_head:
            super().send_400_response(msg)
        else:
            self.transport.close()

    def _should_upgrade(self) -> bool:
        return False  # there are no web sockets here, and nothing to log about who asks for them

    def _look(self) -> None:
        every_s = self.http.slow_client_s
        before, self._waited_for = self._waited_for, self._waits_for()
        received, self._num_received = self._num_received, 0
        is_stuck = self._waited_for is not None and self._waited_for == before
        if is_stuck and received < MIN_BYTES_PER_S * every_s:
            event("slow_client", level=logging.WARNING, at=before and before[0])
            self.transport.abort()
            return
        self._next_look = self.loop.call_later(every_s, self._look)

    def _waits_for(self) -> tuple[str, int] | None:
        """What the client owes us, and of which request; None if it is not its turn."""
        if self.transport.is_closing():
            return "end", 0
        if self.flow.write_paused:
            return "answer", self._num_pauses
        if self.flow.read_paused or self.conn.they_are_waiting_for_100_continue:
            return None
        if self.conn.their_state is h11.SEND_BODY:
            return "body", id(self.cycle)
        is_in_head = self.cycle is None or self.conn.trailing_data[0]
        if self.conn.their_state is h11.IDLE and is_in_head:
            return "head", id(self.cycle)
        return None


async def _too_many(scope: Any, receive: Any, send: Any) -> None:
    """429, on which the SDK waits and repeats."""
    headers = [(b"content-type", b"application/json"), (b"connection", b"close")]
    await send({"type": "http.response.start", "status": 429, "headers": headers})
    await send({"type": "http.response.body", "body": TOO_MANY})
