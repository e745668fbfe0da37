"""Polling for results. The client never pauses between polls, so each is held here."""

from __future__ import annotations

import math

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from tinsmith.api.errors import refusal
from tinsmith.api.front import Front, caller_of, front_of, in_thread, read_fields
from tinsmith.api.wire.fields import Fields
from tinsmith.api.wire.futures import write_outcome, write_try_again
from tinsmith.domain.errors import NotFoundError
from tinsmith.domain.records import Caller
from tinsmith.service.quotas import Pause

PROTOBUF = "application/x-protobuf"
SAMPLER_MARK = ":sample:"


async def retrieve_future(request: Request) -> Response:
    caller, front = caller_of(request), front_of(request)
    request_id = (await read_fields(request)).text("request_id")
    try:
        with front.waiting.seat(caller.owner):
            outcome = await front.service.futures.wait(caller, request_id, front.poll_hold_s)
    except NotFoundError as error:
        if _is_of_a_sample(request, request_id):
            return refusal(410, str(error))  # the SDK submits the sample again
        raise
    if outcome is None:
        pause = await in_thread(_pause, front, caller)
        return JSONResponse(write_try_again(request_id, pause), status_code=408)
    answer = await in_thread(write_outcome, outcome)
    if isinstance(answer, bytes):
        return Response(answer, media_type=PROTOBUF)
    return JSONResponse(answer)


def _pause(front: Front, caller: Caller) -> Pause | None:
    if not front.is_healthy():
        return Pause("paused_capacity", "a model of this server is being loaded or restarted")
    return front.service.quotas.pause(caller.owner)


def _is_of_a_sample(request: Request, request_id: str) -> bool:
    kind = request.headers.get("x-tinker-request-type")
    return kind == "Sample" if kind else SAMPLER_MARK in request_id


async def retrieve_futures(request: Request) -> Response:
    """Which samples of a client are done. What came of them is read one by one."""
    caller, front = caller_of(request), front_of(request)
    fields = await read_fields(request)
    target = fields.object_or("target", Fields({}, "target."))
    hold_s = fields.number_or("timeout", front.poll_hold_s)
    if math.isnan(hold_s):
        raise fields.refuse("timeout", "a number of seconds")
    with front.waiting.seat(caller.owner):
        done, cursor = await front.service.completions.after(
            caller,
            target.text("sampling_session_id"),
            target.integer_or("cloned_sampler_id", 0),
            fields.integer_or("prev_cursor", 0),
            min(max(hold_s, 0.0), front.poll_hold_s),
        )
    # Failures are "finished" as well: they have a result to read, which says why.
    completions = [{"state": "finished", "request_id": request_id} for request_id in done]
    return JSONResponse({"completions": completions, "cursor": cursor})


async def cancel_future(request: Request) -> Response:
    """Of samples only: a training op that were left out would change what the later ones do."""
    caller, futures = caller_of(request), front_of(request).service.futures
    request_id = (await read_fields(request)).text("request_id")
    await in_thread(futures.cancel, caller, request_id)
    front_of(request).service.completions.wake([request_id])
    return JSONResponse({})
