"""What can be wrong with a request's line, headers and framing."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from random import Random

from odd_values import METHODS, ODD_HEADERS, ODD_QUERIES, ODD_SEGMENTS
from raw_http import Request

Damage = Callable[[Request, Random], Request]


def _path(request: Request, chance: Random) -> Request:
    path, separator, query = request.target.partition(b"?")
    parts = path.split(b"/")
    at = chance.randrange(1, len(parts))
    match chance.randrange(3):
        case 0:
            parts.insert(at, chance.choice(ODD_SEGMENTS))
        case 1:
            del parts[at]
        case _:
            parts[at] = chance.choice(ODD_SEGMENTS)
    return replace(request, target=(b"/".join(parts) or b"/") + separator + query)


def _query(request: Request, chance: Random) -> Request:
    path = request.target.partition(b"?")[0]
    return replace(request, target=path + b"?" + chance.choice(ODD_QUERIES))


def _header(request: Request, chance: Random) -> Request:
    name, value = chance.choice(ODD_HEADERS)
    kept = request.headers
    if chance.random() < 0.7:
        kept = tuple(pair for pair in kept if pair[0].lower() != name.lower())
    return replace(request, headers=(*kept, (name, value)))


def _many_headers(request: Request, chance: Random) -> Request:
    number = chance.choice((20, 200, 2000))
    return replace(request, headers=request.headers + ((b"X-A", b"b"),) * number)


def _lost_header(request: Request, chance: Random) -> Request:
    if not request.headers:
        return request
    at = chance.randrange(len(request.headers))
    return replace(request, headers=request.headers[:at] + request.headers[at + 1 :])


def _method(request: Request, chance: Random) -> Request:
    return replace(request, method=chance.choice(METHODS))


def _version(request: Request, chance: Random) -> Request:
    return replace(request, version=chance.choice((b"HTTP/1.0", b"HTTP/0.9", b"HTTP/2", b"JUNK")))


def _absolute(request: Request, chance: Random) -> Request:
    origin = chance.choice((b"http://127.0.0.1", b"https://evil.example:1", b"*", b"x"))
    return replace(request, target=origin + request.target)


def _chunked(request: Request, chance: Random) -> Request:
    body = request.body or b"{}"
    size = b"%x" % len(body)
    size = chance.choice((size, size, size, b"ffffffffffffffff", b"-1", b"zz", size + b";a=b"))
    end = chance.choice((b"\r\n0\r\n\r\n", b"\r\n0\r\nX: y\r\n\r\n", b"0\r\n\r\n", b"\r\nzz\r\n"))
    headers = (*request.headers, (b"Transfer-Encoding", b"chunked"))
    return replace(request, headers=headers, body=size + b"\r\n" + body + end)


def _garbage(request: Request, chance: Random) -> Request:
    whole = bytearray(request.to_bytes())
    end = max(whole.find(b"\r\n\r\n"), 1)
    for _ in range(chance.choice((1, 3, 20))):
        whole[chance.randrange(end)] = chance.randrange(256)
    return request.with_raw(bytes(whole))


def _pipelined(request: Request, chance: Random) -> Request:
    whole = request.to_bytes()
    return request.with_raw(whole * chance.choice((2, 5)) + chance.choice((b"", b"x", b"\r\n\r\n")))


HEAD_DAMAGES: tuple[Damage, ...] = (
    _path,
    _path,
    _query,
    _header,
    _header,
    _header,
    _many_headers,
    _lost_header,
    _method,
    _version,
    _absolute,
    _chunked,
    _garbage,
    _pipelined,
)
