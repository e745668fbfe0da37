"""Polling for results. The client never pauses between polls, so each is held here."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from tinsmith.api.errors import refusal
from tinsmith.api.front import caller_of, front_of, in_thread, read_fields
from tinsmith.api.wire.futures import write_outcome, write_try_again
from tinsmith.domain.errors import NotFoundError

PROTOBUF = "application/x-protobuf"
SAMPLER_MARK = ":sample:"


async def retrieve_future(request: Request) -> Response:
    caller, front = caller_of(request), front_of(request)
    request_id = (await read_fields(request)).text("request_id")
    try:
        outcome = await front.service.futures.wait(caller, request_id, front.poll_hold_s)
    except NotFoundError as error:
        if _is_of_a_sample(request, request_id):
            return refusal(410, str(error))  # the SDK submits the sample again
        raise
    if outcome is None:
        is_healthy = await in_thread(front.is_healthy)
        return JSONResponse(write_try_again(request_id, is_healthy=is_healthy), status_code=408)
    answer = await in_thread(write_outcome, outcome)
    if isinstance(answer, bytes):
        return Response(answer, media_type=PROTOBUF)
    return JSONResponse(answer)


def _is_of_a_sample(request: Request, request_id: str) -> bool:
    kind = request.headers.get("x-tinker-request-type")
    return kind == "Sample" if kind else SAMPLER_MARK in request_id


async def cancel_future(request: Request) -> Response:
    """Of samples only: a training op that were left out would change what the later ones do."""
    caller, futures = caller_of(request), front_of(request).service.futures
    await in_thread(futures.cancel, caller, (await read_fields(request)).text("request_id"))
    return JSONResponse({})
