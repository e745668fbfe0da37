"""Domain errors -> HTTP statuses, chosen by what the SDK does on each status.

On most calls the SDK repeats 408, 409, 429 and 5xx for about five minutes and raises on everything
else. Two calls differ. A poll that gets 5xx is sent again at once, without end; on 429 it backs off
up to 30 s. A sample that gets 5xx is repeated silently for hours. So neither is ever answered 5xx,
and 409 is used nowhere.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response

from tinsmith.api.wire.compression import TooLargeError
from tinsmith.domain.errors import (
    AccessError,
    BusyError,
    ForbiddenError,
    InvalidInputError,
    NotFoundError,
    ServiceError,
    StorageError,
    UserError,
)
from tinsmith.service.futures import ResultGoneError
from tinsmith.service.tokens import TokenRejectedError
from tinsmith.telemetry import failure

POLL_PATH = "/api/v1/retrieve_future"
SAMPLE_PATH = "/api/v1/asample"


@dataclass(frozen=True, slots=True)
class Status:
    code: int
    on_poll: int | None = None
    """For retrieve_future; None: `code`."""
    on_sample: int | None = None
    """For asample; None: `code`."""


STATUSES: dict[type[Exception], Status] = {
    TooLargeError: Status(413),
    InvalidInputError: Status(400),
    AccessError: Status(401),
    ForbiddenError: Status(403),
    ResultGoneError: Status(410),  # a sample is submitted again under a new number
    NotFoundError: Status(404),
    UserError: Status(422),  # SequenceReusedError and kin: well formed, but it cannot be
    BusyError: Status(429),
    StorageError: Status(503, on_poll=429, on_sample=422),
    ServiceError: Status(503, on_poll=429, on_sample=422),
    Exception: Status(500, on_poll=422, on_sample=422),  # a bug of ours: repeating won't heal it
}


def status_of(error: Exception, path: str) -> int:
    status = next(STATUSES[kind] for kind in type(error).__mro__ if kind in STATUSES)
    if path == POLL_PATH and status.on_poll is not None:
        return status.on_poll
    if path == SAMPLE_PATH and status.on_sample is not None:
        return status.on_sample
    return status.code


def refusal(code: int, detail: str) -> JSONResponse:
    """The body that the SDK shows to its user; a 400 without one is taken for a broken proxy."""
    return JSONResponse({"detail": writable(detail)}, status_code=code)


def writable(text: str) -> str:
    """Without the half surrogates that JSON can spell and a refusal may quote."""
    return text.encode("utf-8", "replace").decode()


def when_to_repeat(error: Exception) -> dict[str, str]:
    """The header that says it, if it is known; the SDK heeds up to a minute."""
    after_s = error.retry_after_s if isinstance(error, BusyError) else None
    return {} if after_s is None else {"Retry-After": str(math.ceil(after_s))}


async def answer_domain_error(request: Request, error: Exception) -> Response:
    path = request.url.path
    if isinstance(error, ServiceError) and not isinstance(error, BusyError):
        failure("request_failed", error, path=path)
    answer = refusal(status_of(error, path), str(error))
    answer.headers.update(when_to_repeat(error))
    if isinstance(error, TokenRejectedError):  # the SDK then exchanges its key once, and repeats
        answer.headers["WWW-Authenticate"] = 'Bearer error="invalid_token"'
    return answer


async def answer_bug(request: Request, error: Exception) -> Response:
    """Anything unforeseen. Starlette re-raises it afterwards, and the server logs the traceback."""
    return refusal(
        status_of(error, request.url.path),
        "the server failed at this request; its log says why",
    )


async def answer_http_error(request: Request, error: Exception) -> Response:
    """What the router itself refuses: unknown paths and methods."""
    assert isinstance(error, HTTPException)
    call = f"{request.method} {request.url.path}"
    if error.status_code == 404:
        detail = (
            f"this server has no call {call}; docs/reference/compatibility.md lists those of the "
            "tinker SDK 0.38 and what becomes of each"
        )
    elif error.status_code == 405:
        allowed = (error.headers or {}).get("Allow", "other methods")
        detail = f"this server has no call {call}; this path takes {allowed}"
    else:
        detail = error.detail
    return refusal(error.status_code, detail)


async def answer_nobody(request: Request, error: Exception) -> Response:
    """The client left in the middle of its request."""
    assert isinstance(error, ClientDisconnect)
    return Response(status_code=400)
