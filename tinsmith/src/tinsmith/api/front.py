"""What every handler works with: the service, the caller, the body."""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import ParamSpec, TypeVar

from anyio import CapacityLimiter, to_thread
from prometheus_client import CollectorRegistry
from starlette.requests import Request

from tinsmith.api.waiting import WaitingRoom
from tinsmith.api.wire.compression import TooLargeError, inflate
from tinsmith.api.wire.fields import Fields
from tinsmith.config import Limits
from tinsmith.domain.engine_report import EngineState
from tinsmith.domain.errors import InvalidInputError
from tinsmith.domain.records import Caller
from tinsmith.service.service import Service

_P = ParamSpec("_P")
_T = TypeVar("_T")

DRAINED_TIMES_LIMIT = 4
MAX_PAGE = 10_000
SMALL_BYTES = 8 * 2**10
"""Bodies that are read sooner than a thread has woken up."""
LARGE_BYTES = 2**20
LARGE_THREADS = 2


@dataclass(frozen=True, slots=True)
class Front:
    service: Service
    is_healthy: Callable[[], bool]
    """Whether every model answers; may block."""
    limits: Limits
    loopback: bool
    """Whether callers from this machine's own addresses count as local."""
    poll_hold_s: float
    engines: Callable[[], Mapping[str, EngineState]]
    """The newest states by base model; does not block."""
    registry: CollectorRegistry
    """What /metrics tells."""
    waiting: WaitingRoom
    public_url: str
    """The address from outside; empty: what the client calls us."""
    large_bodies: CapacityLimiter
    """Threads that unpack large bodies, so that they leave some to everybody else, and memory."""


def front_of(request: Request) -> Front:
    return request.app.state.front


async def in_thread(work: Callable[_P, _T], *args: _P.args, **kwargs: _P.kwargs) -> _T:
    """Run blocking work (the service, decoding of large bodies) off the event loop."""
    return await to_thread.run_sync(partial(work, *args, **kwargs))


async def admit(request: Request, key: str | None, *, may_be_silent: bool = False) -> None:
    """Find out who is asking; `caller_of` knows it from then on. Raises AccessError."""
    access = front_of(request).service.access
    ask = partial(access.authenticate, key, is_local(request), may_be_silent=may_be_silent)
    request.state.caller = ask() if access.answers_at_once(key) else await in_thread(ask)


def caller_of(request: Request) -> Caller:
    """Who is asking, once admitted."""
    return request.state.caller


def is_local(request: Request) -> bool:
    """Whether somebody on this machine asks, as far as that can be told."""
    return front_of(request).loopback and _is_from_this_machine(request)


def _is_from_this_machine(request: Request) -> bool:
    """Whether the connection is local and the client called us by a loopback name.

    The name matters: a web page can point a host name of its own at 127.0.0.1 and then talk to us
    as if we were its own server. Its requests carry that name in `Host`.
    """
    address = request.client.host if request.client else ""
    host = (request.url.hostname or "").rstrip(".").lower()
    named_local = host == "localhost" or host.endswith(".localhost") or _is_loopback(host)
    return named_local and _is_loopback(address)


def _is_loopback(address: str) -> bool:
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return False
    mapped = getattr(parsed, "ipv4_mapped", None)
    return (mapped or parsed).is_loopback


async def unpack(request: Request, body: bytes, work: Callable[[], _T]) -> _T:
    """Run work that goes through a body, off the event loop unless the body is a small one."""
    if len(body) <= SMALL_BYTES:
        return work()
    is_large = len(body) > LARGE_BYTES
    limiter = front_of(request).large_bodies if is_large else None
    return await to_thread.run_sync(work, limiter=limiter)


async def read_body(request: Request, max_bytes: int | None = None) -> bytes:
    """The body, decompressed; of at most limits.max_body_bytes unless said otherwise.

    Raises:
        TooLargeError: it exceeds the limit. It is read to its end nevertheless, up to a point: a
            client that is still sending would see a broken connection instead of the refusal,
            and would start again.
        InvalidInputError: it can't be decompressed.
    """
    limit = front_of(request).limits.max_body_bytes if max_bytes is None else max_bytes
    parts, size = [], 0
    async for part in request.stream():
        size += len(part)
        if size <= limit:
            parts.append(part)
        elif size > DRAINED_TIMES_LIMIT * limit:
            break
        else:
            parts.clear()
    if size > limit:
        raise TooLargeError(limit)
    body = b"".join(parts)
    encoding = request.headers.get("content-encoding")
    if encoding is None:
        return body
    unpacked = partial(inflate, body, encoding, limit)
    return await to_thread.run_sync(unpacked, limiter=front_of(request).large_bodies)


async def read_fields(request: Request) -> Fields:
    """The JSON object in the body. Raises InvalidInputError."""
    body = await read_body(request, front_of(request).limits.max_json_bytes)
    return await unpack(request, body, partial(Fields.parse, body))


def page_of(request: Request, *, default_limit: int = 20) -> tuple[int, int]:
    """(limit, offset) from the query. Raises InvalidInputError."""
    return (
        _query_integer(request, "limit", default_limit, MAX_PAGE),
        _query_integer(request, "offset", 0, 2**62),
    )


def _query_integer(request: Request, name: str, default: int, high: int) -> int:
    text = request.query_params.get(name)
    if text is None:
        return default
    if not (text.isascii() and text.isdigit() and len(text) < 20 and int(text) <= high):
        raise InvalidInputError(f"{name} must be an integer from 0 to {high}, got {text[:40]!r}")
    return int(text)
