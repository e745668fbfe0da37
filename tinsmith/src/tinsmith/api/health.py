"""What watchdogs ask, without a key: does the server live, and do its models answer?"""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from tinsmith.api.front import front_of, in_thread


async def alive(request: Request) -> Response:
    """200 as long as requests are answered at all. Looks at nothing: neither a busy disk nor a
    model that is being loaded is a reason to start the server again."""
    return JSONResponse({"status": "ok"})


async def ready(request: Request) -> Response:
    """200 while every model answers, and else which one does not."""
    missing = [name for name, state in front_of(request).engines().items() if not state.is_ready]
    if not missing:
        return JSONResponse({"status": "ok"})
    return JSONResponse({"status": "unavailable", "not_ready": missing}, status_code=503)


async def healthz(request: Request) -> Response:
    """The same as the SDK asks it, in the words of the Tinker API."""
    if await in_thread(front_of(request).is_healthy):
        return JSONResponse({"status": "ok"})
    return JSONResponse(
        {"status": "unavailable", "detail": "a model is not ready to answer; ask again"},
        status_code=503,
    )
