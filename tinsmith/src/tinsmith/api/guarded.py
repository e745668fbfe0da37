"""What holds for every request before anybody reads it, and for every answer."""

from __future__ import annotations

import re

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from tinsmith.api.errors import refusal
from tinsmith.domain.errors import BusyError

HOST = re.compile(r"[\w.-]{1,253}(:\d{1,5})?|\[[0-9A-Fa-f:.]{2,45}\](:\d{1,5})?", re.ASCII)
MAX_HEAD_BYTES = 16 * 2**10
MAX_HEADERS = 100
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

        refused = _refused(scope)
        try:
            if refused is not None:
                await refused(scope, receive, mark)
            else:
                await self._app(scope, count, mark)
        finally:
            self._num_bytes -= received


def _refused(scope: Scope) -> Response | None:
    """The answer to a head that is too large or misshapen."""
    headers = scope["headers"]
    size = len(scope["raw_path"]) + len(scope["query_string"])
    # h11 bounds only heads that come in pieces.
    if size + sum(len(name) + len(value) for name, value in headers) > MAX_HEAD_BYTES:
        return refusal(431, f"the request's head is larger than {MAX_HEAD_BYTES} bytes")
    if len(headers) > MAX_HEADERS:
        return refusal(431, f"the request has more than {MAX_HEADERS} headers")
    host = Headers(scope=scope).get("host")
    if host is not None and not HOST.fullmatch(host):
        return refusal(400, "the Host header is malformed; it is a name or an address, with a port")
    # Databases can't store it, and nothing that has a name here has one with it.
    if "\0" in scope["path"] or b"%00" in scope["query_string"]:
        return refusal(400, "the address holds a NUL character")
    return None
