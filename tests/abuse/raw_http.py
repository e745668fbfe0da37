"""HTTP as nobody's library would send it, and answers read with patience but not for ever."""

from __future__ import annotations

import asyncio
import base64
import ssl
from dataclasses import dataclass, field, replace
from urllib.parse import urlsplit

PATIENCE_S = 120.0
"""A server that has neither answered nor hung up by then is said to hang."""

Headers = tuple[tuple[bytes, bytes], ...]


@dataclass(frozen=True, slots=True)
class Request:
    method: bytes
    target: bytes
    headers: Headers = ()
    body: bytes = b""
    version: bytes = b"HTTP/1.1"
    raw: bytes | None = field(default=None, repr=False)
    """Sent instead of all that."""

    def to_bytes(self) -> bytes:
        if self.raw is not None:
            return self.raw
        names = {name.lower() for name, _ in self.headers}
        headers = self.headers
        if b"host" not in names and self.version != b"HTTP/1.0":
            headers += ((b"Host", b"127.0.0.1"),)
        if not names & {b"content-length", b"transfer-encoding"} and self.body:
            headers += ((b"Content-Length", str(len(self.body)).encode()),)
        head = b" ".join((self.method, self.target, self.version))
        lines = [head, *(name + b": " + value for name, value in headers)]
        return b"\r\n".join([*lines, b"", self.body])

    def with_raw(self, raw: bytes) -> Request:
        return replace(self, raw=raw)

    def shown(self) -> str:
        """For a person, and for a shell that shall send it again."""
        data = self.to_bytes()
        encoded = base64.b64encode(data).decode()
        return f"{data[:2000]!r}\nsend again: echo {encoded} | base64 -d | nc HOST PORT"


@dataclass(frozen=True, slots=True)
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes


class HangError(AssertionError):
    pass


async def ask(url: str, request: Request, tls: ssl.SSLContext | None = None) -> Answer | None:
    """The answer on a connection of its own; None if the server hung up without one.

    Raises:
        HangError: neither, for `PATIENCE_S` seconds.
    """
    place = urlsplit(url)
    try:
        async with asyncio.timeout(PATIENCE_S):
            reader, writer = await asyncio.open_connection(
                place.hostname, place.port, ssl=tls, limit=2**24
            )
            try:
                writer.write(request.to_bytes())
                return await _answer(reader, has_body=request.method != b"HEAD")
            except (ConnectionError, asyncio.IncompleteReadError):
                return None
            finally:
                writer.transport.abort()
    except TimeoutError:
        raise HangError(f"no answer after {PATIENCE_S} s to {request.shown()}") from None


async def _answer(reader: asyncio.StreamReader, *, has_body: bool) -> Answer:
    status, headers = 100, {}
    while status < 200:  # 100 Continue comes before the answer
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        status = int(head[0].split()[1])
        pairs = (line.partition(":") for line in head[1:] if line)
        headers = {name.strip().lower(): value.strip() for name, _, value in pairs}
    if not has_body or status in (204, 304):
        return Answer(status, headers, b"")
    if headers.get("transfer-encoding") == "chunked":
        return Answer(status, headers, await _chunks(reader))
    if "content-length" in headers:
        return Answer(status, headers, await reader.readexactly(int(headers["content-length"])))
    return Answer(status, headers, await reader.read())


async def _line(reader: asyncio.StreamReader) -> bytes:
    line = await reader.readline()
    if not line:
        raise ConnectionError("hung up in the middle of an answer")
    return line


async def _chunks(reader: asyncio.StreamReader) -> bytes:
    body = b""
    while size := int(await _line(reader), 16):
        body += await reader.readexactly(size)
        await reader.readline()
    return body
