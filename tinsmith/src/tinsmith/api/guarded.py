"""What holds for every request before anybody reads it, and for every answer."""

from __future__ import annotations

import re

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from tinsmith.api.errors import refusal
from tinsmith.domain.errors import BusyError

HOST = re.compile(r"[\w.-]{1,253}(:\d{1,5})?|\[[0-9A-Fa-f:.]{2,45}\](:\d{1,5})?", re.ASCII)
ANSWER_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
    "Referrer-Policy": "no-referrer",  # signed URLs are not to be told to other sites
    "Cache-Control": "no-store",
}
"""For answers that say nothing else: none is a page, and most are about somebody's own things."""


class Guarded:
    """ASGI middleware: refuses what is misshapen, and bounds what all bodies take together."""

    def __init__(self, app: ASGIApp, *, max_bodies_bytes: int) -> None:
        self._app = app
        self._max_bytes = max_bodies_bytes
        self._num_bytes = 0
        """Received of the requests that are in work."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        received = 0

        async def count(message_of: Receive = receive) -> Message:
            nonlocal received
            message = await message_of()
            size = len(message.get("body", b""))
            received += size
            self._num_bytes += size
            if self._num_bytes > self._max_bytes:
                raise BusyError("this server holds as many request bodies as it may; repeat later")
            return message

        async def mark(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in ANSWER_HEADERS.items():
                    headers.setdefault(name, value)
            await send(message)

        misshapen = _misshapen(scope)
        try:
            if misshapen is not None:
                await refusal(400, misshapen)(scope, receive, mark)
            else:
                await self._app(scope, count, mark)
        finally:
            self._num_bytes -= received


def _misshapen(scope: Scope) -> str | None:
    host = Headers(scope=scope).get("host")
    if host is not None and not HOST.fullmatch(host):
        return "the Host header is malformed; it must be a name or an address, and perhaps a port"
    # Databases can't store it, and nothing that has a name here has one with it.
    if "\0" in scope["path"] or b"%00" in scope["query_string"]:
        return "the address holds a NUL character"
    return None
